"""RPN and RoI targets, for ordinary and awkward images."""

import time

import numpy as np
import pytest

from symnet.geometry.anchors import AnchorSpec
from symnet.geometry.boxes import BoxCoder, iou
from symnet.geometry.targets import (
    RoISampling,
    RPNSampling,
    pad_objects,
    roi_targets,
    rpn_targets,
)

SPEC = AnchorSpec(16, (8, 16, 32), (0.5, 1, 2))
RPN_CODER = BoxCoder(offset=1)
ROI_CODER = BoxCoder(stds=(0.1, 0.1, 0.2, 0.2), offset=1)


def rpn(gt_boxes, size, spec=SPEC, seed=0, sampling=None):
    anchors = spec.grid(-(-size[0] // 16), -(-size[1] // 16))
    targets = rpn_targets(
        anchors,
        np.asarray(gt_boxes, np.float32).reshape(-1, 5),
        size,
        sampling or RPNSampling(),
        RPN_CODER,
        np.random.default_rng(seed),
    )
    return anchors, *targets


def random_objects(rng, count, height, width, num_classes=21, smallest=10, largest=200):
    sides = rng.uniform(smallest, largest, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * np.maximum([width, height] - sides, 1)
    classes = rng.integers(1, num_classes, (count, 1))
    return np.concatenate([corner, corner + sides, classes], axis=1).astype(np.float32)


def test_rpn_samples_half_and_half_inside_the_image():
    rng = np.random.default_rng(0)
    objects = random_objects(rng, 30, 600, 1000, smallest=100, largest=300)
    anchors, labels, targets, weights = rpn(objects, (600, 1000))
    fg, bg = labels == 1, labels == 0
    assert fg.sum() + bg.sum() == 256
    assert 0 < fg.sum() <= 128
    used = anchors[fg | bg]
    assert used.min() >= 0
    assert used[:, 2].max() < 1000
    assert used[:, 3].max() < 600
    overlaps = iou(anchors, objects[:, :4], 1)
    assert overlaps[bg].max() < 0.3
    best_of_some = (overlaps == overlaps[fg].max(axis=0)).any(axis=1)
    assert ((overlaps.max(axis=1) >= 0.7) | best_of_some)[fg].all()
    np.testing.assert_array_equal(weights.any(axis=1), fg)
    decoded = RPN_CODER.decode(anchors[fg], targets[fg])
    assert iou(decoded, objects[:, :4], 1).max(axis=1).min() > 0.999


@pytest.mark.parametrize("seed", range(5))
def test_every_object_that_an_anchor_overlaps_has_one_of_its_own(seed):
    rng = np.random.default_rng(seed)
    objects = random_objects(rng, 40, 600, 1000, smallest=3, largest=250)
    anchors, labels, targets, _ = rpn(objects, (600, 1000), seed=seed)
    decoded = RPN_CODER.decode(anchors[labels == 1], targets[labels == 1])
    reached = iou(objects[:, :4], decoded, 1).max(axis=1)
    np.testing.assert_allclose(reached, 1, atol=1e-3)


def test_a_tiny_object_gets_a_positive():
    anchors, labels, targets, _ = rpn([[300, 300, 312, 312, 1]], (600, 1000))
    assert (labels == 1).sum() >= 1
    decoded = RPN_CODER.decode(anchors[labels == 1], targets[labels == 1])
    np.testing.assert_allclose(decoded[0], [300, 300, 312, 312], atol=0.01)


def test_no_objects_are_all_background():
    _, labels, _, weights = rpn(np.zeros((0, 5)), (600, 1000))
    assert (labels == 0).sum() == 256
    assert (labels == 1).sum() == 0
    assert not weights.any()


@pytest.mark.parametrize("size", [(61, 1000), (1000, 61), (16, 16), (3, 900)])
def test_images_too_thin_for_an_anchor_still_train(size):
    height, width = size
    inner = [[width * 0.2, height * 0.1, width * 0.6, height * 0.9, 2]]
    _, labels, _, weights = rpn(inner, size)
    assert (labels >= 0).any()
    assert weights.any()


def test_rpn_targets_repeat_from_their_seed():
    objects = random_objects(np.random.default_rng(3), 20, 600, 1000)
    first, again, other = (rpn(objects, (600, 1000), seed=s)[1] for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def roi(proposals, gt_boxes, num_classes=21, count=128, seed=0, **options):
    return roi_targets(
        np.asarray(proposals, np.float32).reshape(-1, 4),
        np.asarray(gt_boxes, np.float32).reshape(-1, 5),
        num_classes,
        RoISampling(num_samples=count, **options),
        ROI_CODER,
        np.random.default_rng(seed),
    )[:4]


def random_proposals(rng, count, objects, height=600, width=1000):
    noise = random_objects(rng, count // 2, height, width)[:, :4]
    near = objects[rng.integers(0, len(objects), count - len(noise)), :4]
    near = near + rng.normal(0, 8, near.shape)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    return np.concatenate([noise, near]).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_roi_targets_are_what_they_should_be(seed):
    rng = np.random.default_rng(seed)
    objects = random_objects(rng, 8, 600, 1000, smallest=40)
    proposals = random_proposals(rng, 1000, objects)
    rois, labels, targets, weights = roi(proposals, objects, seed=seed)
    assert rois.shape == (128, 4)
    assert targets.shape == weights.shape == (128, 84)
    fg = labels > 0
    assert fg.sum() == 32
    assert (labels == 0).sum() == 96
    overlaps = iou(rois, objects[:, :4], 1)
    assert (overlaps[fg].max(axis=1) >= 0.5).all()
    assert (overlaps[~fg].max(axis=1) < 0.5).all()
    np.testing.assert_array_equal(labels[fg], objects[overlaps[fg].argmax(axis=1), 4])
    for row in range(128):
        columns = np.flatnonzero(weights[row])
        first = int(labels[row]) * 4
        expected = list(range(first, first + 4)) if fg[row] else []
        assert columns.tolist() == expected
        assert not np.delete(targets[row], columns).any()
        if fg[row]:
            box = ROI_CODER.decode(rois[row : row + 1], targets[row : row + 1, columns])
            target = objects[overlaps[row].argmax(), :4]
            np.testing.assert_allclose(box[0], target, atol=0.01)


def test_objects_join_the_proposals():
    rois, labels, _, _ = roi(np.zeros((0, 4)), [[10, 10, 50, 50, 3]])
    np.testing.assert_array_equal(rois[0], [10, 10, 50, 50])
    assert labels[0] == 3
    assert (labels[1:] == -1).all()


def test_without_objects_all_is_background():
    rng = np.random.default_rng(0)
    proposals = random_objects(rng, 500, 600, 1000)[:, :4]
    for nobody in (np.zeros((0, 5)), np.full((7, 5), -1.0)):
        rois, labels, targets, weights = roi(proposals, nobody)
        assert (labels == 0).all()
        assert not targets.any()
        assert not weights.any()
        assert len(np.unique(rois, axis=0)) == 128


def test_without_background_nothing_is_called_background():
    box = np.array([100, 100, 300, 300], np.float32)
    rng = np.random.default_rng(0)
    proposals = box + rng.uniform(-2, 2, (400, 4))
    rois, labels, _, weights = roi(proposals, [[*box, 5]])
    assert (labels == 5).sum() == 32
    assert (labels == -1).sum() == 96
    assert not weights[labels == -1].any()
    assert np.isfinite(rois).all()


def test_without_foreground_but_objects():
    """Only the object itself, which is added to the proposals, is foreground."""
    proposals = random_objects(np.random.default_rng(0), 300, 300, 300)[:, :4] + 500
    _, labels, _, _ = roi(proposals, [[0, 0, 40, 40, 9]])
    assert (labels > 0).sum() == 1
    assert (labels == 0).sum() == 127


def test_repeated_proposals_count_once():
    proposals = np.repeat([[0, 0, 100, 100], [200, 200, 300, 300]], 1000, axis=0)
    rois, labels, _, _ = roi(
        proposals, [[400, 400, 450, 450, 1]], count=16, fill_with_background=False
    )
    assert (labels == 0).sum() == 2
    assert (labels == 1).sum() == 1
    assert len(np.unique(rois[labels >= 0], axis=0)) == 3
    assert (labels == -1).sum() == 13


def test_background_fills_up_evenly_and_counts():
    """As in the original graph, whose class loss divides by all rows."""
    proposals = [[0, 0, 100, 100], [200, 200, 300, 300]]
    rois, labels, targets, weights = roi(proposals, [[400, 400, 450, 450, 1]], count=16)
    assert labels.tolist() == [1] + 15 * [0]
    boxes, times = np.unique(rois[labels == 0], axis=0, return_counts=True)
    np.testing.assert_array_equal(boxes, proposals)
    assert sorted(times) == [7, 8]
    assert not targets[labels == 0].any()
    assert not weights[labels == 0].any()


def test_padded_objects_change_nothing():
    rng = np.random.default_rng(1)
    objects = random_objects(rng, 6, 600, 1000)
    proposals = random_proposals(rng, 600, objects)
    padded = pad_objects([objects], 50)[0]
    for plain, with_padding in zip(roi(proposals, objects), roi(proposals, padded)):
        np.testing.assert_array_equal(plain, with_padding)


def test_proposals_that_are_not_finite_are_left_out():
    proposals = random_objects(np.random.default_rng(0), 200, 600, 1000)[:, :4]
    proposals[::3] = np.nan
    proposals[1::3, 2] = np.inf
    rois, labels, targets, _ = roi(proposals, [[50, 50, 90, 90, 1]])
    assert np.isfinite(rois).all()
    assert np.isfinite(targets).all()
    assert (labels >= 0).sum() > 60


def test_nothing_at_all():
    rois, labels, _, weights = roi(np.full((3, 4), np.nan), np.zeros((0, 5)))
    assert not rois.any()
    assert (labels == -1).all()
    assert not weights.any()


@pytest.mark.alone
def test_roi_targets_are_quick():
    """Under 5 ms for 2000 proposals and 50 objects: best of several, as machines are noisy."""
    rng = np.random.default_rng(0)
    objects = random_objects(rng, 50, 600, 1000)
    proposals = random_proposals(rng, 2000, objects)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        roi(proposals, objects)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
