"""Ignore regions: inside crowds and difficult objects nothing is positive or negative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import symnet.ops.proposal_target  # noqa: F401 - registers the operator
from mxrcnn.config import ConfigError, make_config, override
from mxrcnn.data.batches import make_training_batch
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.transforms import load_sample
from mxrcnn.training.run import describe_untrained
from symnet import fcos, get_detector, list_detectors
from symnet.detector import ImageTargetsInput
from symnet.geometry.anchors import PyramidAnchors
from symnet.geometry.boxes import BoxCoder, intersections
from symnet.geometry.matching import anchors_within
from symnet.geometry.targets import REGION, RoISampling, RPNSampling, roi_targets, rpn_targets
from symnet.machine import mx
from tests.factories import make_dataset, make_record, noise, plain_quick, tiny_config
from tests.test_fcos import head_values, losses_symbol
from tests.test_layers import backward

SIZE = (128, 192)
ANCHORS = PyramidAnchors((8, 16, 32, 64, 128), (0.5, 1, 2)).grid(*SIZE)
#: a crowd over the right half of the image, and an object in it
CROWD, OBJECT = [96, 0, 192, 128, REGION], [120, 20, 160, 70, 3]


def rows(*boxes):
    return np.float32(boxes).reshape(-1, 5)


def share_in(boxes, region, offset=0):
    """The fraction of each box (N, 4) inside a region, by the plain formula."""
    own = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    return intersections(boxes, np.float32([region[:4]]), offset)[:, 0] / own


def rpn(gt_boxes, **rule):
    sampling = RPNSampling(10**6, 1.0, inside_only=False, **rule)
    rng = np.random.default_rng(0)
    return rpn_targets(ANCHORS, gt_boxes, SIZE, sampling, BoxCoder(), rng)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_anchors(share):
    plain, *box_targets = rpn(rows(OBJECT, CROWD))
    labels, *others = rpn(rows(OBJECT, CROWD), ignore_overlap=share)
    inside = share_in(ANCHORS, CROWD) > share
    np.testing.assert_array_equal(labels == 1, plain == 1)
    np.testing.assert_array_equal(labels == 0, (plain == 0) & ~inside)
    assert (plain == 1)[inside].any()
    assert (plain == 0)[inside].any()
    for found, wanted in zip(others, box_targets):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("offset", [0, 1])
def test_shares_of_anchors_against_the_plain_formula(offset):
    rng = np.random.default_rng(1)
    corners = rng.uniform(-20, 150, (40, 2))
    regions = np.concatenate([corners, corners + rng.uniform(0, 90, (40, 2))], 1).astype(np.float32)
    wanted = [share_in(ANCHORS, region, offset) > 0.5 for region in regions]
    found = anchors_within(ANCHORS, regions, 0.5, offset)
    np.testing.assert_array_equal(np.unique(found), np.flatnonzero(np.any(wanted, axis=0)))
    assert not len(anchors_within(ANCHORS, regions[:0], 0.5, offset))


def test_rois():
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 1, (600, 2)) * [150, 90]
    proposals = np.concatenate([corners, corners + rng.uniform(5, 40, (600, 2))], 1)
    proposals = proposals.astype(np.float32)

    def sampled(gt_boxes, share):
        sampling = RoISampling(700, 0.5, fill_with_background=False, ignore_overlap=share)
        return roi_targets(proposals, gt_boxes, 5, sampling, BoxCoder(), np.random.default_rng(0))

    rois, labels, _, _, own = sampled(rows(CROWD, OBJECT), 0.5)
    plain_rois, plain_labels, *_ = sampled(rows(CROWD, OBJECT), 0.0)
    np.testing.assert_array_equal(rois[labels > 0], plain_rois[plain_labels > 0])
    assert (labels[labels > 0] == 3).all()
    assert (own[labels > 0] == 1).all()  # the object's row
    assert not (share_in(rois[labels == 0], CROWD) > 0.5).any()
    inside = share_in(plain_rois[plain_labels == 0], CROWD) > 0.5
    assert inside.sum() > 100
    assert (labels == 0).sum() == (~inside).sum()
    _, labels, _, weights, _ = sampled(rows([-9, -9, 999, 999, REGION]), 0.5)
    assert (labels == -1).all()
    assert not weights.any()


def test_points():
    """A point is inside a region or not; a point assigned to an object stays assigned."""
    gt_boxes = rows(OBJECT, CROWD)
    config = fcos.FCOSConfig(num_classes=4)
    labels = targets_of("fcos_r50_fpn", config, gt_boxes)["fcos_label"]
    plain = targets_of("fcos_r50_fpn", config, gt_boxes[:1])["fcos_label"]
    points, _ = config.points.grid(*SIZE)
    inside = (points[:, 0] > 96) & (points[:, 1] > 0)
    np.testing.assert_array_equal(labels, np.where((plain < 0) & inside, -2, plain))
    assert {-2, -1, 2} == set(labels.tolist())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_points_in_regions_have_no_class_loss(share):
    config = fcos.FCOSConfig(num_classes=4, ignore_overlap=share)
    rng = np.random.default_rng(0)
    values = head_values(config, 1, lambda name, shape: rng.normal(size=shape), SIZE)
    targets = targets_of("fcos_r50_fpn", config, rows(OBJECT, CROWD))
    labels = {name: array[None] for name, array in targets.items()}
    _, gradients = backward(losses_symbol(config), **values, **labels)
    found = [gradients[f"cls{i}"][0].any(axis=0).ravel() for i in range(5)]
    counts = np.concatenate(found)
    np.testing.assert_array_equal(counts, (targets["fcos_label"] > -2) | (not share))


def targets_of(name, model, gt_boxes):
    image = ImageTargetsInput(gt_boxes, SIZE, SIZE)
    return get_detector(name).assign_targets(model, image, np.random.default_rng(0))


@pytest.mark.parametrize("name", list_detectors())
def test_every_detector(name):
    """Off by default. When on, an image that is one crowd has no background."""
    detector = get_detector(name)
    plain = override(make_config(name), plain_quick(name))
    assert plain.model.ignore_overlap == 0
    config = override(plain, {"ignore_overlap": 0.5})
    background = -1 if "fcos_label" in detector.label_names else 0
    whole = rows([-999, -999, 999, 999, REGION])
    for model, has_background in ((plain.model, True), (config.model, False)):
        # without the setting the loader hands no regions on
        gt_boxes = whole[: 0 if has_background else None]
        labels = targets_of(name, model, gt_boxes)[detector.label_names[0]]
        assert (labels == background).any() == has_background
        assert not (labels > 0).any()
    graph = detector.train_symbol(config.model, 1)
    if "gt_boxes" in detector.data_names:
        assert float(graph.attr_dict()["proposal_target"]["ignore_overlap"]) == 0.5
    with pytest.raises(ConfigError, match="ignore_overlap=1"):
        override(plain, {"ignore_overlap": 1.0})


def test_the_operator_s_rois():
    boxes = np.insert(np.float32([[100, 9, 110, 20], [9, 9, 30, 30]]), 0, 0, axis=1)
    for share, counted in (("0", 2), ("0.5", 1)):
        _, label, *_ = mx.nd.Custom(
            mx.nd.array(boxes),
            mx.nd.array(rows(CROWD)),
            op_type="proposal_target",
            fill_with_background=False,
            ignore_overlap=share,
        )
        assert (label.asnumpy() == 0).sum() == counted


@pytest.fixture
def record(tmp_path):
    """An object, a crowd, a difficult object, and one that is both, in 80 x 100 pixels."""
    noise((80, 100)).save(tmp_path / "a.png")
    boxes = [(10, 20, 50, 60), (0, 0, 90, 30), (60, 40, 70, 70), (5, 5, 9, 9)]
    flags = {"crowd": [False, True, False, True], "difficult": [False, False, True, True]}
    return make_record(boxes=boxes, path=tmp_path / "a.png", **flags)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("use_difficult", [False, True])
def test_regions_are_the_objects_that_are_not_learnt(record, use_difficult, flip):
    """Regions come last, are resized and flipped like objects, and have empty masks."""
    masked = replace(
        record, masks=([[10, 20, 50, 20, 50, 60]], None, [[60, 40, 70, 40, 70, 70]], None)
    )
    settings = {"short_side": 160, "long_side": 0, "use_difficult": use_difficult, "masks": True}
    data = replace(tiny_config().data, **settings)
    plain = load_sample(masked, data, flip)
    sample = load_sample(masked, data, flip, regions=True)
    learnt = 1 + use_difficult
    np.testing.assert_array_equal(sample.gt_boxes[:learnt], plain.gt_boxes)
    np.testing.assert_array_equal(sample.gt_masks[:learnt], plain.gt_masks)
    assert sample.gt_boxes.shape == (4, 5)
    assert sample.gt_masks.shape == (4, *plain.gt_masks.shape[1:])
    assert not sample.gt_masks[learnt:].any()
    assert (sample.gt_boxes[learnt:, 4] == REGION).all()
    x1, x2 = (20, 200) if flip else (0, 180)
    np.testing.assert_array_equal(sample.gt_boxes[learnt, :4], [x1, 0, x2, 60])


def test_batches_have_regions_only_with_the_setting(record):
    dataset = make_dataset([record, make_record("b", path=record.path)])
    for share, real, regions in ((0.0, 1, 0), (0.5, 1, 3)):
        config = tiny_config(model__ignore_overlap=share, data__flip=False, train__batch_size=2)
        plan = TrainingPlan(dataset, config)
        assert plan.capacity == real + regions
        batch = make_training_batch(config, plan.capacity, plan.epoch(0)[0])
        classes = batch.data["gt_boxes"][batch.image_ids.index("a"), :, 4]
        assert classes.tolist() == [1] * real + [REGION] * regions
        other = batch.data["gt_boxes"][batch.image_ids.index("b"), :, 4]
        assert other.tolist() == [1] * real + [-1] * regions


def test_what_is_not_trained_on_is_told(record):
    dataset = make_dataset([record])
    (told,) = describe_untrained(tiny_config(), dataset)
    assert "3 crowds and difficult objects" in told
    assert "is background (--set ignore_overlap=0.5" in told
    settings = {"model__ignore_overlap": 0.25, "data__use_difficult": True}
    (told,) = describe_untrained(tiny_config(**settings), dataset)
    assert "2 crowds are not trained on" in told
    assert "has no loss (ignore_overlap=0.25)" in told
    assert describe_untrained(tiny_config(), make_dataset([make_record()])) == []
