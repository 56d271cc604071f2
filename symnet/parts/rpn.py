"""The region proposal network: head, losses and proposals (Faster R-CNN, section 3).

Letters: B images, A anchors per position, H, W feature map size, N anchors per image, P proposals
per image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from symnet.geometry.anchors import Anchors, AnchorSpec
from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.ops.tensors import (
    best,
    cell_size,
    columns_and_rows,
    constant,
    quotient,
    rows,
    take_rows,
)
from symnet.parts.detections import decode_boxes, large, with_batch_index
from symnet.parts.layers import conv, conv_levels, relu
from symnet.parts.losses import (
    BETA,
    binary_cross_entropy,
    box_divisor,
    foreground_output,
    mean_loss,
    own_mean_loss,
    smooth_l1,
    with_share,
)


@dataclass(frozen=True)
class RPNHead:
    """The classic RPN's outputs.

    cls_score (B, 2, A*H, W): background, object. cls_prob (B, 2A, H, W). bbox_pred (B, 4A, H, W).
    """

    cls_score: Symbol
    cls_prob: Symbol
    bbox_pred: Symbol


def rpn_head(feature: Symbol, num_anchors: int, channels: int = 512) -> RPNHead:
    """Scores and box deltas of all anchors from a feature map (B, _, H, W)."""
    hidden = relu(conv(feature, "rpn_conv_3x3", channels), "rpn_relu")
    score = float32(conv(hidden, "rpn_cls_score", 2 * num_anchors, kernel=1, predicts=True))
    score = mx.sym.reshape(score, shape=(0, 2, -1, 0), name="rpn_cls_score_reshape")
    prob = mx.sym.softmax(score, axis=1, name="rpn_cls_act")
    prob = mx.sym.reshape(prob, shape=(0, 2 * num_anchors, -1, 0), name="rpn_cls_act_reshape")
    bbox_pred = conv(hidden, "rpn_bbox_pred", 4 * num_anchors, kernel=1, predicts=True)
    return RPNHead(score, prob, float32(bbox_pred))


def rpn_losses(
    head: RPNHead, label: Symbol, bbox_target: Symbol, bbox_weight: Symbol, num_samples: int
) -> tuple[Symbol, Symbol]:
    """The class loss (mean over the sampled anchors) and the box loss (sum / num_samples).

    label (B, A*H*W): -1 is ignored. bbox_target, bbox_weight (B, 4A, H, W).
    """
    cls_prob = mx.sym.SoftmaxOutput(
        with_share(head.cls_score, "rpn_cls_prob", ndim=4),
        label,
        multi_output=True,
        normalization="valid",
        use_ignore=True,
        ignore_label=-1,
        name="rpn_cls_prob",
    )
    difference = head.bbox_pred - bbox_target
    loss = bbox_weight * mx.sym.smooth_l1(difference, scalar=3.0, name="rpn_bbox_loss_")
    return cls_prob, mean_loss(loss, "rpn_bbox_loss", num_samples)


def rpn_proposals(
    head: RPNHead,
    im_info: Symbol,
    anchors: AnchorSpec,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_thresh: float,
    min_size: int,
) -> Symbol:
    """The best boxes after NMS, rois (B*P, 5): batch index, xyxy. im_info (B, 3): h, w, scale."""
    return mx.sym.contrib.MultiProposal(
        cls_prob=head.cls_prob,
        bbox_pred=head.bbox_pred,
        im_info=im_info,
        feature_stride=anchors.stride,
        scales=anchors.scales,
        ratios=anchors.ratios,
        rpn_pre_nms_top_n=pre_nms_top_n,
        rpn_post_nms_top_n=post_nms_top_n,
        threshold=nms_thresh,
        rpn_min_size=min_size,
        name="rois",
    )


@dataclass(frozen=True)
class PyramidRPN:
    """The RPN's outputs per level: objectness logits (B, A, H, W), bbox_deltas (B, 4A, H, W)."""

    objectness: list[Symbol]
    bbox_deltas: list[Symbol]


def pyramid_rpn(pyramid: Sequence[Symbol], num_anchors: int, channels: int) -> PyramidRPN:
    """One head shared by all levels (FPN paper, section 4.1)."""
    hidden = conv_levels(pyramid, "rpn.head.conv.0.0", channels)
    hidden = [relu(x, f"rpn.head.relu.{level}") for level, x in enumerate(hidden)]
    objectness = conv_levels(hidden, "rpn.head.cls_logits", num_anchors, 1, predicts=True)
    bbox_deltas = conv_levels(hidden, "rpn.head.bbox_pred", 4 * num_anchors, 1, predicts=True)
    return PyramidRPN([float32(x) for x in objectness], [float32(x) for x in bbox_deltas])


