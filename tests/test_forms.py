"""Targets and losses of other projects' forms: gluoncv and matterport.

gluoncv's own code is run here; matterport's is reimplemented from the published code.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from mxrcnn.config import from_dict, make_config, override, to_dict
from symnet import get_detector
from symnet.detector import ImageTargetsInput
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import RoISampling, roi_targets
from symnet.machine import mx
from symnet.parts.heads import box_head_losses
from symnet.parts.losses import BETA, SHARE, partial_batches
from symnet.parts.metrics import two_stage_counts
from tests.test_losses import backward
from tests.test_symnet_graph import random_batch

CLASSES = 4

#: a network and its preset, in small: what no form is made of
SMALL = {
    "model.num_classes": CLASSES,
    "model.body": "resnet18",
    "model.rpn_channels": 16,
    "model.rpn_batch_size_per_image": 64,
    "model.rpn_pre_nms_top_n_train": 100,
    "model.rpn_post_nms_top_n_train": 60,
    "model.box_batch_size_per_image": 24,
    "model.rpn_min_size": 0.0,
}
PYRAMID = {
    "model.fpn_channels": 16,
    "model.anchor_sizes": (8, 16, 32, 64, 128),
    "model.box_head_dim": 16,
}
FORMS = {
    "gluoncv's pyramid": ("faster_rcnn_r50_fpn", "gluoncv", PYRAMID),
    "gluoncv's C4": ("faster_rcnn_r50v1_c4", None, {"model.anchor_scales": (1, 2, 4)}),
    "gluoncv's masks": ("mask_rcnn_r50_fpn", "gluoncv", {**PYRAMID, "model.mask_channels": 8}),
    "matterport's": ("mask_rcnn_r50_fpn", "matterport", {**PYRAMID, "model.mask_channels": 8}),
}
OF_GLUONCV = [name for name in FORMS if name.startswith("gluoncv")]


def form(name, **fields):
    network, preset, small = FORMS[name]
    settings = {} if preset is None else get_detector(network).presets[preset]
    config = override(make_config(network), settings)
    small = {**SMALL, **small, **{f"model.{key}": value for key, value in fields.items()}}
    return override(config, small)


# --- targets ------------------------------------------------------------------------------------

#: of an image without its padding, and with it
IMAGE, PADDED = (150, 210), (160, 224)


def image_of(seed):
    """Objects of all sizes, some of which lie at the border."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-40, 150, (9, 2))
    ends = corners + np.exp(rng.uniform(2.3, 5, (9, 2)))
    limits = np.float32([IMAGE[1], IMAGE[0]])
    boxes = np.concatenate([np.maximum(corners, 0), np.minimum(ends, limits)], axis=1)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 5).all(axis=1)]
    classes = rng.integers(1, 4, (len(boxes), 1))
    return np.concatenate([boxes, classes], axis=1).astype(np.float32)


