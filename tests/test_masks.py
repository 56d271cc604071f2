"""Masks: readable expected values, slow references, round trips, real polygons, RoIAlign."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from symnet.geometry import masks as masks_module
from symnet.geometry.masks import (
    decode,
    encode,
    flip_masks,
    mini_masks,
    pack,
    paste,
    paste_rle,
    rasterise,
    roi_masks,
    unpack,
)
from symnet.machine import mx

SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]
SIDES = st.integers(1, 40)


def blobs(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Masks (count, height, width) of ellipses with holes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    out = []
    for _ in range(count):
        centre, radius = rng.uniform(0, (height, width)), rng.uniform(0.1, 0.5, 2) * (height, width)
        away = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2
        out.append((away < 1) & (away > 0.1))
    return np.array(out)


def random_rois(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Boxes, some of them tiny, inverted, or crossing the border."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-0.2, 1.2, (count, 2, 2)) * (width, height)
    rois = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    rois[::5, 2:] = rois[::5, :2] + rng.uniform(-1, 1, (len(rois[::5]), 2))
    return rois.astype(np.float32)


def whole(masks: np.ndarray) -> np.ndarray:
    """The frames of full-size masks."""
    return np.tile(np.float32([0, 0, masks.shape[2], masks.shape[1]]), (len(masks), 1))


# Segmentations


def test_a_square_of_polygon_and_rle():
    want = np.zeros((5, 8), bool)
    want[1:4, 2:6] = True
    np.testing.assert_array_equal(decode(SQUARE, 5, 8), want)
    columns = {"size": [5, 8], "counts": [11, 3, 2, 3, 2, 3, 2, 3, 11]}
    np.testing.assert_array_equal(decode(columns, 5, 8), want)
    assert encode(want) == coco_masks_text(columns)
    joined = decode([*SQUARE, [0, 0, 1, 0, 1, 5, 0, 5]], 5, 8)
    np.testing.assert_array_equal(joined[:, 1:], want[:, 1:])
    assert joined[:, 0].all()


def coco_masks_text(rle: dict) -> dict:
    packed = coco_masks.frPyObjects(rle, *rle["size"])
    return {"size": rle["size"], "counts": packed["counts"].decode()}


@given(st.integers(0, 10**6), SIDES, SIDES, st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_encode_and_decode_are_inverse_and_pycocotools_own(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = json.loads(json.dumps(encode(mask)))
    np.testing.assert_array_equal(decode(rle, height, width), mask)
    np.testing.assert_array_equal(coco_masks.decode(rle), mask)
    as_bytes = {**rle, "counts": rle["counts"].encode()}
    np.testing.assert_array_equal(decode(as_bytes, height, width), mask)


def test_real_rle_and_polygons_as_pycocotools_has_them(shared_data):
    truth = json.loads((shared_data / "eval_coco/instances_val2014_100.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results = shared_data / "eval_coco/instances_val2014_fakesegm100_results.json"
    for entry in [*truth["annotations"], *json.loads(results.read_text())[:300]]:
        segmentation, size = entry["segmentation"], sizes[entry["image_id"]]
        packed = segmentation
        if isinstance(segmentation, list):
            packed = coco_masks.merge(coco_masks.frPyObjects(segmentation, *size))
        elif isinstance(segmentation["counts"], list):
            packed = coco_masks.frPyObjects(segmentation, *size)
        np.testing.assert_array_equal(decode(segmentation, *size), coco_masks.decode(packed))


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [4, 5], "counts": [20]}, r"size \[4, 5\], not \[4, 4\]"),
        ({"size": [4, 4], "counts": [3, 4]}, "do not fill"),
        ({"size": [4, 4], "counts": [-1, 17]}, "do not fill"),
        ({"size": [4, 4], "counts": [1.5, 14.5]}, "do not fill"),
        ({"size": [4, 4], "counts": []}, "do not fill"),
        ({"size": [4, 4], "counts": "0"}, "do not fill"),
        ({"size": [4, 4], "counts": ""}, "broken"),
        ({"size": [4, 4], "counts": "\x00"}, "broken"),
        ({"size": [4, 4], "counts": "é"}, "broken"),
        ({"size": [4, 4], "counts": "P"}, "broken"),
        ({"size": [4, 4], "counts": "o" * 30 + "0"}, "broken"),
        ([], "neither"),
        (None, "neither"),
        ([[1, 1, 2, 2]], "neither"),
    ],
)
def test_broken_segmentations_are_refused(segmentation, reason):
    """For some of these, pycocotools would return whatever was in memory."""
    with pytest.raises(ValueError, match=reason):
        decode(segmentation, 4, 4)


def test_a_polygon_is_scaled_before_it_is_drawn():
    np.testing.assert_array_equal(rasterise(SQUARE, (5, 8), (5, 8)), decode(SQUARE, 5, 8))
    larger = rasterise(SQUARE, (5, 8), (10, 24))
    want = np.zeros((10, 24), bool)
    want[2:8, 6:18] = True
    np.testing.assert_array_equal(larger, want)


@given(SIDES, SIDES, SIDES, SIDES)
def test_an_rle_is_resized_to_the_nearest_pixel(height, width, new_height, new_width):
    mask = np.random.default_rng(height).random((height, width)) < 0.5
    got = rasterise(encode(mask), (height, width), (new_height, new_width))
    for i in range(new_height):
        for j in range(new_width):
            y = min(math.floor(np.float32(i) * (np.float32(height) / np.float32(new_height))), 99)
            x = min(math.floor(np.float32(j) * (np.float32(width) / np.float32(new_width))), 99)
            assert got[i, j] == mask[min(y, height - 1), min(x, width - 1)]


def test_real_polygons_keep_their_shape_at_another_size(shared_data):
    truth = json.loads((shared_data / "fruits_nuts/trainval.json").read_text())
    for entry in truth["annotations"][::10]:
        small = rasterise(entry["segmentation"], (600, 800), (150, 200))
        large = decode(entry["segmentation"], 600, 800)
        assert small.sum() * 16 == pytest.approx(large.sum(), rel=0.1)
        again = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
        assert (again & large).sum() / (again | large).sum() > 0.85


# Bits and mirrors


def test_bits_are_in_reading_order():
    mask = np.zeros((1, 1, 10), bool)
    mask[..., [0, 9]] = True
    assert pack(mask).tolist() == [[[128, 64]]]


@given(st.integers(0, 3), st.integers(0, 9), st.integers(1, 30))
def test_packing_is_undone(count, height, width):
    masks = np.random.default_rng(width).random((count, height, width)) < 0.5
    packed = pack(masks)
    assert packed.shape == (count, height, -(-width // 8))
    again = unpack(packed, width)
    assert again.dtype == bool
    np.testing.assert_array_equal(again, masks)


def test_a_mirrored_mask():
    masks = blobs(2, 5, 7)
    np.testing.assert_array_equal(flip_masks(masks)[:, :, 0], masks[:, :, 6])
    np.testing.assert_array_equal(flip_masks(flip_masks(masks)), masks)


# Targets


def roi_align(mask: np.ndarray, roi: np.ndarray, size: int, samples: int = 0) -> np.ndarray:
    """RoIAlign of one RoI, sample by sample, like torchvision's with aligned=False."""
    h, w = mask.shape
    x1, y1, x2, y2 = np.float32(roi)
    one = np.float32(1)
    bin_w, bin_h = (max(side, one) / np.float32(size) for side in (x2 - x1, y2 - y1))
    grid_w, grid_h = (samples or math.ceil(side) for side in (bin_w, bin_h))

    def value(y, x):
        if y < -1 or y > h or x < -1 or x > w:
            return 0.0
        y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        fy, fx = y - y0, x - x0
        top = (1 - fx) * mask[y0, x0] + fx * mask[y0, x1]
        bottom = (1 - fx) * mask[y1, x0] + fx * mask[y1, x1]
        return (1 - fy) * top + fy * bottom

    out = np.zeros((size, size))
    half = np.float32(0.5)
    for i in range(size):
        for j in range(size):
            total = 0.0
            for iy in range(grid_h):
                for ix in range(grid_w):
                    y = y1 + np.float32(i) * bin_h + (np.float32(iy) + half) * bin_h / grid_h
                    x = x1 + np.float32(j) * bin_w + (np.float32(ix) + half) * bin_w / grid_w
                    total += value(y, x)
            out[i, j] = total / (grid_h * grid_w)
    return out


