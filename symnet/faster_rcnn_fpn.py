"""Faster R-CNN with a ResNet and a feature pyramid, as in torchvision (Lin et al. 2017).

Letters: B images a device, H, W the padded image, A anchors a position, N anchors of an image,
P proposals an image, R RoIs an image, C classes with background 0, K = C - 1, G objects,
D detections. Parameters have torchvision's names; every default is torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from symnet.bodies import mobilenet, resnet
from symnet.config.two_stage import FasterRCNNFPNConfig
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import RPNSampling, rpn_targets
from symnet.machine import mx
from symnet.parts.fpn import fpn, roi_align_levels
from symnet.parts.metrics import pyramid_counts, pyramid_metrics
from symnet.parts.roi import (
    box_head_losses,
    box_predictor,
    cut_to_image,
    decode_boxes,
    detections,
    fc_head,
    large,
)
from symnet.parts.rpn import (
    PyramidRPN,
    pyramid_proposals,
    pyramid_rpn,
    pyramid_rpn_losses,
)

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

LABELS = ("rpn_label", "rpn_bbox_target")


@dataclass(frozen=True)
class Trunk:
    """What both graphs begin with: pyramid p2..p5 (p6 is the RPN's alone), its RPN, proposals.

    rois (B, P, 5) have batch index -1 where there is no proposal.
    """

    im_info: Symbol
    pyramid: list[Symbol]
    rpn: PyramidRPN
    rois: Symbol


#: what both graphs are made of: trunk(config, train), box_head(config, pyramid, rois)
MakeTrunk = Callable[[Any, bool], Trunk]
MakeBoxHead = Callable[[Any, list["Symbol"], "Symbol"], tuple["Symbol", "Symbol"]]


def trunk(config: FasterRCNNFPNConfig, train: bool) -> Trunk:
    """Image -> body -> pyramid -> RPN -> proposals."""
    data, im_info = mx.sym.Variable("data"), mx.sym.Variable("im_info")
    norm = "folded" if train and config.norm == "frozen" else config.norm
    if config.body == "mobilenet1_0":
        maps = mobilenet.mobilenet(data, norm)
    else:
        maps = resnet.resnet(data, config.depth, norm, config.body_form)
    fpn_norm = "" if config.norm == "frozen" else norm
    pyramid = fpn(maps, config.fpn_channels, fpn_norm, config.fpn_extra)
    channels = config.rpn_channels or config.fpn_channels
    rpn = pyramid_rpn(pyramid, config.anchors.num_anchors, channels)
    rois = pyramid_proposals(rpn, data, im_info, config.anchors, config.proposal_filter(train))
    return Trunk(im_info, pyramid[:4], rpn, rois)


def pool_rois(
    config: FasterRCNNFPNConfig,
    pyramid: list[Symbol],
    rois: Symbol,
    size: int,
    sampling_ratio: int,
    name: str,
) -> Symbol:
    """RoIs (R, 5) from their levels of the pyramid: (R, channels, size, size)."""
    return roi_align_levels(
        pyramid,
        rois,
        size,
        name,
        sampling_ratio,
        config.box_canonical_size,
        config.box_canonical_level,
        config.box_level_offset,
    )


def box_head(
    config: FasterRCNNFPNConfig, pyramid: list[Symbol], rois: Symbol
) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C + unused) and box deltas (B*R, 4C) of rois (B*R, 5)."""
    size, ratio = config.box_roi_size, config.box_sampling_ratio
    pooled = pool_rois(config, pyramid, rois, size, ratio, "box_pool")
    if config.box_avg_pool:
        pooled = mx.sym.Pooling(
            pooled, pool_type="avg", kernel=(3, 3), stride=(2, 2), pad=(1, 1), name="box_avg_pool"
        )
    convs, channels = config.box_head_convs, config.fpn_channels
    feature = fc_head(pooled, config.box_head_dim, convs, channels)
    return box_predictor(feature, config.num_classes, config.unused_classes)


@dataclass(frozen=True)
class TrainStages:
    """A training graph so far: sampled rois (B*R, 5), their label and matched object (B*R,)."""

    gt_boxes: Symbol
    pyramid: list[Symbol]
    rois: Symbol
    label: Symbol
    matched: Symbol
    outputs: list[Symbol]


def train_stages(
    config: Any,
    images: int,
    active_classes: Symbol | None = None,
    trunk: MakeTrunk = trunk,
    box_head: MakeBoxHead = box_head,
) -> TrainStages:
    """Trunk, RPN losses, sampling and box head losses, for `images` images a device."""
    from symnet.ops import proposal_target  # noqa: F401 - registers the operator, needs mxnet

    stages = trunk(config, True)
    gt_boxes = mx.sym.Variable("gt_boxes")
    rpn_outputs = pyramid_rpn_losses(
        stages.rpn,
        *(mx.sym.Variable(name) for name in LABELS),
        config.rpn_smooth_l1_beta,
        config.box_loss_mean,
    )
    rois, label, bbox_target, bbox_weight, matched = mx.sym.Custom(
        rois=mx.sym.reshape(stages.rois, shape=(-3, 0)),
        gt_boxes=gt_boxes,
        op_type="proposal_target",
        name="proposal_target",
        num_classes=config.num_classes,
        batch_images=images,
        batch_rois=config.box_batch_size_per_image * images,
        fg_fraction=config.box_positive_fraction,
        fg_overlap=config.box_fg_iou_thresh,
        box_stds=tuple(config.box_bbox_stds),
        box_offset=0,
        with_matched=True,
        fill_with_background=False,
        ignore_overlap=config.ignore_overlap,
        seed=config.sampling_seed,
    )
    logits, deltas = box_head(config, stages.pyramid, rois)
    active = None
    if active_classes is not None:
        active = mx.sym.take(active_classes, mx.sym.slice_axis(rois, axis=1, begin=0, end=1))
        active = mx.sym.reshape(active, shape=(-3, 0))
    losses = box_head_losses(
        logits,
        deltas,
        label,
        bbox_target,
        bbox_weight,
        active,
        config.box_smooth_l1_beta,
        config.box_loss_mean,
    )
    return TrainStages(gt_boxes, stages.pyramid, rois, label, matched, [*rpn_outputs, *losses])


@dataclass(frozen=True)
class DetectionStages:
    """A test graph so far: outputs det_boxes, det_scores, det_classes, proposals.

    boxes (B, D, 4) are the detections' before they were cut, with box_cut_last.
    """

    pyramid: list[Symbol]
    boxes: Symbol
    outputs: list[Symbol]


def detection_stages(
    config: Any, trunk: MakeTrunk = trunk, box_head: MakeBoxHead = box_head
) -> DetectionStages:
    """Trunk, box head, final detections."""
    stages = trunk(config, False)
    rois, proposals = stages.rois, config.proposal_filter(train=False).post_nms_top_n
    logits, deltas = box_head(config, stages.pyramid, mx.sym.reshape(rois, shape=(-3, 0)))
    deltas = mx.sym.reshape(deltas, shape=(-1, proposals, config.num_classes, 4))
    boxes = decode_boxes(
        mx.sym.slice_axis(rois, axis=2, begin=1, end=5),
        mx.sym.slice_axis(deltas, axis=2, begin=1, end=None),
        None if config.box_cut_last else stages.im_info,
        config.box_bbox_stds,
        0,
        config.bbox_log_clip or None,
    )
    scores = mx.sym.softmax(logits, axis=1, name="cls_prob")
    rows = config.num_classes + config.unused_classes
    scores = mx.sym.reshape(scores, shape=(-1, proposals, rows))
    if config.box_best_class:
        best = mx.sym.max(scores, axis=2, keepdims=True)
        scores = scores * (mx.sym.broadcast_sub(scores, best) >= 0)
    end = config.num_classes if config.unused_classes else None
    scores = mx.sym.slice_axis(scores, axis=2, begin=1, end=end)
    counted = mx.sym.slice_axis(rois, axis=2, begin=0, end=1) >= 0
    scores = mx.sym.broadcast_mul(scores, counted)
    scores = scores * mx.sym.reshape(large(boxes, config.box_min_size), shape=(0, 0, -1))
    found = detections(
        boxes,
        scores,
        config.box_score_thresh,
        config.box_nms_thresh,
        config.box_pre_nms_top_n,
        config.box_detections_per_img,
        0,
        "uncut_boxes" if config.box_cut_last else "det_boxes",
    )
    boxes = found[0]
    if config.box_cut_last:
        cut = cut_to_image(mx.sym.expand_dims(boxes, axis=2), stages.im_info)
        found = (mx.sym.reshape(cut, shape=(0, 0, -1), name="det_boxes"), *found[1:])
    proposals = mx.sym.slice_axis(rois, axis=2, begin=1, end=5, name="proposals")
    return DetectionStages(stages.pyramid, boxes, [*found, proposals])


def assign_targets(
    config: FasterRCNNFPNConfig, image: ImageTargetsInput, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """RPN targets of one image: rpn_label (N,) 1, 0 or -1, rpn_bbox_target (N, 4)."""
    sampling = RPNSampling(
        config.rpn_batch_size_per_image,
        config.rpn_positive_fraction,
        config.rpn_fg_iou_thresh,
        config.rpn_bg_iou_thresh,
        inside_only=config.rpn_inside_only,
        own_anchor=config.rpn_own_anchor,
        best_below_bg=config.rpn_best_below_bg,
        ignore_overlap=config.ignore_overlap,
    )
    anchors = config.anchors.grid(*image.padded_size)
    coder = BoxCoder(stds=config.rpn_bbox_stds)
    labels, targets, _ = rpn_targets(
        anchors, image.gt_boxes, image.image_size, sampling, coder, rng
    )
    return {"rpn_label": labels, "rpn_bbox_target": targets}


def init(
    config: Any, name: str, shape: tuple[int, ...], rng: np.random.Generator, scratch: bool
) -> np.ndarray:
    """torchvision's first values: body and masks as He et al. (fan out), RPN N(0, 0.01), the rest
    uniform with variance 1 / (3 fan in); biases 0, scales 1."""
    if name.endswith(("_gamma", "_moving_var")):
        return np.ones(shape, np.float32)
    if name.endswith(("_beta", "_moving_mean", "_bias")):
        return np.zeros(shape, np.float32)
    fan_in = np.prod(shape[1:])
    if name.startswith("rpn."):
        std = 0.01
    elif name.startswith(resnet.PREFIX) or "mask" in name:
        std = np.sqrt(2 / (shape[0] * np.prod(shape[2:])))
    else:
        bound = np.sqrt(1 / fan_in)
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def frozen(config: Any, name: str) -> bool:
    """Whether a parameter never moves: stored statistics, and the body's first stages."""
    return resnet.frozen(name, config.trainable_layers, config.norm)


def make_detector(name: str, config: type, **fields: Any) -> DetectorDef:
    """A detector of this family; `fields` differ between its members."""
    return DetectorDef(
        name=name,
        config=config,
        assign_targets=assign_targets,
        label_names=LABELS,
        init=init,
        metrics=pyramid_metrics,
        counts=pyramid_counts,
        stride=resnet.STRIDE,
        body=(resnet.PREFIX,),
        scratch={"model.norm": "group", "model.trainable_layers": 5},
        frozen=frozen,
        **fields,
    )


#: ImageNet's mean and standard deviation for pixels 0-255, and torchvision's way of resizing
DEFAULTS = {
    "data.mean": (123.675, 116.28, 103.53),
    "data.std": (58.395, 57.12, 57.375),
    "data.short_side": 800,
    "data.long_side": 1333,
    "data.resize": "linear",
    "data.size_rounding": "floor",
    "train.lr": 0.00125,
    "train.weight_decay": 1e-4,
    "train.clip_gradient": 0.0,
    "train.warmup_steps": 1000,
    "train.warmup_factor": 0.001,
}

#: a slim body and small images
QUICK = {
    "model.depth": 18,
    "model.fpn_channels": 64,
    "model.anchor_sizes": (16, 32, 64, 128, 256),
    "model.rpn_pre_nms_top_n": 500,
    "model.rpn_post_nms_top_n": 500,
    "model.rpn_pre_nms_top_n_test": 200,
    "model.rpn_post_nms_top_n_test": 200,
    "model.box_head_dim": 256,
    "model.box_batch_size_per_image": 64,
    "train.warmup_steps": 100,
    "train.warmup_factor": 0.1,
    "train.clip_gradient": 5.0,
}

#: gluoncv's form and settings for COCO, where they differ from torchvision's; what the form does
#: not cover is in docs/weights.md
GLUONCV = {
    "model.fpn_extra": "conv",
    "model.anchor_form": "classic",
    "model.rpn_channels": 1024,
    "model.rpn_nms_all": True,
    "model.rpn_pre_nms_top_n": 12000,
    "model.rpn_pre_nms_top_n_test": 6000,
    "model.rpn_min_size": 0.0,
    "model.rpn_inside_only": True,
    "model.rpn_best_below_bg": False,
    "model.box_smooth_l1_beta": 1.0,
    "model.box_level_offset": 1.0,
    "model.box_score_thresh": 0.01,
    "model.box_min_size": 0.0,
    "model.box_cut_last": True,
    "model.bbox_log_clip": 4.14,
    "data.resize": "antialias",
    "data.size_rounding": "round",
    "train.warmup_factor": 1 / 3,
}

LOSSES = ("RPNLogLoss", "RPNL1Loss", "RCNNLogLoss", "RCNNL1Loss")

DETECTORS = {
    f"faster_rcnn_r{depth}_fpn": make_detector(
        f"faster_rcnn_r{depth}_fpn",
        FasterRCNNFPNConfig,
        train_symbol=lambda config, images: mx.sym.Group(train_stages(config, images).outputs),
        test_symbol=lambda config: mx.sym.Group(detection_stages(config).outputs),
        losses=LOSSES,
        defaults={**DEFAULTS, "model.depth": depth},
        quick=QUICK,
        presets={"gluoncv": GLUONCV},
    )
    for depth in (50, 101)
}
