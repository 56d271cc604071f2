"""FCOS (Tian et al. 2019, and its second version of 2020): one stage, points instead of anchors.

Letters: B images per device, H, W size of the padded image or a feature map, N points per image
(all levels, each row by row), C classes with background 0, K = C - 1 sigmoid channels, L levels,
P points kept per level, D detections. Parameter names and defaults are torchvision's.

Training differs from torchvision in one detail. If a point may belong to several objects, it is
assigned to the smallest. torchvision does the same, but compares 1e8 - area in float32, which has
steps of 8 square pixels there: among objects whose areas differ by less, it takes the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from symnet import two_stage
from symnet.config import presets
from symnet.config.detector import is_frozen, is_of_body
from symnet.config.fcos import FCOSConfig
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.geometry.targets import PointMatching, fcos_targets
from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.ops.tensors import best, cell_size, columns_and_rows, quotient, rows, take_rows
from symnet.parts import fpn
from symnet.parts.detections import cut_to_image, suppressed
from symnet.parts.layers import conv_levels, relu
from symnet.parts.losses import (
    binary_cross_entropy,
    class_weight,
    focal_loss,
    giou_loss,
    l1_loss,
    own_mean_loss,
)
from symnet.parts.metrics import fcos_counts, fcos_metrics
from symnet.parts.norms import group_norm_levels

LABELS = ("fcos_label", "fcos_ltrb", "fcos_centerness")


@dataclass(frozen=True)
class FCOSHead:
    """The head's outputs for each level.

    cls_logits (B, K or C, H, W); ltrb (B, 4, H, W): the distances to the four sides in strides, at
    least 0; centerness: logits (B, 1, H, W).
    """

    cls_logits: list[Symbol]
    ltrb: list[Symbol]
    centerness: list[Symbol]


def tower(config: FCOSConfig, pyramid: list[Symbol], name: str) -> list[Symbol]:
    """3x3 convolutions, group normalisation and ReLU for each level (B, channels, H, W)."""
    for layer in range(config.head_layers):
        place = [f"{name}.conv.{3 * layer + part}" for part in range(3)]
        pyramid = conv_levels(pyramid, place[0], config.fpn_channels)
        if config.head_norm == "group":
            pyramid = group_norm_levels(pyramid, place[1], config.fpn_channels)
        pyramid = [relu(data, f"{place[2]}.{level}") for level, data in enumerate(pyramid)]
    return pyramid


def fcos_head(config: FCOSConfig, data: Symbol, train: bool) -> FCOSHead:
    """Images (B, 3, H, W) -> body -> pyramid -> two towers, shared by all levels (figure 2)."""
    maps = config.feature_maps(data, train)
    pyramid = fpn.fpn(
        [maps[stride] for stride in config.body_strides()],
        config.fpn_channels,
        "" if config.norm == "frozen" else config.norm,
        "p6p7" if config.p6p7 else "",
    )
    names = {kind: f"head.{kind}_head" for kind in ("classification", "regression")}
    towers = {kind: tower(config, pyramid, name) for kind, name in names.items()}

    def layer(kind: str, name: str, filters: int) -> list[Symbol]:
        maps = conv_levels(towers[kind], f"{names[kind]}.{name}", filters, predicts=True)
        return [float32(data) for data in maps]

    channels = config.num_classes - (not config.form.background_channel)
    distances = layer("regression", "bbox_reg", 4)
    return FCOSHead(
        layer("classification", "cls_logits", channels),
        [relu(data, f"ltrb.{level}") for level, data in enumerate(distances)],
        layer(config.form.centerness_on, "bbox_ctrness", 1),
    )


def fcos_losses(config: FCOSConfig, head: FCOSHead, labels: list[Symbol]) -> list[Symbol]:
    """The three losses (1,), divided by the number of foreground points of all images, and it.

    labels: label (B, N), k - 1 for class k, -1 for background and, with ignore_overlap, -2 for
    points without a loss; ltrb (B, N, 4) in strides; centerness (B, N). Only foreground points have
    a box loss and a centerness loss.
    """
    label, ltrb_target, centerness_target = labels
    first = int(config.form.background_channel)
    channels = config.num_classes - 1 + first
    logits = mx.sym.concat(*(rows(x, channels) for x in head.cls_logits), dim=1)
    ltrb = mx.sym.concat(*(rows(x, 4) for x in head.ltrb), dim=1)
    centerness = mx.sym.concat(*(rows(x, 1) for x in head.centerness), dim=1)
    centerness = mx.sym.reshape(centerness, shape=(0, -1))
    fg = label >= 0
    count = mx.sym.sum(fg)
    target = mx.sym.broadcast_mul(
        mx.sym.one_hot(mx.sym.relu(label) + first, depth=channels), mx.sym.expand_dims(fg, axis=2)
    )
    box_loss = {"giou": giou_loss, "l1": l1_loss}[config.box_loss](ltrb, ltrb_target)
    class_loss = focal_loss(logits, target, config.focal_alpha, config.focal_gamma)
    weight = class_weight(label, first=1)
    if weight is not None:
        class_loss = mx.sym.broadcast_mul(class_loss, mx.sym.expand_dims(weight, axis=2))
    if config.ignore_overlap:
        class_loss = mx.sym.broadcast_mul(class_loss, mx.sym.expand_dims(label >= -1, axis=2))
    losses = {
        "loss_classification": class_loss,
        "loss_bbox_regression": config.box_loss_weight * box_loss * fg,
        "loss_bbox_ctrness": binary_cross_entropy(centerness, centerness_target) * fg,
    }
    divisor = mx.sym.maximum(count, 1)
    outputs = [own_mean_loss(mx.sym.sum(x) / divisor, name) for name, x in losses.items()]
    return [*outputs, mx.sym.BlockGrad(count, name="foreground")]


def train_symbol(config: FCOSConfig, images: int) -> Symbol:
    """The training graph; losses are divided by the foreground points of all images."""
    head = fcos_head(config, mx.sym.Variable("data"), train=True)
    return mx.sym.Group(fcos_losses(config, head, [mx.sym.Variable(name) for name in LABELS]))


def level_rows(
    config: FCOSConfig, head: FCOSHead, level: int, data: Symbol, im_info: Symbol
) -> Symbol:
    """A level's best candidates (B, P, 6): class, score and box, clipped to the image.

    The score is sqrt(class probability * centerness).
    """
    logits, channels = head.cls_logits[level], config.num_classes - 1
    if config.form.background_channel:
        logits = mx.sym.slice_axis(logits, axis=1, begin=1, end=None)
    probability = mx.sym.broadcast_mul(
        mx.sym.sigmoid(logits), mx.sym.sigmoid(head.centerness[level])
    )
    scores = mx.sym.reshape(rows(mx.sym.sqrt(probability), channels), shape=(0, -1))
    score, index = best(scores, config.pre_nms_top_n, filling=-1)
    cell, kind = quotient(index, channels)
    x, y = columns_and_rows(cell, logits)
    stride = config.points.strides[level]
    if config.form.centred:
        x, y = (x + 0.5) * stride, (y + 0.5) * stride
    else:
        width, height = cell_size(logits, data)
        x, y = mx.sym.broadcast_mul(x, width), mx.sym.broadcast_mul(y, height)
    point = mx.sym.stack(x, y, axis=2)
    ltrb = stride * take_rows(rows(head.ltrb[level], 4), cell)
    low = point - mx.sym.slice_axis(ltrb, axis=2, begin=0, end=2)
    high = point + mx.sym.slice_axis(ltrb, axis=2, begin=2, end=4)
    boxes = mx.sym.expand_dims(mx.sym.concat(low, high, dim=2), axis=2)
    boxes = mx.sym.reshape(cut_to_image(boxes, im_info), shape=(0, 0, -1))
    kind = mx.sym.expand_dims(kind + 1, axis=2)
    return mx.sym.concat(kind, mx.sym.expand_dims(score, axis=2), boxes, dim=2)


def test_symbol(config: FCOSConfig) -> Symbol:
    """The test graph: the best candidates of each level, then NMS per class over all levels."""
    data, im_info = mx.sym.Variable("data"), mx.sym.Variable("im_info")
    head = fcos_head(config, data, train=False)
    levels = range(len(head.ltrb))
    rows = mx.sym.concat(*(level_rows(config, head, i, data, im_info) for i in levels), dim=1)
    return mx.sym.Group(
        suppressed(rows, config.score_thresh, config.nms_thresh, -1, config.detections_per_img)
    )


def assign_targets(
    config: FCOSConfig, image: ImageTargetsInput, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Targets of one image: fcos_label (N,), fcos_ltrb (N, 4), fcos_centerness (N,)."""
    points, levels = config.points.grid(*image.padded_size)
    rule = PointMatching(tuple(config.size_range), config.center_sampling_radius)
    targets = fcos_targets(points, levels, config.points.strides, image.gt_boxes, rule)
    return dict(zip(LABELS, targets))


