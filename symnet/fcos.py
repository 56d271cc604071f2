"""FCOS (Tian et al. 2019, and its second form of 2020): one stage, and points instead of anchors.

Letters: B images a device, H, W the padded image or a map, N points of an image (all levels, each
along its rows), C classes with background 0, K = C - 1 sigmoid channels, L levels, P the points
kept a level, D detections. Parameters have torchvision's names; every default is torchvision's.

One rule of training is not: of the objects that a point may belong to it gets the smallest. So it
does in torchvision, which compares 1e8 - area in float32, whose steps there are 8 square pixels: of
objects that differ by less it takes the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from symnet import faster_rcnn_fpn
from symnet.bodies import regnet, resnet
from symnet.config.ranges import check_ranges, refuse
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.geometry.anchors import PyramidPoints
from symnet.geometry.targets import PointMatching, fcos_targets
from symnet.machine import mx
from symnet.parts import fpn
from symnet.parts.layers import (
    binary_cross_entropy,
    conv_levels,
    float32,
    group_norm_levels,
    own_mean_loss,
    relu,
)
from symnet.parts.metrics import fcos_counts, fcos_metrics
from symnet.parts.roi import cut_to_image, suppressed

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

Body = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "regnet_x_400mf",
    "regnet_x_400mf_torchvision",
]
LABELS = ("fcos_label", "fcos_ltrb", "fcos_centerness")

#: c3, c4, c5 of an image, of maps normalised in that way
BODIES = {
    **{
        f"resnet{depth}": lambda data, norm, depth=depth: resnet.resnet(data, depth, norm)[1:]
        for depth in resnet.DEPTHS
    },
    "regnet_x_400mf": lambda data, norm: regnet.regnet(data, regnet.X_400MF, norm)[1:],
    "regnet_x_400mf_torchvision": lambda data, norm: regnet.regnet(
        data, regnet.X_400MF_TORCHVISION, norm
    )[1:],
}


@dataclass(frozen=True)
class FCOSConfig:
    """torchvision's values, in the order in which data flow through the network.

    ValueError names a field out of its range (symnet/config/ranges.py).
    """

    #: classes, with the background
    num_classes: int = 91
    #: the body; regnet_x_400mf has the paper's 384 channels in c5, torchvision's own has 400
    body: Body = "resnet50"
    #: how the body is normalised: on stored statistics (frozen), or trained by batch or by group
    norm: Literal["frozen", "batch", "group"] = "frozen"
    #: how many of the body's five stages are trained, counted from its end
    trainable_layers: int = 3
    #: channels of every level of the pyramid, and of the head
    fpn_channels: int = 256
    #: whether the pyramid has the levels p6 and p7 beside p3, p4, p5
    p6p7: bool = True
    #: convolutions of each of the head's two towers
    head_layers: int = 4
    #: how they are normalised
    head_norm: Literal["group", "none"] = "group"
    #: the tower that centerness is predicted from (first paper: classification, second: regression)
    centerness_on: Literal["classification", "regression"] = "regression"
    #: whether a channel of class scores is the background's, never positive and never detected
    background_channel: bool = True
    #: the probability that every class has at every point before training
    prior: float = 0.01
    #: whether points are the centres of cells, not their corners (torchvision)
    centred: bool = False
    #: the least and largest distance, in strides, from a level's points to their object's far side
    size_range: tuple[float, ...] = (4.0, 8.0)
    #: how far from its object's centre a point may lie, in strides; 0: anywhere in the object
    centre_radius: float = 1.5
    #: above 0, points in a crowd or difficult object, and in no other, have no class loss; 0: they
    #: are background
    ignore_overlap: float = 0.0
    #: the weight of positive points in the focal loss; 1 - focal_alpha that of negative ones
    focal_alpha: float = 0.25
    #: the focal loss's exponent: how little easy points count
    focal_gamma: float = 2.0
    #: of a point's four distances: 1 - GIoU of the boxes, or the sum of the absolute differences
    box_loss: Literal["giou", "l1"] = "giou"
    #: a factor of the box loss; 0.25 with l1 is the mean of the four differences, not their sum
    box_loss_weight: float = 1.0
    #: detections with a score not above it are left out
    score_thresh: float = 0.2
    #: the best candidates of each level that go into NMS
    pre_nms_top_n: int = 1000
    #: NMS removes detections that overlap a better one of their class more than that
    nms_thresh: float = 0.6
    #: the most detections of an image
    detections_per_img: int = 100

    def __post_init__(self) -> None:
        check_ranges(self)
        low, high = self.size_range
        if high < 2 * low:
            refuse(
                self,
                "size_range",
                "objects between two levels would have no points: the second "
                "number must be at least twice the first",
            )

    @property
    def points(self) -> PyramidPoints:
        """The points of p3, p4, p5 and, if there are, p6 and p7."""
        return PyramidPoints(
            tuple(2**level for level in range(3, 8 if self.p6p7 else 6)), self.centred
        )


@dataclass(frozen=True)
class FCOSHead:
    """Of each level: class logits (B, K or C, H, W), distances to the four sides in strides, at
    least 0, ltrb (B, 4, H, W), and centerness as logits (B, 1, H, W)."""

    cls_logits: list[Symbol]
    ltrb: list[Symbol]
    centerness: list[Symbol]


def tower(config: FCOSConfig, pyramid: list[Symbol], name: str) -> list[Symbol]:
    """3x3 convolutions, group normalisation and ReLU over each level (B, channels, H, W)."""
    for layer in range(config.head_layers):
        place = [f"{name}.conv.{3 * layer + part}" for part in range(3)]
        pyramid = conv_levels(pyramid, place[0], config.fpn_channels)
        if config.head_norm == "group":
            pyramid = group_norm_levels(pyramid, place[1], config.fpn_channels)
        pyramid = [relu(data, f"{place[2]}.{level}") for level, data in enumerate(pyramid)]
    return pyramid


def fcos_head(config: FCOSConfig, data: Symbol, train: bool) -> FCOSHead:
    """Image (B, 3, H, W) -> body -> pyramid -> two towers, shared by the levels (figure 2)."""
    norm = "folded" if train and config.norm == "frozen" else config.norm
    pyramid = fpn.fpn(
        BODIES[config.body](data, norm),
        config.fpn_channels,
        "" if config.norm == "frozen" else norm,
        "p6p7" if config.p6p7 else "",
    )
    names = {kind: f"head.{kind}_head" for kind in ("classification", "regression")}
    towers = {kind: tower(config, pyramid, name) for kind, name in names.items()}

    def layer(kind: str, name: str, filters: int) -> list[Symbol]:
        maps = conv_levels(towers[kind], f"{names[kind]}.{name}", filters, predicts=True)
        return [float32(data) for data in maps]

    channels = config.num_classes - (not config.background_channel)
    distances = layer("regression", "bbox_reg", 4)
    return FCOSHead(
        layer("classification", "cls_logits", channels),
        [relu(data, f"ltrb.{level}") for level, data in enumerate(distances)],
        layer(config.centerness_on, "bbox_ctrness", 1),
    )


def focal_loss(logits: Symbol, target: Symbol, alpha: float, gamma: float) -> Symbol:
    """Lin et al. 2017, equation 5, of logits and targets 0 or 1 of any one shape: of that shape.

    -alpha_t (1 - p_t)^gamma log p_t. As 1 - p_t is the probability of the opposite, its logarithm
    is the opposite's cross-entropy: so the power is finite, and has a gradient, for any logit.
    """
    opposite = binary_cross_entropy(logits, 1 - target)
    balance = (1 - alpha) + (2 * alpha - 1) * target
    return balance * mx.sym.exp(-gamma * opposite) * binary_cross_entropy(logits, target)


def giou_loss(ltrb: Symbol, target: Symbol) -> Symbol:
    """1 - GIoU (Rezatofighi et al. 2019) of boxes around the same points: (B, N, 4) -> (B, N).

    Both are distances to left, top, right, bottom, at least 0: boxes that share a point overlap.
    """

    def area(distances: Symbol) -> Symbol:
        left, top, right, bottom = mx.sym.split(distances, 4, axis=2, squeeze_axis=True)
        return (left + right) * (top + bottom)

    shared, hull = area(mx.sym.minimum(ltrb, target)), area(mx.sym.maximum(ltrb, target))
    union = area(ltrb) + area(target) - shared
    tiny = 1e-7
    return 1 - shared / (union + tiny) + (hull - union) / (hull + tiny)


def l1_loss(ltrb: Symbol, target: Symbol) -> Symbol:
    """The absolute differences of the four distances (B, N, 4), added up, not their mean: (B, N).

    The FCOS of the course EECS 498 has a quarter of it: `box_loss_weight` 0.25.
    """
    return mx.sym.sum(mx.sym.abs(ltrb - target), axis=2)


def fcos_losses(config: FCOSConfig, head: FCOSHead, labels: list[Symbol]) -> list[Symbol]:
    """The three losses (1,), sums divided by the foreground points of all images, and their number.

    labels: label (B, N), k - 1 for class k, -1 for background and, with ignore_overlap, -2 for
    points without any loss; ltrb (B, N, 4) in strides; centerness (B, N). Only foreground points
    have a box and a centerness loss.
    """
    label, ltrb_target, centerness_target = labels
    first = int(config.background_channel)
    channels = config.num_classes - 1 + first
    logits = mx.sym.concat(*(fpn.rows(x, channels) for x in head.cls_logits), dim=1)
    ltrb = mx.sym.concat(*(fpn.rows(x, 4) for x in head.ltrb), dim=1)
    centerness = mx.sym.concat(*(fpn.rows(x, 1) for x in head.centerness), dim=1)
    centerness = mx.sym.reshape(centerness, shape=(0, -1))
    fg = label >= 0
    count = mx.sym.sum(fg)
    target = mx.sym.broadcast_mul(
        mx.sym.one_hot(mx.sym.relu(label) + first, depth=channels), mx.sym.expand_dims(fg, axis=2)
    )
    box_loss = {"giou": giou_loss, "l1": l1_loss}[config.box_loss](ltrb, ltrb_target)
    class_loss = focal_loss(logits, target, config.focal_alpha, config.focal_gamma)
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
    """The training graph; the losses are divided by the foreground points of all its images."""
    head = fcos_head(config, mx.sym.Variable("data"), train=True)
    return mx.sym.Group(fcos_losses(config, head, [mx.sym.Variable(name) for name in LABELS]))


def level_rows(
    config: FCOSConfig, head: FCOSHead, level: int, data: Symbol, im_info: Symbol
) -> Symbol:
    """The best of a level: (B, P, 6) class, score = sqrt(class * centerness), and box, cut to the
    image."""
    logits, channels = head.cls_logits[level], config.num_classes - 1
    if config.background_channel:
        logits = mx.sym.slice_axis(logits, axis=1, begin=1, end=None)
    probability = mx.sym.broadcast_mul(
        mx.sym.sigmoid(logits), mx.sym.sigmoid(head.centerness[level])
    )
    scores = mx.sym.reshape(fpn.rows(mx.sym.sqrt(probability), channels), shape=(0, -1))
    score, index = fpn.best(scores, config.pre_nms_top_n, filling=-1)
    cell, kind = fpn.quotient(index, channels)
    x, y = fpn.columns_and_rows(cell, logits)
    stride = config.points.strides[level]
    if config.centred:
        x, y = (x + 0.5) * stride, (y + 0.5) * stride
    else:
        width, height = fpn.cell_size(logits, data)
        x, y = mx.sym.broadcast_mul(x, width), mx.sym.broadcast_mul(y, height)
    point = mx.sym.stack(x, y, axis=2)
    ltrb = stride * fpn.take_rows(fpn.rows(head.ltrb[level], 4), cell)
    low = point - mx.sym.slice_axis(ltrb, axis=2, begin=0, end=2)
    high = point + mx.sym.slice_axis(ltrb, axis=2, begin=2, end=4)
    boxes = mx.sym.expand_dims(mx.sym.concat(low, high, dim=2), axis=2)
    boxes = mx.sym.reshape(cut_to_image(boxes, im_info), shape=(0, 0, -1))
    kind = mx.sym.expand_dims(kind + 1, axis=2)
    return mx.sym.concat(kind, mx.sym.expand_dims(score, axis=2), boxes, dim=2)


def test_symbol(config: FCOSConfig) -> Symbol:
    """The test graph: the best of each level, and NMS a class over all levels."""
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
    rule = PointMatching(tuple(config.size_range), config.centre_radius)
    targets = fcos_targets(points, levels, config.points.strides, image.gt_boxes, rule)
    return dict(zip(LABELS, targets))


def init(
    config: FCOSConfig, name: str, shape: tuple[int, ...], rng: np.random.Generator, scratch: bool
) -> np.ndarray:
    """Head N(0, 0.01); the bias of the classes so that each has the prior probability; the pyramid
    uniform with variance 1 / fan in; the rest as the other pyramid detectors."""
    if name.endswith("cls_logits_bias"):
        return np.full(shape, -math.log((1 - config.prior) / config.prior), np.float32)
    if name.endswith("_weight") and name.startswith("head."):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.01)
    if name.endswith("_weight") and name.startswith(fpn.PREFIX):
        bound = np.sqrt(3 / np.prod(shape[1:]))
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    return faster_rcnn_fpn.init(config, name, shape, rng, scratch)


def frozen(config: FCOSConfig, name: str) -> bool:
    """Whether a parameter never moves: stored statistics, and the body's first stages."""
    body = regnet if config.body.startswith("regnet") else resnet
    return body.frozen(name, config.trainable_layers, config.norm)


