"""The pyramid detectors' RPN and box head: targets, losses, proposals, sampling, metrics."""

from __future__ import annotations

import numpy as np
import pytest

import symnet.ops.proposal_target  # noqa: F401 - registers the operator
from symnet.geometry.anchors import AnchorSpec, ClassicLevels, PyramidAnchors, pyramid_sizes
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import RPNSampling, rpn_targets
from symnet.machine import mx
from symnet.parts.heads import box_head_losses
from symnet.parts.metrics import two_stage_metrics
from symnet.parts.rpn import ProposalFilter, PyramidRPN, pyramid_proposals, pyramid_rpn_losses
from tests.reference import slow_iou, slow_matcher, slow_pyramid_proposals
from tests.test_losses import backward, cross_entropy, numeric_gradient, smooth_l1

ANCHORS = PyramidAnchors((16, 32, 64), (0.5, 1.0, 2.0))


# --- targets ------------------------------------------------------------------------------------


def random_objects(rng, count, height=64, width=96):
    sides = rng.uniform(8, 60, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * np.maximum([width, height] - sides, 0)
    classes = rng.integers(1, 5, (count, 1))
    return np.concatenate([corners, corners + sides, classes], axis=1).astype(np.float32)


def targets(objects, seed=0, **sampling):
    """(anchors, labels, box targets, weights) of an image of 64 x 96, like torchvision's."""
    anchors = ANCHORS.grid(64, 96)
    rule = RPNSampling(inside_only=False, own_anchor=False, **sampling)
    rng = np.random.default_rng(seed)
    return anchors, *rpn_targets(anchors, objects, (64, 96), rule, BoxCoder(), rng)


@pytest.mark.parametrize("seed", range(4))
def test_rpn_targets_are_the_matcher_s(seed):
    """Everything is sampled; anchors that cross the image's border are used."""
    objects = random_objects(np.random.default_rng(seed), 6)
    objects[5] = [*objects[4, :4] + 0.5, 1]  # wants the same anchors as its neighbour
    padded = np.concatenate([objects, np.full((3, 5), -1, np.float32)])
    everything = {"num_samples": 10**6, "fg_fraction": 0.5}
    anchors, labels, deltas, weights = targets(padded, **everything)
    expected = slow_matcher(anchors.tolist(), objects[:, :4].tolist(), 0.7, 0.3)
    np.testing.assert_array_equal(labels, [label for label, _ in expected])
    assert {-1, 0, 1} <= set(labels.tolist())
    fg = np.flatnonzero(labels == 1)
    low = [max(slow_iou(anchors[i], box) for box in objects[:, :4]) < 0.7 for i in fg]
    assert any(low)  # best anchors of objects that none overlaps by 0.7
    assert anchors[fg].min() < 0 or anchors[labels == 0].min() < 0
    for i in fg:
        box = BoxCoder().decode(anchors[[i]], deltas[[i]])[0]
        np.testing.assert_allclose(box, objects[expected[i][1], :4], atol=1e-3)
    assert not deltas[labels != 1].any()
    np.testing.assert_array_equal(weights, np.repeat((labels == 1)[:, None], 4, axis=1))


def test_all_anchors_are_background_without_objects():
    for objects in (np.zeros((0, 5), np.float32), np.full((4, 5), -1, np.float32)):
        _, labels, deltas, weights = targets(objects)
        assert (labels == 0).sum() == 256
        assert (labels == -1).sum() == len(labels) - 256
        assert not deltas.any()
        assert not weights.any()


def test_numbers_of_samples():
    """At most half is foreground, and background fills up."""
    objects = random_objects(np.random.default_rng(0), 12)
    _, every, _, _ = targets(objects, num_samples=10**6)
    positives = int((every == 1).sum())
    assert positives > 20
    for count, fraction in ((256, 0.5), (64, 0.5), (64, 0.25), (16, 1.0)):
        _, labels, _, _ = targets(objects, num_samples=count, fg_fraction=fraction)
        fg = min(positives, int(count * fraction))
        assert (labels == 1).sum() == fg
        assert (labels == 0).sum() == count - fg
        assert (every[labels == 1] == 1).all()
        assert (every[labels == 0] == 0).all()
    first, again, other = (targets(objects, seed, num_samples=64)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# --- the RPN's losses ---------------------------------------------------------------------------

MAPS = [(2, 3), (1, 2)]


def rpn_case(images=2, seed=0):
    """Three anchors per position on two levels: the losses, and values for their inputs."""
    levels = range(len(MAPS))
    head = PyramidRPN(
        [mx.sym.Variable(f"objectness{i}") for i in levels],
        [mx.sym.Variable(f"deltas{i}") for i in levels],
    )
    losses = pyramid_rpn_losses(head, mx.sym.Variable("label"), mx.sym.Variable("target"))
    rng = np.random.default_rng(seed)
    count = 3 * sum(height * width for height, width in MAPS)
    values = {
        **{f"objectness{i}": rng.normal(0, 2, (images, 3, *MAPS[i])) for i in levels},
        **{f"deltas{i}": rng.normal(0, 0.4, (images, 12, *MAPS[i])) for i in levels},
        "label": rng.integers(-1, 2, (images, count)).astype(float),
        "target": rng.normal(0, 0.4, (images, count, 4)),
    }
    return mx.sym.Group(losses), {n: v.astype(np.float32) for n, v in values.items()}


def by_anchor(values, name, columns):
    """A head's maps (B, 3 * columns, h, w) of all levels in the order of the anchors' grid."""
    rows = []
    for level, (height, width) in enumerate(MAPS):
        for y, x, a in np.ndindex(height, width, 3):
            rows.append(values[f"{name}{level}"][:, columns * a : columns * (a + 1), y, x])
    return np.stack(rows, axis=1).astype(np.float64)


def slow_objectness_loss(values):
    logits, label = by_anchor(values, "objectness", 1)[..., 0], values["label"]
    loss = np.logaddexp(0, logits) - logits * (label == 1)
    return loss[label >= 0].sum() / max((label >= 0).sum(), 1)


def slow_rpn_box_loss(values):
    difference = by_anchor(values, "deltas", 4) - values["target"]
    total = smooth_l1(difference, 3)[values["label"] == 1].sum()
    return total / max((values["label"] >= 0).sum(), 1)


@pytest.mark.parametrize("images", [1, 2])
def test_rpn_losses_are_means_over_the_samples(images):
    symbol, values = rpn_case(images)
    assert symbol.list_outputs() == [
        "loss_objectness_output",
        "loss_rpn_box_reg_output",
        "rpn_accuracy_output",
    ]
    (cls_loss, box_loss, accuracy), found = backward(symbol, **values)
    assert cls_loss.shape == box_loss.shape == (1,)
    assert cls_loss[0] == pytest.approx(slow_objectness_loss(values), rel=1e-5)
    assert box_loss[0] == pytest.approx(slow_rpn_box_loss(values), rel=1e-5)
    logits, label = by_anchor(values, "objectness", 1)[..., 0], values["label"]
    counted = label >= 0
    right = ((logits > 0) == (label == 1)) & counted
    np.testing.assert_array_equal(accuracy, [right.sum(), counted.sum()])
    for level in range(len(MAPS)):
        for name, loss in (("objectness", slow_objectness_loss), ("deltas", slow_rpn_box_loss)):
            key = f"{name}{level}"
            expected = numeric_gradient(lambda x, f=loss, k=key: f({**values, k: x}), values[key])
            np.testing.assert_allclose(found[key], expected, atol=1e-5)
            assert np.abs(expected).max() > 1e-3


def test_without_foreground_the_rpn_s_box_loss_is_exactly_0():
    symbol, values = rpn_case()
    values["label"] = np.minimum(values["label"], 0)
    (cls_loss, box_loss, _), found = backward(symbol, **values)
    assert cls_loss[0] > 0
    assert box_loss[0] == 0
    assert not found["deltas0"].any()
    assert found["objectness0"].any()


def test_without_samples_the_rpn_s_losses_are_exactly_0():
    symbol, values = rpn_case()
    values["label"][:] = -1
    (cls_loss, box_loss, accuracy), found = backward(symbol, **values)
    assert cls_loss[0] == box_loss[0] == 0
    np.testing.assert_array_equal(accuracy, [0, 0])
    assert not any(found[f"{name}{i}"].any() for name in ("objectness", "deltas") for i in (0, 1))


# --- the box head's losses ----------------------------------------------------------------------

BOX_INPUTS = ("logits", "deltas", "label", "target", "weight")


def box_case(rois=9, classes=4, active=False, seed=0):
    names = (*BOX_INPUTS, *["active"] * active)
    symbol = mx.sym.Group(box_head_losses(*(mx.sym.Variable(name) for name in names)))
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, classes, rois).astype(float)
    own = np.eye(classes)[np.maximum(label, 0).astype(int)] * (label > 0)[:, None]
    values = {
        "logits": rng.normal(0, 2, (rois, classes)),
        "deltas": rng.normal(0, 0.5, (rois, 4 * classes)),
        "label": label,
        "target": rng.normal(0, 0.5, (rois, 4 * classes)),
        "weight": np.repeat(own, 4, axis=1),
    }
    if active:
        values["active"] = np.ones((rois, classes))
    return symbol, values


def slow_box_loss(values):
    loss = smooth_l1(values["deltas"] - values["target"], 3) * values["weight"]
    return loss.sum() / max((values["label"] >= 0).sum(), 1)


@pytest.mark.parametrize("seed", range(3))
def test_box_head_losses_are_means_over_the_rois_that_count(seed):
    symbol, values = box_case(seed=seed)
    assert symbol.list_outputs() == [
        "loss_classifier_output",
        "loss_box_reg_output",
        "roi_accuracy_output",
    ]
    label, count = values["label"], (values["label"] >= 0).sum()
    (cls_loss, box_loss, accuracy), found = backward(symbol, **values)
    assert cls_loss[0] == pytest.approx(cross_entropy(values["logits"], label, count), rel=1e-5)
    assert box_loss[0] == pytest.approx(slow_box_loss(values), rel=1e-5)
    right = (values["logits"].argmax(axis=1) == label).sum()
    np.testing.assert_array_equal(accuracy, [right, count, count])
    expected = numeric_gradient(lambda x: cross_entropy(x, label, count), values["logits"])
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    expected = numeric_gradient(lambda x: slow_box_loss({**values, "deltas": x}), values["deltas"])
    np.testing.assert_allclose(found["deltas"], expected, atol=1e-5)
    assert (label == -1).any()
    assert not found["logits"][label == -1].any()


def test_without_foreground_the_box_loss_is_exactly_0():
    symbol, values = box_case()
    values["label"], values["weight"] = np.minimum(values["label"], 0), 0 * values["weight"]
    (cls_loss, box_loss, _), found = backward(symbol, **values)
    assert cls_loss[0] > 0
    assert box_loss[0] == 0
    assert not found["deltas"].any()


@pytest.mark.parametrize("active", [False, True])
def test_without_rois_the_box_head_s_losses_are_exactly_0(active):
    symbol, values = box_case(active=active)
    values["label"], values["weight"] = 0 * values["label"] - 1, 0 * values["weight"]
    (cls_loss, box_loss, accuracy), found = backward(symbol, **values)
    assert cls_loss[0] == box_loss[0] == 0
    np.testing.assert_array_equal(accuracy, [0, 0, 0])
    assert not found["logits"].any()
    assert not found["deltas"].any()


def test_a_roi_whose_best_class_is_not_active_has_no_class_loss():
    symbol, values = box_case(active=True, rois=40)
    values["active"][:20, 2] = values["active"][20:, 3] = 0
    best, label = values["logits"].argmax(axis=1), values["label"]
    lost = values["active"][np.arange(40), best] == 0
    kept = ~lost & (label >= 0)
    assert (lost & (label >= 0)).sum() > 3
    assert (kept & (values["active"].min(axis=1) == 0) & ((best == 2) | (best == 3))).any()
    (cls_loss, box_loss, accuracy), found = backward(symbol, **values)

    def loss(logits):
        return cross_entropy(logits, np.where(kept, label, -1), kept.sum())

    assert cls_loss[0] == pytest.approx(loss(values["logits"]), rel=1e-5)
    expected = numeric_gradient(loss, values["logits"])
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    assert not found["logits"][lost].any()
    assert found["logits"][kept].any(axis=1).all()
    # its box learns all the same, and it counts in the accuracy
    assert box_loss[0] == pytest.approx(slow_box_loss(values), rel=1e-5)
    assert accuracy[1] == (label >= 0).sum()


def test_no_class_is_active():
    symbol, values = box_case(active=True)
    values["active"][:] = 0
    (cls_loss, _, _), found = backward(symbol, **values)
    assert cls_loss[0] == 0
    assert not found["logits"].any()


# --- proposals ----------------------------------------------------------------------------------

PADDED = (64, 96)
RULE = ProposalFilter(100, 60, 0.5, 0.3, 6, (0.9, 1.1, 0.8, 1.2), 1.0)


def proposal_values(images=2, seed=0, levels=3):
    rng = np.random.default_rng(seed)
    sizes = pyramid_sizes(*PADDED, levels)
    objectness = [rng.normal(0, 2, (images, 3, *size)).astype(np.float32) for size in sizes]
    deltas = [rng.normal(0, 0.6, (images, 12, *size)).astype(np.float32) for size in sizes]
    return objectness, deltas


def propose(objectness, deltas, im_info, rule, anchors=ANCHORS):
    """rois (B, P, 5) as the graph proposes them."""
    levels = range(len(objectness))
    head = PyramidRPN(
        [mx.sym.Variable(f"objectness{i}") for i in levels],
        [mx.sym.Variable(f"deltas{i}") for i in levels],
    )
    data, info = mx.sym.Variable("data"), mx.sym.Variable("im_info")
    symbol = pyramid_proposals(head, data, info, anchors, rule)
    values = {"data": np.zeros((len(im_info), 3, *PADDED)), "im_info": np.float32(im_info)}
    values.update({f"objectness{i}": x for i, x in enumerate(objectness)})
    values.update({f"deltas{i}": x for i, x in enumerate(deltas)})
    args = {name: mx.nd.array(value) for name, value in values.items()}
    return symbol.bind(mx.cpu(), args, grad_req="null").forward()[0].asnumpy()


def check_proposals(found, objectness, deltas, im_info, rule, anchors=ANCHORS):
    """Compare with the reference; returns how many proposals each image has."""
    bases = [anchors.base(level) for level in range(len(objectness))]
    counts = []
    for image, (height, width, _) in enumerate(im_info):
        expected = slow_pyramid_proposals(
            [x[image] for x in objectness],
            [x[image] for x in deltas],
            bases,
            PADDED,
            (height, width),
            rule,
        )
        count = len(expected)
        np.testing.assert_allclose(
            found[image, :count, 1:], [box for _, box in expected], atol=1e-3
        )
        assert (found[image, :count, 0] == image).all()
        assert (found[image, count:, 0] == -1).all()
        counts.append(count)
    assert np.isfinite(found).all()
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_proposals_of_two_images(seed):
    """p4 has 72 anchors, fewer than the 100 that are taken; the images have other sizes."""
    objectness, deltas = proposal_values(seed=seed)
    im_info = [(64, 96, 1), (50, 70, 2)]
    found = propose(objectness, deltas, im_info, RULE)
    assert found.shape == (2, 60, 5)
    counts = check_proposals(found, objectness, deltas, im_info, RULE)
    assert counts == [60, 60]


@pytest.mark.parametrize(
    "rule",
    [
        ProposalFilter(300, 200, 0.7),  # more than p3 and p4 have; the rest is torchvision's
        ProposalFilter(5, 15, 1.0, 0.0, 0.0),  # nothing is suppressed
        ProposalFilter(30, 90, 0.2, 0.9, 10),  # little is left
        ProposalFilter(15, 15, 0.2, per_level=False),  # one NMS of the best of all levels
    ],
)
def test_proposals_by_other_rules(rule):
    objectness, deltas = proposal_values(seed=7)
    im_info = [(64, 90, 1), (33, 96, 1)]
    found = propose(objectness, deltas, im_info, rule)
    assert found.shape == (2, rule.post_nms_top_n, 5)
    counts = check_proposals(found, objectness, deltas, im_info, rule)
    assert min(counts) > 0
    if rule.score_thresh > 0.5:
        assert max(counts) < rule.post_nms_top_n


def test_deltas_are_clipped_and_boxes_are_cut_to_the_image():
    objectness, deltas = proposal_values(seed=3)
    for level in deltas:
        level *= 20
    im_info = [(64, 96, 1), (40, 50, 1)]
    rule = ProposalFilter(50, 50, 0.7, 0.0, 1e-3, clip=2.0)
    found = propose(objectness, deltas, im_info, rule)
    check_proposals(found, objectness, deltas, im_info, rule)
    for boxes, (height, width, _) in zip(found, im_info):
        real = boxes[boxes[:, 0] >= 0, 1:]
        assert len(real)
        assert real.min() >= 0
        assert (real[:, 2:] <= [width, height]).all()


def test_images_without_any_proposal():
    """Scores too low, or boxes too small: all rows are empty."""
    objectness, deltas = proposal_values()
    for level in objectness:
        level[0] = -1e3
    for level in deltas:
        level[1] = 0
        level[1, 2::4] = -30
    im_info = [(64, 96, 1), (64, 96, 1)]
    found = propose(objectness, deltas, im_info, ProposalFilter(100, 40, 0.7, 0.0, 1e-3))
    assert np.isfinite(found).all()
    assert (found[:, :, 0] == -1).all()


def test_the_last_map_s_stride_is_not_a_power_of_two():
    """At 96 pixels p6 has 2 columns, 48 pixels apart."""
    anchors = PyramidAnchors((8, 16, 32, 32, 32), (0.5, 1.0, 2.0))
    objectness, deltas = proposal_values(images=1, seed=5, levels=5)
    assert objectness[4].shape == (1, 3, 1, 2)
    for level in range(5):
        objectness[level] += 3 * (level == 4)
        deltas[level] *= 0.1
    rule = ProposalFilter(20, 60, 0.7, 0.0, 1)
    im_info = [(64, 96, 1)]
    found = propose(objectness, deltas, im_info, rule, anchors)
    check_proposals(found, objectness, deltas, im_info, rule, anchors)


@pytest.mark.parametrize("per_level", [True, False])
def test_overlapping_boxes_of_different_levels(per_level):
    """Both are kept if NMS is per level."""
    objectness, deltas = proposal_values(images=1)
    for level in range(3):
        objectness[level][:] = -8
        deltas[level][:] = 0
    anchors = PyramidAnchors((16, 16, 16), (1.0,))
    objectness = [level[:, :1] for level in objectness]
    deltas = [level[:, :4] for level in deltas]
    objectness[0][0, 0, 4, 4], objectness[1][0, 0, 2, 2] = 3, 2  # at 16, 16 both
    rule = ProposalFilter(50, 2, 0.5, per_level=per_level)
    found = propose(objectness, deltas, [(64, 96, 1)], rule, anchors)
    same = (found[0] == [0, 8, 8, 24, 24]).all(axis=1)
    assert same.tolist() == [True, per_level]


def test_a_level_s_stride_may_be_fixed():
    """At 96 pixels p6 has 2 columns, here 64 pixels apart; anchors lie in the cells' middles."""
    specs = tuple(AnchorSpec(s, (2,), (0.5, 1.0, 2.0)) for s in (4, 8, 16, 32, 64))
    anchors = ClassicLevels(specs)
    objectness, deltas = proposal_values(images=1, seed=5, levels=5)
    for level in range(5):
        objectness[level][:] = 3 if level == 4 else -9
        deltas[level][:] = 0
    rule = ProposalFilter(6, 6, 1.0, 0.5, 0.0)
    found = propose(objectness, deltas, [(1000, 1000, 1)], rule, anchors)[0]
    expected = np.maximum(anchors.grid(*PADDED)[-6:], 0)
    order = np.lexsort(found[:, 1:].T)
    np.testing.assert_allclose(found[order, 1:], expected[np.lexsort(expected.T)], atol=1e-4)
    assert (found[:, 0] == 0).all()


# --- sampling for the box head ------------------------------------------------------------------


def sample(rois, gt_boxes, **options):
    outputs = mx.nd.Custom(
        mx.nd.array(rois), mx.nd.array(gt_boxes), op_type="proposal_target", **options
    )
    return [output.asnumpy() for output in outputs]


def test_sampled_rois_know_their_objects():
    """box_offset 0: a width is x2 - x1 in overlaps and deltas; matched is the row of gt_boxes."""
    rng = np.random.default_rng(0)
    objects = [random_objects(rng, 4), random_objects(rng, 3)]
    gt_boxes = np.full((2, 6, 5), -1, np.float32)
    rois = []
    for image, boxes in enumerate(objects):
        gt_boxes[image, : len(boxes)] = boxes
        near = np.repeat(boxes[:, :4], 10, axis=0) + rng.normal(0, 2, (10 * len(boxes), 4))
        far = random_objects(rng, 30)[:, :4]
        rois.append(np.insert(np.concatenate([near, far]), 0, image, axis=1))
    empty = np.full((5, 5), -1)  # proposals that there are not
    rois = np.concatenate([rois[0], empty, rois[1], empty]).astype(np.float32)
    options = {
        "num_classes": 5,
        "batch_images": 2,
        "batch_rois": 64,
        "fg_fraction": 0.5,
        "box_stds": (0.1, 0.2, 0.3, 0.4),
        "box_offset": 0,
        "with_matched": True,
    }
    found, label, target, weight, matched = sample(rois, gt_boxes, **options)
    assert matched.shape == (64,)
    assert (label > 0).sum() > 20
    seen = set()
    for roi, k, delta, w, row in zip(found, label, target, weight, matched):
        overlaps = [slow_iou(roi[1:], box[:4]) for box in objects[int(roi[0])]]
        if k == -1:
            assert row == 0
            continue
        assert (k > 0) == (max(overlaps) >= 0.5)
        own_columns = (np.arange(5) == k) & (k > 0)
        np.testing.assert_array_equal(w.reshape(5, 4), np.repeat(own_columns[:, None], 4, axis=1))
        if k == 0:
            assert row == 0
            continue
        assert row == np.argmax(overlaps)
        box = gt_boxes[int(roi[0]), int(row)]
        assert box[4] == k
        coder = BoxCoder((0.1, 0.2, 0.3, 0.4))
        decoded = coder.decode(roi[None, 1:], delta.reshape(5, 4)[int(k)][None])
        np.testing.assert_allclose(decoded[0], box[:4], atol=1e-3)
        seen.add((int(roi[0]), int(row)))
    assert len(seen) == 7
    classic = sample(rois, gt_boxes, **{**options, "box_offset": 1})
    assert any((a != b).any() for a, b in zip((found, label, target), classic))
    plain = sample(rois, gt_boxes, **{**options, "with_matched": False})
    assert len(plain) == 4
    for one, other in zip(plain, (found, label, target, weight)):
        np.testing.assert_array_equal(one, other)


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_are_the_graph_s_losses_and_counts():
    outputs = {
        "loss_objectness": mx.nd.array([0.5]),
        "loss_rpn_box_reg": mx.nd.array([0.25]),
        "loss_classifier": mx.nd.array([1.5]),
        "loss_box_reg": mx.nd.array([0.125]),
        "rpn_accuracy": mx.nd.array([200, 256]),
        "roi_accuracy": mx.nd.array([30, 64]),
    }
    expected = {
        "RPNLogLoss": (0.5, 1),
        "RPNL1Loss": (0.25, 1),
        "RCNNLogLoss": (1.5, 1),
        "RCNNL1Loss": (0.125, 1),
        "RPNAcc": (200, 256),
        "RCNNAcc": (30, 64),
    }
    for masks in (False, True):
        if masks:
            outputs["loss_mask"], expected["MaskLoss"] = mx.nd.array([0.75]), (0.75, 1)
        pairs = two_stage_metrics(outputs, {})
        assert {n: (a.asscalar(), b.asscalar()) for n, (a, b) in pairs.items()} == expected
