"""The graph of two-stage detectors whose RPN has a sigmoid: Faster R-CNN and Mask R-CNN.

    image -> feature maps -> RPN -> proposals -> sampled RoIs -> box head -> two losses
                              |                               -> mask head -> mask loss
                         two losses

A detector supplies its feature maps and its heads (`Stages`); everything else is here. Parameters
have torchvision's names.

Letters: B images per device, H, W padded image size, A anchors per position, N anchors per image,
P proposals per image, R RoIs per image, C classes with background 0, K = C - 1, G objects,
D detections, F mask RoIs of all images, S mask side.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from symnet.config.detector import is_frozen, is_of_body
from symnet.config.two_stage import TwoStageConfig
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import rpn_targets
from symnet.machine import Symbol, mx
from symnet.parts.detections import (
    cut_to_image,
    decode_boxes,
    detections,
    large,
    with_batch_index,
)
from symnet.parts.heads import box_head_losses, box_predictor, mask_loss, of_class, sample_rois
from symnet.parts.layers import shared_parameters
from symnet.parts.metrics import two_stage_counts, two_stage_metrics
from symnet.parts.rpn import pyramid_proposals, pyramid_rpn, pyramid_rpn_losses

LABELS = ("rpn_label", "rpn_bbox_target")
LOSSES = ("RPNLogLoss", "RPNL1Loss", "RCNNLogLoss", "RCNNL1Loss")
STRIDE = 32


@dataclass(frozen=True)
class Stages:
    """The parts in which detectors of this family differ.

    maps(config, data, train): images (B, 3, H, W) -> the RPN's feature maps, finest first.
    box_features(config, maps, rois, train): rois (B*R, 5) -> features (B*R, _) for predicting
        classes and boxes.
    mask_logits(config, maps, rois, train): rois (F, 5) -> (F, C, S, S); None without masks.
    """

    maps: Callable[[Any, Symbol, bool], list[Symbol]]
    box_features: Callable[[Any, list[Symbol], Symbol, bool], Symbol]
    mask_logits: Callable[[Any, list[Symbol], Symbol, bool], Symbol] | None = None


def _sharing(stages: Stages) -> AbstractContextManager:
    """Let a mask branch reuse layers of the box head with the same parameters."""
    return shared_parameters() if stages.mask_logits else nullcontext()


def train_graph(stages: Stages, config: TwoStageConfig, images: int) -> Symbol:
    """The training graph, with four losses or five with masks, for `images` images per device."""
    with _sharing(stages):
        maps, rpn, proposals, _ = _propose(stages, config, train=True)
        gt_boxes = mx.sym.Variable("gt_boxes")
        rpn_losses = pyramid_rpn_losses(
            rpn,
            *(mx.sym.Variable(name) for name in LABELS),
            config.rpn_smooth_l1_beta,
            config.form.box_loss_mean,
        )
        sampled = sample_rois(
            config,
            mx.sym.reshape(proposals, shape=(-3, 0)),
            gt_boxes,
            images,
            box_offset=0,
            with_matched=True,
            fill_with_background=False,
        )
        rois, label = sampled[0], sampled[1]
        logits, deltas = box_head(stages, config, maps, rois, train=True)
        box_losses = box_head_losses(
            logits,
            deltas,
            *sampled[1:4],
            _active_classes(rois) if stages.mask_logits else None,
            config.box_smooth_l1_beta,
            config.form.box_loss_mean,
        )
        outputs = [*rpn_losses, *box_losses]
        if stages.mask_logits:
            mask_rois, *targets = _mask_targets(config, rois, label, sampled[4], gt_boxes, images)
            loss = mask_loss(stages.mask_logits(config, maps, mask_rois, True), *targets)
            count = mx.sym.BlockGrad(mx.sym.sum(targets[0] > 0), name="mask_count")
            outputs += [loss, count]
        return mx.sym.Group(outputs)


def _propose(
    stages: Stages, config: TwoStageConfig, train: bool
) -> tuple[list[Symbol], Any, Symbol, Symbol]:
    """Image -> maps -> RPN -> proposals (B, P, 5), batch index -1 in empty rows; and im_info."""
    data, im_info = mx.sym.Variable("data"), mx.sym.Variable("im_info")
    maps = stages.maps(config, data, train)
    channels = config.rpn_channels or config.fpn_channels
    rpn = pyramid_rpn(maps, config.anchors.num_anchors, channels)
    rule = config.proposal_filter(train)
    return maps, rpn, pyramid_proposals(rpn, data, im_info, config.anchors, rule), im_info


def box_head(
    stages: Stages, config: TwoStageConfig, maps: list[Symbol], rois: Symbol, train: bool
) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C + unused) and box deltas (B*R, 4C) of rois (B*R, 5)."""
    feature = stages.box_features(config, maps, rois, train)
    return box_predictor(feature, config.num_classes, config.form.unused_classes)