#: a small head, and time to learn: this one loss a point needs more steps than regions do
QUICK = {
    "model.fpn_channels": 64,
    "model.head_layers": 2,
    "train.lr": 0.02,
    "train.epochs": 4,
    "train.lr_decay_epoch": (3,),
    "train.warmup_steps": 100,
    "train.warmup_factor": 0.1,
    "train.clip_gradient": 5.0,
}

#: the body's own, besides torchvision's: three levels, points at the centres, K channels
REGNET = {
    "model.body": "regnet_x_400mf",
    "model.fpn_channels": 128,
    "model.p6p7": False,
    "model.centred": True,
    "model.background_channel": False,
}


def make_detector(name: str, defaults: dict[str, Any], quick: dict[str, Any]) -> DetectorDef:
    """A detector of this family, with settings besides torchvision's and QUICK."""
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
        losses=("FocalLoss", "BoxLoss", "CenternessLoss"),
        stride=resnet.STRIDE,
        body=(resnet.PREFIX,),
        quick={**QUICK, **quick},
        defaults={**faster_rcnn_fpn.DEFAULTS, "train.lr": 0.000625, **defaults},
        scratch={"model.norm": "batch", "model.trainable_layers": 5},
        frozen=frozen,
        data_names=("data",),
    )


DETECTORS = {
    "fcos_r50_fpn": make_detector("fcos_r50_fpn", {}, {"model.body": "resnet18"}),
    "fcos_regnetx_400mf": make_detector("fcos_regnetx_400mf", REGNET, {}),
}