@pytest.mark.parametrize("size", [1, 3, 7])
def test_targets_are_roi_align(size):
    masks = blobs(3, 23, 31)
    rois = random_rois(25, 23, 31)
    rois[0], rois[1] = (0, 0, 31, 23), (-300, -300, -200, -200)
    rois[2], rois[3] = (31, 23, 31, 23), (-1, -1, -1, -1)  # on the last place that still counts
    matched = np.arange(25) % 3
    got = roi_masks(masks, whole(masks), rois, matched, size)
    assert got.dtype == np.float32
    want = [roi_align(masks[g], roi, size) for g, roi in zip(matched, rois)]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got[0].any()
    assert not got[1].any()


def test_the_oracle_and_the_operator_agree():
    """MXNet's ROIAlign has a fixed number of samples: where ceil(side / size) is 2, all agree."""
    masks = blobs(2, 40, 50, seed=3)
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 25, (12, 2))
    rois = np.concatenate([starts, starts + rng.uniform(7.5, 13.5, (12, 2))], axis=1)
    rois, matched = rois.astype(np.float32), np.arange(12) % 2
    indexed = np.concatenate([matched[:, None], rois], axis=1).astype(np.float32)
    operator = mx.nd.contrib.ROIAlign(
        mx.nd.array(masks[:, None].astype(np.float32)),
        mx.nd.array(indexed),
        pooled_size=(7, 7),
        spatial_scale=1.0,
        sample_ratio=2,
    ).asnumpy()[:, 0]
    got = roi_masks(masks, whole(masks), rois, matched, 7)
    np.testing.assert_allclose(got, operator, atol=1e-5)
    slow = [roi_align(masks[g], roi, 7, samples=2) for g, roi in zip(matched, rois)]
    np.testing.assert_allclose(operator, slow, atol=1e-5)