def _active_classes(rois: Symbol) -> Symbol:
    """(B*R, C): 1 for the classes that the RoI's image is annotated for."""
    index = mx.sym.slice_axis(rois, axis=1, begin=0, end=1)
    active = mx.sym.take(mx.sym.Variable("active_classes"), index)
    return mx.sym.reshape(active, shape=(-3, 0))


def _mask_targets(
    config: Any, rois: Symbol, label: Symbol, matched: Symbol, gt_boxes: Symbol, images: int
) -> list[Symbol]:
    """The foreground RoIs (F, 5), their labels (F,) and target masks (F, S, S)."""
    from symnet.ops import mask_target  # noqa: F401 - registers the operator, needs mxnet

    targets = mx.sym.Custom(
        rois=rois,
        label=label,
        matched=matched,
        gt_boxes=gt_boxes,
        gt_masks=mx.sym.Variable("gt_masks", dtype="uint8"),
        op_type="mask_target",
        name="mask_target",
        num_masks=config.num_masks(images),
        size=config.mask_size,
        mini_mask=config.mini_mask,
    )
    return list(targets)


def test_graph(stages: Stages, config: TwoStageConfig) -> Symbol:
    """The test graph.

    Outputs det_boxes (B, D, 4), det_scores and det_classes (B, D), proposals (B, P, 4), and with
    masks det_masks (B, D, S, S), probabilities inside the boxes.
    """
    with _sharing(stages):
        maps, _, rois, im_info = _propose(stages, config, train=False)
        logits, deltas = box_head(
            stages, config, maps, mx.sym.reshape(rois, shape=(-3, 0)), train=False
        )
        uncut, *found = _detections(config, rois, logits, deltas, im_info)
        outputs = [*found, mx.sym.slice_axis(rois, axis=2, begin=1, end=5, name="proposals")]
        if stages.mask_logits:
            outputs.append(_masks(stages, config, maps, uncut, found[2]))
        return mx.sym.Group(outputs)


def _detections(
    config: TwoStageConfig, rois: Symbol, logits: Symbol, deltas: Symbol, im_info: Symbol
) -> tuple[Symbol, ...]:
    """Turn the box head's outputs for rois (B, P, 5) into detections.

    Returns boxes (B, D, 4), not yet clipped if form.box_cut_last is set; then det_boxes,
    det_scores, det_classes.
    """
    form, proposals = config.form, config.proposal_filter(train=False).post_nms_top_n
    deltas = mx.sym.reshape(deltas, shape=(-1, proposals, config.num_classes, 4))
    boxes = decode_boxes(
        mx.sym.slice_axis(rois, axis=2, begin=1, end=5),
        mx.sym.slice_axis(deltas, axis=2, begin=1, end=None),
        None if form.box_cut_last else im_info,
        config.box_bbox_stds,
        0,
        form.bbox_log_clip or None,
    )
    scores = _scores(config, rois, logits, proposals)
    scores = scores * mx.sym.reshape(large(boxes, form.box_min_size), shape=(0, 0, -1))
    uncut, *found = detections(
        boxes,
        scores,
        config.score_thresh,
        config.nms_thresh,
        config.pre_nms_top_n,
        config.detections_per_img,
        0,
        "uncut_boxes" if form.box_cut_last else "det_boxes",
    )
    if not form.box_cut_last:
        return (uncut, uncut, *found)
    boxes = cut_to_image(mx.sym.expand_dims(uncut, axis=2), im_info)
    return (uncut, mx.sym.reshape(boxes, shape=(0, 0, -1), name="det_boxes"), *found)