def pyramid_rpn_losses(
    head: PyramidRPN,
    label: Symbol,
    bbox_target: Symbol,
    beta: float = BETA,
    mean: str = "samples",
) -> tuple[Symbol, ...]:
    """loss_objectness and loss_rpn_box_reg (1,), and rpn_accuracy.

    label (B, N): 1, 0 or -1 (not sampled). bbox_target (B, N, 4). The class loss is the mean over
    the sampled anchors. The box loss is smooth L1 with this beta, summed over the foreground and
    divided according to `mean`, see box_divisor; the defaults are torchvision's. rpn_accuracy (2,):
    the numbers of correct and of sampled anchors. There may be a fourth output, rpn_foreground
    (1,), see foreground_output.
    """
    logits = mx.sym.concat(*(rows(x, 1) for x in head.objectness), dim=1)
    logits = mx.sym.reshape(logits, shape=(0, -1))
    deltas = mx.sym.concat(*(rows(x, 4) for x in head.bbox_deltas), dim=1)
    sampled, fg = label >= 0, label == 1
    count = mx.sym.maximum(mx.sym.sum(sampled), 1)
    cls_loss = mx.sym.sum(binary_cross_entropy(logits, mx.sym.relu(label)) * sampled) / count
    box_loss = mx.sym.sum(smooth_l1(deltas - bbox_target, beta), axis=2)
    divisor = box_divisor(mx.sym.sum(sampled), mx.sym.sum(fg), mean)
    box_loss = mx.sym.sum(box_loss * fg) / divisor
    correct = mx.sym.sum(((logits > 0) == fg) * sampled)
    return (
        own_mean_loss(cls_loss, "loss_objectness"),
        own_mean_loss(box_loss, "loss_rpn_box_reg"),
        mx.sym.BlockGrad(mx.sym.concat(correct, mx.sym.sum(sampled), dim=0), name="rpn_accuracy"),
        *foreground_output(mx.sym.sum(fg), mean, "rpn_foreground"),
    )


@dataclass(frozen=True)
class ProposalFilter:
    """Selects proposals: the best anchors of each level, decoded; NMS per level; the best of all.

    Boxes with a side below min_size, or a score not above score_thresh, are dropped. clip: the
    upper bound of dw and dh; 0: none. per_level: if False, the pre_nms_top_n best of all levels go
    through one NMS.
    """

    pre_nms_top_n: int
    post_nms_top_n: int
    nms_thresh: float = 0.7
    score_thresh: float = 0.0
    min_size: float = 1e-3
    bbox_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    clip: float = math.log(1000 / 16)
    per_level: bool = True


def pyramid_proposals(
    head: PyramidRPN, data: Symbol, im_info: Symbol, anchors: Anchors, rule: ProposalFilter
) -> Symbol:
    """Proposals as rois (B, P, 5), best first; empty rows have batch index -1.

    data (B, 3, H, W): only its shape is used. No gradient flows. Only built-in operators are used.
    """
    levels = []
    for level in range(len(head.objectness)):
        score, boxes, deltas = _best_anchors(head, level, data, anchors, rule.pre_nms_top_n)
        boxes = decode_boxes(
            boxes, mx.sym.expand_dims(deltas, axis=2), im_info, rule.bbox_stds, 0, rule.clip or None
        )
        boxes = mx.sym.reshape(boxes, shape=(0, 0, -1))
        score = mx.sym.expand_dims(mx.sym.sigmoid(score), axis=2) * large(boxes, rule.min_size)
        group = mx.sym.ones_like(score) * (level if rule.per_level else 0)
        levels.append(mx.sym.concat(group, score, boxes, dim=2))
    kept = mx.sym.contrib.box_nms(
        mx.sym.concat(*levels, dim=1),
        overlap_thresh=rule.nms_thresh,
        valid_thresh=rule.score_thresh,
        topk=-1 if rule.per_level else rule.pre_nms_top_n,
        id_index=0,
        score_index=1,
        coord_start=2,
    )
    kept = mx.sym.slice_axis(kept, axis=1, begin=0, end=rule.post_nms_top_n)
    boxes = mx.sym.slice_axis(kept, axis=2, begin=2, end=6)
    rois = with_batch_index(boxes, mx.sym.slice_axis(kept, axis=2, begin=1, end=2) > 0)
    return mx.sym.BlockGrad(rois, name="proposal_rois")


def _best_anchors(
    head: PyramidRPN, level: int, data: Symbol, anchors: Anchors, count: int
) -> tuple[Symbol, Symbol, Symbol]:
    """Logits (B, K), anchors (B, K, 4) and deltas (B, K, 4) of a level's K = count best anchors.

    A level with fewer anchors is padded with logits so low that their score is 0.
    """
    objectness = head.objectness[level]
    logits = mx.sym.reshape(rows(objectness, 1), shape=(0, -1))
    score, index = best(logits, count, filling=-1e4)
    cell, anchor = quotient(index, anchors.num_anchors)
    x, y = columns_and_rows(cell, objectness)
    stride = anchors.stride(level)
    if stride is None:
        width, height = cell_size(objectness, data)
        x, y = mx.sym.broadcast_mul(x, width), mx.sym.broadcast_mul(y, height)
    else:
        x, y = x * stride, y * stride
    base = mx.sym.take(constant(anchors.base(level)), anchor)
    boxes = base + mx.sym.stack(x, y, x, y, axis=2)
    return score, boxes, take_rows(rows(head.bbox_deltas[level], 4), index)
