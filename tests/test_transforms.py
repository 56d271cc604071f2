"""From an image file to a network input: size, colour, padding and boxes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mxrcnn.config import ConfigError, DataConfig, make_config, override
from mxrcnn.data.coco import load_coco, resolve_coco
from mxrcnn.data.images import ORIENTATION_TAG
from mxrcnn.data.records import DataError
from mxrcnn.data.transforms import (
    Sample,
    load_sample,
    normalise,
    padded_size,
    prepare_image,
    resize_linear,
    resized_size,
    stack_images,
    stack_masks,
    trainable_objects,
)
from mxrcnn.data.voc import load_voc
from symnet.geometry.masks import decode, encode, rasterise, unpack
from tests.factories import Picture, make_record, make_voc, noise

#: pixels as they are: no resizing, no mean
PLAIN = DataConfig(short_side=0, long_side=0, mean=(0, 0, 0))
SIDES = st.integers(1, 3000)


def pixels_of(sample: Sample) -> np.ndarray:
    """The network image as (H, W, 3)."""
    return sample.image.transpose(1, 2, 0)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


# Size


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (480, 640, (600, 800)),
        (375, 500, (600, 800)),
        (500, 375, (800, 600)),
        (600, 1000, (600, 1000)),
        (333, 500, (600, 901)),
        (300, 600, (500, 1000)),
        (2000, 1000, (1000, 500)),
        (61, 1000, (61, 1000)),
        (1, 1, (600, 600)),
        (1, 5000, (1, 1000)),
        (5000, 1, (1000, 1)),
    ],
)
def test_short_side_600_unless_the_long_one_passes_1000(height, width, size):
    *got, scale = resized_size(height, width, DataConfig())
    assert tuple(got) == size
    assert scale == min(600 / min(height, width), 1000 / max(height, width))


@given(SIDES, SIDES)
def test_resized_sides_stay_in_their_limits(height, width):
    out_height, out_width, _ = resized_size(height, width, DataConfig())
    assert 1 <= min(out_height, out_width) <= 600
    assert max(out_height, out_width) <= 1000
    assert min(out_height, out_width) == 600 or max(out_height, out_width) == 1000
    assert resized_size(width, height, DataConfig())[:2] == (out_width, out_height)


@pytest.mark.parametrize(
    ("short", "long", "size"), [(0, 0, (30, 40)), (60, 0, (60, 80)), (0, 20, (15, 20))]
)
def test_a_limit_of_0_is_none(short, long, size):
    assert resized_size(30, 40, DataConfig(short_side=short, long_side=long))[:2] == size


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4), st.sampled_from([1, 16, 32, 96]))
def test_padded_size_is_the_smallest_that_holds_all(sizes, multiple):
    for side, padded in zip(np.max(sizes, axis=0), padded_size(sizes, multiple)):
        assert padded % multiple == 0
        assert side <= padded < side + multiple


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_and_thin_images_become_samples(size):
    sample = prepare_image(np.asarray(noise(size)), DataConfig())
    assert sample.image.shape == (3, *resized_size(*size, DataConfig())[:2])
    assert np.isfinite(sample.image).all()
    assert sample.im_info.tolist() == pytest.approx([*sample.size, sample.im_info[2]])


@pytest.mark.parametrize(
    ("height", "width", "rounded", "floored"),
    [(333, 500, (600, 901), (600, 900)), (480, 640, (600, 800), (600, 800))],
)
def test_sides_are_rounded_or_cut(height, width, rounded, floored):
    for way, want in (("round", rounded), ("floor", floored)):
        assert resized_size(height, width, DataConfig(size_rounding=way))[:2] == want


@given(SIDES, SIDES)
def test_floor_is_torchvisions_size(height, width):
    data = DataConfig(short_side=800, long_side=1333, size_rounding="floor")
    scale = min(800 / min(height, width), 1333 / max(height, width))
    want = [max(1, math.floor(side * scale)) for side in (height, width)]
    assert list(resized_size(height, width, data)[:2]) == want


@given(SIDES, SIDES)
def test_square_images_have_one_shape(height, width):
    data = DataConfig(short_side=80, long_side=100, square=True)
    size = resized_size(height, width, data)[:2]
    assert padded_size([size], 1, data.least_padded_side) == (100, 100)
    assert padded_size([size], 32, data.least_padded_side) == (128, 128)
    plain = replace(data, square=False)
    assert padded_size([size], 32, plain.least_padded_side) == padded_size([size], 32)


def test_wrong_settings_are_named():
    for key, value in (("resize", "cubic"), ("size_rounding", "up"), ("mini_mask", -1)):
        with pytest.raises(ConfigError, match=rf"{key}={value!r}"):
            override(make_config(), {key: value})
    with pytest.raises(ConfigError, match="square"):
        DataConfig(square=True, long_side=0)


# Resizing without antialiasing


def slow_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """torch's interpolate(mode="bilinear", align_corners=False), pixel by pixel."""
    h, w = image.shape[1:]
    out = np.zeros((3, height, width))
    for i in range(height):
        for j in range(width):
            y, x = (max((k + 0.5) * a / b - 0.5, 0) for k, a, b in ((i, h, height), (j, w, width)))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
            bottom = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
            out[:, i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return out


@pytest.mark.parametrize("size", [(7, 9), (14, 27), (3, 4), (1, 1), (7, 30), (20, 2), (70, 33)])
def test_linear_is_torchs_interpolation(size):
    image = np.random.default_rng(0).normal(size=(3, 7, 9)).astype(np.float32)
    got = resize_linear(image, *size)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, slow_linear(image, *size), atol=1e-5)