def init(
    config: FCOSConfig, name: str, shape: tuple[int, ...], rng: np.random.Generator, scratch: bool
) -> np.ndarray:
    """Initial values: head N(0, 0.01), pyramid uniform with variance 1 / fan in.

    The class bias gives each class the prior probability. The rest is as in two_stage.py.
    """
    if name.endswith("cls_logits_bias"):
        return np.full(shape, -math.log((1 - config.prior) / config.prior), np.float32)
    if name.endswith("_weight") and name.startswith("head."):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.01)
    if name.endswith("_weight") and name.startswith(fpn.PREFIX):
        bound = np.sqrt(3 / np.prod(shape[1:]))
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    return two_stage.init(config, name, shape, rng, scratch)


def make_detector(name: str, defaults: dict[str, Any], quick: dict[str, Any]) -> DetectorDef:
    """Make a detector of this family.

    defaults, quick: its settings in addition to torchvision's and the quick preset's.
    """
    return DetectorDef(
        name=name,
        config=FCOSConfig,
        train_symbol=train_symbol,
        test_symbol=test_symbol,
        assign_targets=assign_targets,
        label_names=LABELS,
        init=init,
        metrics=fcos_metrics,
        counts=fcos_counts,
        counts_labels=True,
        losses=("FocalLoss", "BoxLoss", "CenternessLoss"),
        stride=two_stage.STRIDE,
        of_body=is_of_body,
        quick={**presets.FCOS_QUICK, **quick},
        defaults={**presets.TORCHVISION, "train.lr": 0.000625, **defaults},
        scratch={"model.norm": "batch", "model.trainable_layers": 5},
        frozen=is_frozen,
        data_names=("data",),
    )


DETECTORS = {
    "fcos_r50_fpn": make_detector("fcos_r50_fpn", {}, {"model.body": "resnet18"}),
    "fcos_regnetx_400mf": make_detector("fcos_regnetx_400mf", presets.FCOS_REGNET, {}),
}