def rpn_targets_of(config, boxes):
    """Every anchor's label and targets: all anchors are sampled."""
    detector = get_detector(config.network)
    inputs = ImageTargetsInput(boxes, IMAGE, PADDED)
    found = detector.assign_targets(config.model, inputs, np.random.default_rng(0))
    return found["rpn_label"], found["rpn_bbox_target"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", OF_GLUONCV)
def test_gluoncv_s_rpn_targets(name, seed):
    mx.nd.zeros(1)  # puts back what gluoncv's import of mxnet needs
    from gluoncv.model_zoo.rcnn.rpn.rpn_target import RPNTargetGenerator

    config = form(name, rpn_batch_size_per_image=10**6)
    boxes = image_of(seed)
    anchors = config.model.anchors.grid(*PADDED)
    generator = RPNTargetGenerator(num_sample=10**6)
    arrays = mx.nd.array(boxes[:, :4]), mx.nd.array(anchors)
    labels, targets, _ = generator(*arrays, IMAGE[1], IMAGE[0])
    found, found_targets = rpn_targets_of(config, boxes)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(found_targets, targets, atol=1e-5)
    crossing = (anchors[:, :2] < 0).any(axis=1)
    assert (found[crossing] == -1).all()
    assert (found == 1).sum() >= 5
    assert {-1, 0, 1} == set(found)


def matterport_s_rpn_targets(anchors, boxes):
    """build_rpn_targets, without its sampling: xyxy here, where it has yxyx."""
    labels, targets = np.full(len(anchors), -1), np.zeros((len(anchors), 4))
    overlaps = np.zeros((len(anchors), len(boxes)))
    for g, (x1, y1, x2, y2) in enumerate(boxes[:, :4].astype(float)):
        ax1, ay1, ax2, ay2 = anchors.T.astype(float)
        width = np.maximum(np.minimum(x2, ax2) - np.maximum(x1, ax1), 0)
        height = np.maximum(np.minimum(y2, ay2) - np.maximum(y1, ay1), 0)
        union = (x2 - x1) * (y2 - y1) + (ax2 - ax1) * (ay2 - ay1) - width * height
        overlaps[:, g] = width * height / union
    nearest = overlaps.argmax(axis=1)
    labels[overlaps.max(axis=1) < 0.3] = 0
    labels[np.argwhere(overlaps == overlaps.max(axis=0))[:, 0]] = 1
    labels[overlaps.max(axis=1) >= 0.7] = 1
    for a in np.flatnonzero(labels == 1):
        x1, y1, x2, y2 = boxes[nearest[a], :4]
        ax1, ay1, ax2, ay2 = anchors[a]
        width, height = ax2 - ax1, ay2 - ay1
        moved = ((x1 + x2) - (ax1 + ax2)) / 2 / width, ((y1 + y2) - (ay1 + ay2)) / 2 / height
        targets[a] = *moved, np.log((x2 - x1) / width), np.log((y2 - y1) / height)
    return labels, targets / [0.1, 0.1, 0.2, 0.2]


@pytest.mark.parametrize("seed", range(4))
def test_matterport_s_rpn_targets(seed):
    config = form("matterport's", rpn_batch_size_per_image=10**6)
    boxes = image_of(seed)
    anchors = config.model.anchors.grid(*PADDED)
    labels, targets = matterport_s_rpn_targets(anchors, boxes)
    found, found_targets = rpn_targets_of(config, boxes)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(found_targets, targets, atol=1e-4)
    assert (found[(anchors[:, :2] < 0).any(axis=1)] >= 0).any()


@pytest.mark.parametrize("name", OF_GLUONCV)
def test_gluoncv_s_roi_targets(name):
    """Its targets for RoIs and their objects; it has no row for the background."""
    mx.nd.zeros(1)  # puts back what gluoncv's import of mxnet needs
    from gluoncv.model_zoo.rcnn.faster_rcnn.rcnn_target import RCNNTargetGenerator

    model, boxes = form(name).model, image_of(0)
    rng = np.random.default_rng(0)
    proposals = np.repeat(boxes[:, :4], 6, axis=0) + rng.normal(0, 8, (6 * len(boxes), 4))
    sampling = RoISampling(100, 1.0, model.box_fg_iou_thresh, fill_with_background=False)
    coder = BoxCoder(stds=model.box_bbox_stds)
    found = roi_targets(proposals.astype(np.float32), boxes, CLASSES, sampling, coder, rng)
    rois, labels, targets, weights, matched = found
    positive = int((labels > 0).sum())
    assert positive > 10
    generator = RCNNTargetGenerator(CLASSES - 1, max_pos=positive)
    generator.initialize()
    samples = np.select([labels > 0, labels == 0], [1, -1], 0)
    inputs = (rois, samples, matched, boxes[:, 4:] - 1, boxes[:, :4])
    classes, expected, mask, rows = (
        x.asnumpy()[0] for x in generator(*(mx.nd.array(x[None]) for x in inputs))
    )
    np.testing.assert_array_equal(labels, classes)
    own, weights = (x.reshape(-1, CLASSES, 4)[rows.astype(int), 1:] for x in (targets, weights))
    np.testing.assert_array_equal(weights, mask)
    np.testing.assert_allclose(own, expected * mask, atol=1e-5)


# --- losses -------------------------------------------------------------------------------------

BOX = "roi_heads.box_predictor."
#: of the box head: what it puts out, and what its losses ask for
ROI_PARTS = (
    f"{BOX}cls_score",
    f"{BOX}bbox_pred",
    *(f"proposal_target_{name}" for name in ("label", "bbox_target", "bbox_weight")),
)


def bind(group, config):
    """An executor of a training graph and its values: two images of noise, new parameters."""
    detector, batch = get_detector(config.network), random_batch(config, images=2)
    values = {**batch.data, **batch.labels}
    shapes, _, aux_shapes = group.infer_shape(**{n: v.shape for n, v in values.items()})
    rng = np.random.default_rng(0)
    for name, shape in zip(group.list_arguments(), shapes):
        if name not in values:
            values[name] = detector.init(config.model, name, shape, rng, True)
            if "bbox_pred_bias" in name or "cls_" in name:
                values[name] = rng.normal(0, 0.8, shape)  # so that losses are on both sides of beta
    auxs = {
        name: mx.nd.array(detector.init(config.model, name, shape, rng, True))
        for name, shape in zip(group.list_auxiliary_states(), aux_shapes)
    }
    types = {name: np.uint8 if v.dtype == np.uint8 else np.float32 for name, v in values.items()}
    args = {name: mx.nd.array(v, dtype=types[name]) for name, v in values.items()}
    # MXNet computes the gradient of a bias only beside that of its weight
    heads = [name for name in args if name.startswith(("rpn.head.", BOX))]
    grads = {name: mx.nd.zeros(args[name].shape) for name in heads}
    return group.bind(mx.cpu(), args, args_grad=grads, aux_states=auxs), values


def training_pass(config):
    """(outputs, what they are made of, gradients of the biases) of a step, each by name.

    rpn_logits (2, N, 1) and rpn_deltas (2, N, 4) are in the order of the anchors.
    """
    symbol = get_detector(config.network).train_symbol(config.model, 2)
    inside = symbol.get_internals()
    levels = [n for n in inside.list_outputs() if re.match(r"rpn\.head\.\w+\.\d_output", n)]
    levels = [n for n in levels if "relu" not in n]
    names = [*levels, *(f"{name}_output" if name.startswith(BOX) else name for name in ROI_PARTS)]
    group = mx.sym.Group([symbol, *(mx.sym.BlockGrad(inside[name]) for name in names)])
    executor, values = bind(group, config)
    found = [x.asnumpy() for x in executor.forward(is_train=True)]
    executor.backward()
    outputs = {n[: -len("_output")]: x for n, x in zip(symbol.list_outputs(), found)}
    parts = dict(zip([*levels, *ROI_PARTS], found[len(outputs) :]))
    for name, kind, columns in (("rpn_logits", "cls_logits", 1), ("rpn_deltas", "bbox_pred", 4)):
        maps = [parts[n] for n in levels if kind in n]
        rows = [x.transpose(0, 2, 3, 1).reshape(2, -1, columns) for x in maps]
        parts[name] = np.concatenate(rows, axis=1)
    grads = {name: x.asnumpy() for name, x in executor.grad_dict.items() if x is not None}
    return outputs, {**values, **parts}, grads


def gluoncv_s_step(parts):
    """gluoncv's own training step on these predictions and targets: losses and gradients."""
    mx.nd.zeros(1)  # puts back what gluoncv's import of mxnet needs
    from gluoncv.model_zoo.rcnn.faster_rcnn.data_parallel import ForwardBackwardTask
    from mxnet.gluon import loss

    def rois(name, *shape):
        return mx.nd.array(parts[name]).reshape((2, -1, *shape))

    logits, deltas = (mx.nd.array(parts[name]) for name in ("rpn_logits", "rpn_deltas"))
    scores, boxes = rois(ROI_PARTS[0], CLASSES), rois(ROI_PARTS[1], CLASSES, 4)
    for array in (logits, deltas, scores, boxes):
        array.attach_grad()
    labels, targets = rois(ROI_PARTS[2]).reshape((2, -1)), rois(ROI_PARTS[3], CLASSES, 4)
    weights = rois(ROI_PARTS[4], CLASSES, 4)
    first = {"begin": (None, None, 1), "end": (None, None, None)}  # it has no background there

    def net(data, gt_box, gt_label):
        targets_of_class = (targets.slice(**first), weights.slice(**first), None)
        answers = scores, boxes.slice(**first), None, None, None, logits, deltas, None
        return (*answers, labels, *targets_of_class)

    # the script's losses, with their defaults
    task = ForwardBackwardTask.__new__(ForwardBackwardTask)
    task.net, task.mix_ratio, task.amp_enabled = net, 1, False
    task.rpn_cls_loss = loss.SigmoidBinaryCrossEntropyLoss(from_sigmoid=False)
    task.rpn_box_loss = loss.HuberLoss(rho=1 / 9)
    task.rcnn_cls_loss = loss.SoftmaxCrossEntropyLoss()
    task.rcnn_box_loss = loss.HuberLoss(rho=1.0)
    rpn_label = mx.nd.array(parts["rpn_label"])
    foreground = mx.nd.array(np.repeat(parts["rpn_label"][..., None] == 1, 4, axis=2))
    rpn_target = mx.nd.array(parts["rpn_bbox_target"])
    found = task.forward_backward((None, mx.nd.zeros((2, 1, 5)), rpn_label, rpn_target, foreground))
    # its trainer divides the gradients by the two images
    gradients = [array.grad.asnumpy() / 2 for array in (logits, deltas, scores, boxes)]
    return [x.asscalar() for x in found[:4]], gradients


LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")


@pytest.mark.parametrize("name", OF_GLUONCV)
def test_gluoncv_s_losses(name):
    outputs, parts, grads = training_pass(form(name))
    expected, gradients = gluoncv_s_step(parts)
    assert (parts["proposal_target_label"] > 0).sum() > 2
    np.testing.assert_allclose([outputs[key][0] for key in LOSSES], expected, rtol=1e-4)
    rpn_logits, rpn_deltas, scores, boxes = gradients
    anchors = len(grads["rpn.head.cls_logits_bias"])
    for key, gradient in (
        ("rpn.head.cls_logits", rpn_logits.reshape(-1, anchors)),
        ("rpn.head.bbox_pred", rpn_deltas.reshape(-1, 4 * anchors)),
        (f"{BOX}cls_score", scores.reshape(-1, CLASSES)),
        (f"{BOX}bbox_pred", boxes.reshape(-1, 4 * CLASSES)),
    ):
        found = grads[f"{key}_bias"]
        assert np.abs(found).max() > 1e-3
        np.testing.assert_allclose(found, gradient.sum(axis=0), atol=1e-5, err_msg=key)


def huber(difference):
    """matterport's smooth_l1_loss."""
    size = np.abs(difference)
    return np.where(size < 1, 0.5 * size**2, size - 0.5)


def test_matterport_s_box_losses():
    """K.mean over the four numbers of all that is foreground; 0 where nothing is."""
    outputs, parts, _ = training_pass(form("matterport's"))
    fg = parts["rpn_label"] == 1
    expected = huber(parts["rpn_deltas"] - parts["rpn_bbox_target"])[fg].mean()
    assert outputs["loss_rpn_box_reg"][0] == pytest.approx(expected, rel=1e-4)
    assert outputs["rpn_foreground"][0] == fg.sum()
    label = parts["proposal_target_label"].astype(int)
    rows = np.flatnonzero(label > 0)
    deltas, targets = (
        parts[n].reshape(-1, CLASSES, 4)[rows, label[rows]] for n in ROI_PARTS[1:4:2]
    )
    assert len(rows) > 2
    assert outputs["loss_box_reg"][0] == pytest.approx(huber(deltas - targets).mean(), rel=1e-4)
    assert outputs["roi_foreground"][0] == len(rows)


@pytest.mark.parametrize("mean", ["samples", "foreground"])
def test_parts_of_a_batch_weigh_as_many_as_they_have(mean):
    """The losses of two devices, weighted by `counts`, equal the loss of all RoIs together."""
    names = ("logits", "deltas", "label", "target", "weight")
    rng = np.random.default_rng(0)
    label = np.float32([1, 0, 0, 2, 3, 3, 0, -1])
    values = {
        "logits": rng.normal(size=(8, CLASSES)),
        "deltas": rng.normal(size=(8, 4 * CLASSES)),
        "label": label,
        "target": rng.normal(size=(8, 4 * CLASSES)),
        "weight": np.repeat(np.eye(CLASSES)[np.maximum(label, 0).astype(int)], 4, axis=1)
        * (label > 0)[:, None],
    }
    with partial_batches():
        symbol = mx.sym.Group(box_head_losses(*map(mx.sym.Variable, names), None, 0.5, mean))

    def found(rows):
        shares = {f"{name}{SHARE}": np.ones(1) for name in LOSSES[2:]}
        outputs, _ = backward(symbol, **{n: v[rows] for n, v in values.items()}, **shares)
        named = dict(zip([n[: -len("_output")] for n in symbol.list_outputs()], outputs))
        counts = two_stage_counts({"rpn_accuracy": np.zeros(2), **named}, {})
        return named["loss_box_reg"][0], counts["loss_box_reg"][0]

    whole, count = found(slice(None))
    parts = [found(rows) for rows in (slice(0, 3), slice(3, 8))]
    assert count == {"samples": 7, "foreground": 4}[mean]
    assert whole == pytest.approx(sum(loss * own / count for loss, own in parts), rel=1e-5)


# --- configs ------------------------------------------------------------------------------------


def test_a_run_older_than_its_form_goes_on_as_it_began():
    """Runs of v1b were trained with torchvision's rules before the form had gluoncv's."""
    config = make_config("faster_rcnn_r50v1_c4")
    stored = to_dict(config)
    assert from_dict(stored) == config
    del stored["model"]["box_smooth_l1_beta"]
    for name in ("rpn_inside_only", "rpn_best_below_bg", "box_loss_mean"):
        del stored["model"]["form"][name]
    old = from_dict(stored).model
    assert not old.form.rpn_inside_only
    assert old.form.rpn_best_below_bg
    assert old.box_smooth_l1_beta == BETA