def _scores(config: TwoStageConfig, rois: Symbol, logits: Symbol, proposals: int) -> Symbol:
    """The class scores (B, P, K) of each proposal; 0 in rows without a proposal."""
    form, rows = config.form, config.num_classes + config.form.unused_classes
    scores = mx.sym.softmax(logits, axis=1, name="cls_prob")
    scores = mx.sym.reshape(scores, shape=(-1, proposals, rows))
    if form.box_best_class:
        best = mx.sym.max(scores, axis=2, keepdims=True)
        scores = scores * (mx.sym.broadcast_sub(scores, best) >= 0)
    end = config.num_classes if form.unused_classes else None
    scores = mx.sym.slice_axis(scores, axis=2, begin=1, end=end)
    counted = mx.sym.slice_axis(rois, axis=2, begin=0, end=1) >= 0
    return mx.sym.broadcast_mul(scores, counted)


def _masks(
    stages: Stages, config: TwoStageConfig, maps: list[Symbol], boxes: Symbol, classes: Symbol
) -> Symbol:
    """det_masks (B, D, S, S) for detections with boxes (B, D, 4) and classes (B, D)."""
    found = mx.sym.expand_dims(classes > 0, axis=2)
    rois = mx.sym.reshape(with_batch_index(boxes, found), shape=(-3, 0))
    logits = stages.mask_logits(config, maps, rois, False)
    masks = mx.sym.sigmoid(of_class(logits, mx.sym.relu(mx.sym.reshape(classes, shape=(-1,)))))
    # give it as many rows as det_boxes
    return mx.sym.reshape_like(
        masks, mx.sym.expand_dims(classes, axis=2), lhs_end=1, rhs_end=2, name="det_masks"
    )


def assign_targets(
    config: TwoStageConfig, image: ImageTargetsInput, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """RPN targets of one image: rpn_label (N,) 1, 0 or -1, rpn_bbox_target (N, 4)."""
    sampling = config.rpn_sampling(
        inside_only=config.form.rpn_inside_only,
        own_anchor=config.rpn_own_anchor,
        best_below_bg=config.form.rpn_best_below_bg,
    )
    labels, targets, _ = rpn_targets(
        config.anchors.grid(*image.padded_size),
        image.gt_boxes,
        image.image_size,
        sampling,
        BoxCoder(stds=config.form.rpn_bbox_stds),
        rng,
    )
    return {"rpn_label": labels, "rpn_bbox_target": targets}


def init(
    config: Any, name: str, shape: tuple[int, ...], rng: np.random.Generator, scratch: bool
) -> np.ndarray:
    """torchvision's initial values.

    Body and masks: He et al. (fan out). RPN: N(0, 0.01). The rest: uniform with variance
    1 / (3 fan in). Biases are 0, scales 1.
    """
    if name.endswith(("_gamma", "_moving_var")):
        return np.ones(shape, np.float32)
    if name.endswith(("_beta", "_moving_mean", "_bias")):
        return np.zeros(shape, np.float32)
    fan_in = np.prod(shape[1:])
    if name.startswith("rpn."):
        std = 0.01
    elif is_of_body(config, name) or "mask" in name:
        std = np.sqrt(2 / (shape[0] * np.prod(shape[2:])))
    else:
        bound = np.sqrt(1 / fan_in)
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def make_detector(name: str, config: type, stages: Stages, **fields: Any) -> DetectorDef:
    """Make a detector of this family; `fields`: those of DetectorDef in which members differ."""
    masks = ("gt_masks", "active_classes") if stages.mask_logits else ()
    return DetectorDef(
        name=name,
        config=config,
        train_symbol=lambda config, images: train_graph(stages, config, images),
        test_symbol=lambda config: test_graph(stages, config),
        assign_targets=assign_targets,
        label_names=LABELS,
        init=init,
        metrics=two_stage_metrics,
        counts=two_stage_counts,
        losses=(*LOSSES, "MaskLoss") if masks else LOSSES,
        stride=STRIDE,
        of_body=is_of_body,
        frozen=is_frozen,
        data_names=("data", "im_info", "gt_boxes", *masks),
        **{"scratch": {"model.norm": "group", "model.trainable_layers": 5}, **fields},
    )