def test_normalised_pixels_are_the_formula_to_the_bit():
    pixels = np.asarray(noise((30, 41)))
    for name in ("faster_rcnn_vgg16", "fcos_r50_fpn"):
        data = make_config(name).data
        want = (pixels - np.float32(data.mean)) / np.float32(data.std)
        got = normalise(pixels, data)
        assert (got.dtype, got.flags.c_contiguous) == (np.float32, True)
        np.testing.assert_array_equal(got, want.transpose(2, 0, 1))


def test_linear_normalises_first_and_mirrors_exactly():
    pixels = np.asarray(noise((30, 41)))
    data = DataConfig(short_side=20, long_side=0, std=(50, 60, 70), resize="linear")
    plain, flipped = (prepare_image(pixels, data, flip) for flip in (False, True))
    assert plain.size == (20, 27)
    np.testing.assert_array_equal(flipped.image, plain.image[:, :, ::-1])
    want = slow_linear(normalise(pixels, data), 20, 27)
    np.testing.assert_allclose(plain.image, want, atol=1e-4)
    assert np.abs(plain.image - prepare_image(pixels, DataConfig(short_side=20)).image).max() > 0.1
    same = replace(data, short_side=0)
    np.testing.assert_array_equal(prepare_image(pixels, same).image, normalise(pixels, data))


# Boxes


@pytest.mark.parametrize("size", [(480, 640), (333, 500), (61, 1000), (7, 1)])
def test_boxes_follow_the_image(tmp_path, size):
    """A box covers the same fraction of the image before and after, whatever the rounding."""
    height, width = size
    box = [width * 0.25, height * 0.5, width * 0.5, height]
    record = make_record(size=size, boxes=[box], path=saved(noise(size), tmp_path / "a.png"))
    sample = load_sample(record, DataConfig())
    new_height, new_width = sample.size
    want = [new_width * 0.25, new_height * 0.5, new_width * 0.5, new_height, 1]
    np.testing.assert_allclose(sample.gt_boxes, [want], rtol=1e-6)
    assert sample.gt_boxes.dtype == sample.image.dtype == sample.im_info.dtype == np.float32