def test_masks_of_ones_and_zeros_stay_so():
    ones = np.ones((1, 60, 80), np.uint8)
    rois = np.float32([[0, 0, 80, 60], [3.3, 4.4, 50.1, 33.3]])
    assert (roi_masks(ones, whole(ones), rois, [0, 0], 28) >= 1 - 1e-5).all()
    assert not roi_masks(1 - ones, whole(ones), rois, [0, 0], 28).any()


def test_samples_count_up_to_a_pixel_outside():
    """RoIs of one sample each, at (-1, -1), just before it, at (8, 6) and just after it."""
    ones = np.ones((1, 6, 8), bool)
    centres = np.float32([[-1, -1], [-1.001, -1], [8, 6], [8, 6.001]])
    rois = np.concatenate([centres - np.float32(0.5), centres + np.float32(0.5)], axis=1)
    got = roi_masks(ones, whole(ones), rois, [0] * 4, 1)
    assert got.ravel().tolist() == [1, 0, 1, 0]


def test_an_empty_roi_is_a_pixel_wide():
    step = np.zeros((1, 20, 20), bool)
    step[..., 11:] = True
    got = roi_masks(step, whole(step), np.float32([[10, 10, 10, 10]]), [0], 2)
    np.testing.assert_allclose(got[0], [[0.25, 0.75]] * 2)


def test_a_mini_mask_is_sampled_at_the_same_places():
    """Cells 10 pixels wide: the step is in the middle of the 20, where pixels 9 and 10 meet."""
    minis = np.array([[[True, False]] * 2])
    frame = np.float32([[30, 40, 50, 60]])
    rois = np.float32([[30 + x, 45, 31 + x, 46] for x in (4, 9, 11.5)])
    got = roi_masks(minis, frame, rois, [0] * 3, 1)
    np.testing.assert_allclose(got.ravel(), [1, 0.5, 0.25], atol=1e-6)