@pytest.mark.parametrize("flip", [False, True])
def test_the_box_still_frames_the_object(tmp_path, flip):
    """A white rectangle on black, located in the network image."""
    image = Image.new("RGB", (64, 48))
    image.paste("white", (8, 4, 24, 36))
    record = make_record(
        size=(48, 64), boxes=[(8, 4, 24, 36)], path=saved(image, tmp_path / "a.png")
    )
    data = DataConfig(short_side=96, long_side=0, mean=(0, 0, 0))
    sample = load_sample(record, data, flip)
    rows, columns = np.nonzero(sample.image[0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert sample.gt_boxes[0].tolist() == [*seen, 1]
    assert seen == ([80, 8, 112, 72] if flip else [16, 8, 48, 72])


def test_flip_mirrors_pixels_and_boxes_and_twice_is_nothing(tmp_path):
    path = saved(noise((30, 41)), tmp_path / "a.png")
    record = make_record(size=(30, 41), boxes=[(5, 2, 30, 20)], path=path)
    data = DataConfig(short_side=60, long_side=0)
    plain, flipped = (load_sample(record, data, flip) for flip in (False, True))
    np.testing.assert_array_equal(flipped.image, plain.image[:, :, ::-1])
    np.testing.assert_array_equal(flipped.im_info, plain.im_info)
    width = plain.size[1]
    np.testing.assert_array_equal(flipped.gt_boxes[:, 0], width - plain.gt_boxes[:, 2])
    np.testing.assert_array_equal(flipped.gt_boxes[:, [1, 3, 4]], plain.gt_boxes[:, [1, 3, 4]])

    turned = saved(Image.open(record.path).transpose(Image.FLIP_LEFT_RIGHT), tmp_path / "b.png")
    mirrored = make_record(size=(30, 41), boxes=[(41 - 30, 2, 41 - 5, 20)], path=turned)
    again = load_sample(mirrored, data, flip=True)
    np.testing.assert_allclose(again.gt_boxes, plain.gt_boxes, atol=1e-4)
    np.testing.assert_allclose(again.image, plain.image, atol=1)  # resizing rounds pixels


def test_no_objects_are_no_rows(tmp_path):
    record = make_record(boxes=[], path=saved(noise((80, 100)), tmp_path / "a.png"))
    assert load_sample(record, DataConfig(), flip=True).gt_boxes.shape == (0, 5)


@pytest.mark.parametrize(
    ("use_difficult", "kept"), [(False, [True, False, False, False]), (True, [True, True, 0, 0])]
)
def test_crowds_and_difficult_objects_are_not_learnt(tmp_path, use_difficult, kept):
    boxes = [(k, 0, 10 + k, 10) for k in range(4)]
    record = make_record(
        boxes=boxes,
        crowd=[False, False, True, True],
        difficult=[False, True, False, True],
        path=saved(noise((80, 100)), tmp_path / "a.png"),
    )
    data = DataConfig(short_side=0, long_side=0, use_difficult=use_difficult)
    assert trainable_objects(record, data).tolist() == kept
    sample = load_sample(record, data)
    np.testing.assert_array_equal(sample.gt_boxes[:, :4], np.array(boxes)[np.array(kept, bool)])


# Masks

POLYGON = [[10, 20, 50, 20, 50, 60, 10, 60]]


def with_mask(tmp_path: Path, mask: object = POLYGON, **flags: list[bool]):
    record = make_record(path=saved(noise((80, 100)), tmp_path / "a.png"), **flags)
    return replace(record, masks=(mask,))


def masks_of(sample: Sample) -> np.ndarray:
    return unpack(sample.gt_masks, sample.size[1])


def test_no_masks_unless_asked(tmp_path):
    record = make_record(path=saved(noise((80, 100)), tmp_path / "a.png"))
    assert load_sample(record, DataConfig()).gt_masks is None
    assert load_sample(with_mask(tmp_path), DataConfig()).gt_masks is None


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["polygon", "rle"])
@pytest.mark.parametrize("resize", ["antialias", "linear"])
def test_the_mask_follows_the_box(tmp_path, kind, flip, resize):
    mask = POLYGON if kind == "polygon" else encode(decode(POLYGON, 80, 100))
    data = DataConfig(short_side=160, long_side=0, masks=True, resize=resize)
    sample = load_sample(with_mask(tmp_path, mask), data, flip)
    assert sample.gt_masks.shape == (1, 160, 25)
    x1, y1, x2, y2 = sample.gt_boxes[0, :4].astype(int)
    want = np.zeros((160, 200), bool)
    want[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(masks_of(sample)[0], want)


@pytest.mark.parametrize("width", [96, 101])
def test_a_mirrored_sample_has_mirrored_masks(tmp_path, width):
    triangle = [[10, 20, 50, 30, 20, 60]]
    record = replace(
        make_record(size=(80, width), path=saved(noise((80, width)), tmp_path / "a.png")),
        masks=(triangle,),
    )
    for side, mini in ((0, 0), (47, 0), (0, 16)):
        data = DataConfig(short_side=side, long_side=0, masks=True, mini_mask=mini)
        plain, flipped = (load_sample(record, data, flip) for flip in (False, True))
        bits = mini or plain.size[1]
        first, second = (unpack(s.gt_masks, bits) for s in (plain, flipped))
        assert first.any()
        np.testing.assert_array_equal(second, first[..., ::-1])


def test_mini_masks_lie_in_their_boxes(tmp_path):
    left_half = [[10, 20, 30, 20, 30, 60, 10, 60]]
    data = DataConfig(short_side=160, long_side=0, masks=True, mini_mask=16)
    sample = load_sample(with_mask(tmp_path, left_half), data)
    assert sample.gt_masks.shape == (1, 16, 2)
    want = np.tile(np.arange(16) < 8, (16, 1))
    np.testing.assert_array_equal(unpack(sample.gt_masks, 16)[0], want)


def test_only_what_is_learnt_needs_a_mask(tmp_path):
    data = DataConfig(short_side=0, long_side=0, masks=True)
    for flags in ({}, {"crowd": [False]}, {"difficult": [False]}):
        with pytest.raises(DataError, match=r"a\.png: object 0 has no mask"):
            load_sample(with_mask(tmp_path, None, **flags), data)
    with pytest.raises(DataError, match=r"a\.png: object 0 has no mask"):
        load_sample(replace(with_mask(tmp_path), masks=None), data)
    for flags in ({"crowd": [True]}, {"difficult": [True]}):
        assert load_sample(with_mask(tmp_path, None, **flags), data).gt_masks.shape == (0, 80, 13)


@pytest.mark.parametrize(
    "mask", [{"size": [80, 99], "counts": [7920]}, {"size": [80, 100], "counts": "04L0"}]
)
def test_a_broken_mask_is_named(tmp_path, mask):
    with pytest.raises(DataError, match=r"a\.png: the mask of object 0: RLE"):
        load_sample(with_mask(tmp_path, mask), DataConfig(masks=True))


def test_masks_of_photos_frame_their_boxes(shared_data):
    data = DataConfig(short_side=300, long_side=500, masks=True, size_rounding="floor")
    dataset = load_coco(*resolve_coco(shared_data / "fruits_nuts", "trainval"))
    for record in dataset.records[:4]:
        sample = load_sample(record, data)
        masks = masks_of(sample)
        assert len(masks) == len(record)
        for mask, box, polygons in zip(masks, sample.gt_boxes, record.masks):
            rows, columns = np.nonzero(mask)
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(seen, box[:4], atol=1.6)
            np.testing.assert_array_equal(mask, rasterise(polygons, (600, 800), sample.size))


def test_padded_masks():
    masks = [np.full((2, 5, 3), 255, np.uint8), np.zeros((0, 8, 1), np.uint8)]
    image = np.zeros((3, 5, 20), np.float32)
    samples = [Sample(image, np.zeros(3), np.zeros((len(m), 5)), m) for m in masks]
    batch = stack_masks(samples, 4, (8, 33))
    assert batch.shape == (2, 4, 8, 5)
    assert batch.dtype == np.uint8
    assert (batch[0, :2, :5, :3] == 255).all()
    assert batch.sum() == 2 * 5 * 3 * 255


# Colour


def test_mean_and_std_by_channel_in_rgb_order():
    pixels = np.full((2, 3, 3), (10, 20, 30), np.uint8)
    image = normalise(pixels, DataConfig(mean=(1, 2, 3), std=(1, 2, 9)))
    assert image.shape == (3, 2, 3)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image[:, 1, 2], [9, 9, 3])


def test_the_first_channel_of_a_file_is_red(tmp_path):
    path = saved(Image.new("RGB", (100, 80), (200, 100, 50)), tmp_path / "a.png")
    sample = load_sample(make_record(path=path), PLAIN)
    assert sample.image[:, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("L", ".png"),
        ("L", ".jpg"),
        ("LA", ".png"),
        ("RGBA", ".png"),
        ("P", ".png"),
        ("1", ".png"),
        ("I;16", ".png"),
        ("CMYK", ".jpg"),
        ("RGB", ".bmp"),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, ending):
    image = noise((2, 2), mode, seed=1).resize((100, 80), Image.Resampling.NEAREST)
    path = saved(image, tmp_path / f"a{ending}")
    got = pixels_of(load_sample(make_record(path=path), PLAIN))
    if mode == "I;16":
        want = np.repeat((np.asarray(image) >> 8)[:, :, None], 3, axis=2)
    else:
        want = np.asarray(image.convert("RGB"), np.float32)
    assert np.abs(got - want).mean() <= (4 if ending == ".jpg" else 0)
    assert got.std() > 10
    if mode in ("L", "LA", "1", "I;16"):
        assert (got == got[:, :, :1]).all()


def test_undecodable_image_names_the_file(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    with pytest.raises(DataError, match=r"broken\.png"):
        load_sample(make_record(path=path), PLAIN)


# EXIF orientation


@pytest.mark.parametrize("exif", [False, True])
def test_exif_orientation_by_config_only(tmp_path, exif):
    """Orientation 6: the stored 40 x 64 pixels are displayed rotated clockwise, as 64 x 40."""
    root = make_voc(tmp_path, {"a": Picture((40, 64), [("dog", 2, 4, 10, 30)], ending=".png")})
    path = root / "VOC2007/JPEGImages/a.png"
    image = Image.open(path)
    stored = np.asarray(image.convert("RGB"), np.float32)
    tags = image.getexif()
    tags[ORIENTATION_TAG] = 6
    image.save(path, exif=tags)

    if exif:
        xml = root / "VOC2007/Annotations/a.xml"
        sides = ("<width>64</width><height>40</height>", "<width>40</width><height>64</height>")
        xml.write_text(xml.read_text().replace(*sides))

    assert not DataConfig().exif_orientation
    record = load_voc(root, "2007_train", exif_orientation=exif)[0]
    data = DataConfig(short_side=0, long_side=0, mean=(0, 0, 0), exif_orientation=exif)
    sample = load_sample(record, data)
    assert sample.size == (record.height, record.width) == ((64, 40) if exif else (40, 64))
    np.testing.assert_array_equal(pixels_of(sample), np.rot90(stored, -1) if exif else stored)
    np.testing.assert_array_equal(sample.gt_boxes[:, :4], [[2, 4, 10, 30]])
    x1, _, x2, _ = load_sample(record, data, flip=True).gt_boxes[0, :4]
    assert (x1, x2) == ((40 - 10, 40 - 2) if exif else (64 - 10, 64 - 2))


# Padding


def test_padding_is_zeros_below_and_to_the_right():
    data = DataConfig(short_side=0, long_side=0)
    samples = [prepare_image(np.asarray(noise(size)), data) for size in ((20, 30), (32, 10))]
    batch = stack_images(samples, (32, 64))
    assert batch.shape == (2, 3, 32, 64)
    assert batch.dtype == np.float32
    for padded, sample in zip(batch, samples):
        height, width = sample.size
        np.testing.assert_array_equal(padded[:, :height, :width], sample.image)
        assert not padded[:, height:].any()
        assert not padded[:, :, width:].any()
    flipped = prepare_image(np.asarray(noise((20, 30))), data, flip=True)
    alone = stack_images([flipped], (20, 30))  # needs no padding
    np.testing.assert_array_equal(alone, flipped.image[None])
    assert alone.flags.c_contiguous