def test_no_rois_and_no_masks():
    none = np.zeros((0, 20, 30), bool)
    rois, matched = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    assert roi_masks(none, whole(none), rois, matched, 28).shape == (0, 28, 28)
    assert mini_masks(none, rois, 56).shape == (0, 56, 56)
    assert list(paste(np.zeros((0, 28, 28), np.float32), rois, 20, 30)) == []
    assert paste_rle(np.zeros((0, 28, 28), np.float32), rois, 20, 30) == []


@pytest.mark.alone
def test_128_rois_on_large_masks_take_few_milliseconds():
    masks = blobs(8, 800, 1333)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.7, (128, 2)) * (1333, 800)
    sides = rng.uniform(0.05, 0.3, (128, 2)) * (1333, 800)
    rois = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
    matched = rng.integers(0, 8, 128)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        roi_masks(masks, whole(masks), rois, matched, 28)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def test_a_mini_mask_tells_what_the_mask_does():
    masks = blobs(4, 300, 400, seed=1)
    boxes = np.float32([tight_box(mask) for mask in masks])
    minis = mini_masks(masks, boxes, 56)
    rng = np.random.default_rng(2)
    matched = np.arange(40) % 4
    sides = boxes[:, 2:] - boxes[:, :2]
    jitter = rng.uniform(-0.2, 0.2, (40, 4)) * np.tile(sides[matched], 2)
    rois = (boxes[matched] + jitter).astype(np.float32)
    full = roi_masks(masks, whole(masks), rois, matched, 28)
    mini = roi_masks(minis, boxes, rois, matched, 28)
    assert np.abs(full - mini).mean() < 0.02
    assert ((full >= 0.5) != (mini >= 0.5)).mean() < 0.02
    shifted = roi_masks(minis, boxes + 3, rois, matched, 28)
    assert np.abs(full - shifted).mean() > 2 * np.abs(full - mini).mean()


def test_a_mini_mask_is_nothing_outside_its_box():
    minis = np.ones((1, 8, 8), bool)
    frame = np.float32([[100, 100, 300, 300]])
    rois = np.float32([[0, 100, 100, 300], [50, 100, 450, 300]])
    left, across = roi_masks(minis, frame, rois, [0, 0], 4)
    assert left.max() <= 0.05  # a pixel's reach, as RoIAlign has it: one of 25 samples
    np.testing.assert_allclose(across[:, 1:3], 1, atol=0.51)
    assert across[:, 3].max() == 0


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_mini_masks_of_whole_pixels():
    mask = np.zeros((1, 10, 12), bool)
    mask[0, 2:6, 3:5] = True
    same = mini_masks(mask, np.float32([[3, 2, 7, 6]]), 4)
    np.testing.assert_array_equal(same[0], [[1, 1, 0, 0]] * 4)
    half = mini_masks(mask, np.float32([[3, 2, 7, 6]]), 2)
    np.testing.assert_array_equal(half[0], [[1, 0]] * 2)
    double = mini_masks(mask, np.float32([[3, 2, 7, 6]]), 8)
    np.testing.assert_array_equal(double[0], [[1, 1, 1, 1, 0, 0, 0, 0]] * 8)


# Pasting


def torch_interpolate(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, align_corners=False, pixel by pixel."""
    h, w = image.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y, x = (max((k + 0.5) * a / b - 0.5, 0) for k, a, b in ((i, h, height), (j, w, width)))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            fy, fx = y - y0, x - x0
            out[i, j] = (1 - fy) * ((1 - fx) * image[y0, x0] + fx * image[y0, x1])
            out[i, j] += fy * ((1 - fx) * image[y1, x0] + fx * image[y1, x1])
    return out


def slow_paste(prob: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """torchvision's paste_masks_in_image with a padding of 1."""
    side = len(prob)
    padded = np.pad(prob, 1)
    x0, y0, x1, y1 = (np.float32(v) for v in box)
    half_w, half_h = ((b - a) * 0.5 * (side + 2) / side for a, b in ((x0, x1), (y0, y1)))
    left, right = int((x0 + x1) * 0.5 - half_w), int((x0 + x1) * 0.5 + half_w)
    top, bottom = int((y0 + y1) * 0.5 - half_h), int((y0 + y1) * 0.5 + half_h)
    w, h = max(right - left + 1, 1), max(bottom - top + 1, 1)
    resized = torch_interpolate(padded, h, w)
    out = np.zeros((height, width))
    for y in range(max(top, 0), min(bottom + 1, height)):
        for x in range(max(left, 0), min(right + 1, width)):
            out[y, x] = resized[y - top, x - left]
    return out


def test_pasting_is_torchvisions():
    rng = np.random.default_rng(0)
    probs = rng.random((14, 6, 6), np.float32)
    boxes = random_rois(14, 30, 40, seed=4)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    boxes[0], boxes[1] = (0, 0, 40, 30), (60, 60, 90, 90)
    boxes[2], boxes[3] = (5.2, 7.9, 5.2, 7.9), (-20, -10, 70, 50)
    pasted = np.stack(list(paste(probs, boxes, 30, 40)))
    assert pasted.dtype == np.float32
    want = [slow_paste(prob, box, 30, 40) for prob, box in zip(probs, boxes)]
    np.testing.assert_allclose(pasted, want, atol=1e-5)
    assert not pasted[1].any()
    for mask, rle in zip(pasted, paste_rle(probs, boxes, 30, 40, threshold=0.4)):
        np.testing.assert_array_equal(decode(json.loads(json.dumps(rle)), 30, 40), mask >= 0.4)
        assert rle == encode(mask >= 0.4)
    owners = np.arange(14) % 3
    for object_, rle in enumerate(paste_rle(probs, boxes, 30, 40, 0.4, owners)):
        assert rle == encode((pasted[owners == object_] >= 0.4).any(axis=0))


def test_pasting_equals_torchvisions_own_output(shared_data):
    """The golden has the logits of every 20th detection of its two images."""
    path = shared_data.parent / "golden" / "torchvision_mask_r50_fpn.npz"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    golden = np.load(path)
    places = [(j, i) for j in (0, 1) for i in range(len(golden[f"det_boxes{j}"]))]
    for (j, i), logits in zip(places[::20], golden["mask_logits"]):
        prob = 1 / (1 + np.exp(-logits[golden[f"det_labels{j}"][i]]))
        height, width = golden[f"image{j}"].shape[:2]
        (mask,) = paste(prob[None], golden[f"det_boxes{j}"][i][None], height, width)
        np.testing.assert_array_equal(np.round(mask * 255), golden[f"det_masks{j}"][i, 0])


def test_a_full_mask_fills_its_box():
    (rle,) = paste_rle(np.ones((1, 28, 28), np.float32), np.float32([[10, 20, 60, 50]]), 80, 100)
    mask = decode(rle, 80, 100)
    np.testing.assert_allclose(tight_box(mask), (10, 20, 60, 50), atol=1)
    assert mask.sum() == pytest.approx(50 * 30, rel=0.08)


def test_cut_resized_and_pasted_back_is_the_mask(shared_data):
    """On real polygons, pasting inverts targets up to the resolution of the grid."""
    truth = json.loads((shared_data / "fruits_nuts/trainval.json").read_text())
    for entry in truth["annotations"][::20]:
        mask = decode(entry["segmentation"], 600, 800)
        box = np.float32([tight_box(mask)])
        prob = roi_masks(mask[None], whole(mask[None]), box, [0], 28)
        again = decode(paste_rle(prob, box, 600, 800)[0], 600, 800)
        assert (again & mask).sum() / (again | mask).sum() > 0.93


def test_only_the_box_of_a_mask_is_computed(monkeypatch):
    shapes = []
    resize = masks_module._resize_weights

    def watched(*args):
        weights = resize(*args)
        shapes.append(weights.shape)
        return weights

    monkeypatch.setattr(masks_module, "_resize_weights", watched)
    paste_rle(np.ones((1, 28, 28), np.float32), np.float32([[10, 20, 60, 50]]), 3000, 4000)
    assert max(rows for rows, _ in shapes) < 70
