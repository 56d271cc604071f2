"""The second stage: box, class and mask heads with their losses (Fast R-CNN, section 2).

Letters: B images, R RoIs per image (or of all images), F mask RoIs, S mask side, C classes with
background 0.
"""

from __future__ import annotations

from typing import Any

from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.parts.layers import conv, deconv, fc, relu, row_side
from symnet.parts.losses import (
    BETA,
    binary_cross_entropy,
    box_divisor,
    class_weight,
    foreground_output,
    mean_loss,
    own_mean_loss,
    smooth_l1,
)


def sample_rois(
    config: Any, proposals: Symbol, gt_boxes: Symbol, images: int, **options: Any
) -> list[Symbol]:
    """Sample the RoIs that the box head trains on from proposals (B*P, 5) and the objects.

    Returns rois (B*R, 5), label (B*R,), bbox_target and bbox_weight (B*R, 4C), and what `options`
    add; see symnet/ops/proposal_target.py.
    """
    from symnet.ops import proposal_target  # noqa: F401 - registers the operator, needs mxnet

    sampled = mx.sym.Custom(
        rois=proposals,
        gt_boxes=gt_boxes,
        op_type="proposal_target",
        name="proposal_target",
        num_classes=config.num_classes,
        batch_images=images,
        batch_rois=config.box_batch_size_per_image * images,
        fg_fraction=config.box_positive_fraction,
        fg_overlap=config.box_fg_iou_thresh,
        box_stds=tuple(config.box_bbox_stds),
        ignore_overlap=config.ignore_overlap,
        seed=config.sampling_seed,
        **options,
    )
    return list(sampled)


def box_predictor(
    feature: Symbol, num_classes: int, unused: int = 0, prefix: str = "roi_heads.box_predictor."
) -> tuple[Symbol, Symbol]:
    """Class logits (R, C + unused) and class-specific box deltas (R, 4C) from features (R, _)."""
    cls_logits = fc(feature, f"{prefix}cls_score", num_classes + unused, predicts=True)
    bbox_deltas = fc(feature, f"{prefix}bbox_pred", 4 * num_classes, predicts=True)
    return float32(cls_logits), float32(bbox_deltas)


def roi_losses(
    cls_score: Symbol,
    bbox_pred: Symbol,
    label: Symbol,
    bbox_target: Symbol,
    bbox_weight: Symbol,
    num_samples: int,
) -> tuple[Symbol, Symbol]:
    """The class loss and the box loss, each summed over RoIs and divided by num_samples = B*R.

    label (B*R,): -1 for rows that add nothing to the class loss; it is still divided by all rows.
    bbox_target, bbox_weight (B*R, 4C).
    """
    weight = class_weight(label)
    if weight is not None:  # SoftmaxOutput computes its own gradient: weight what flows on from it
        weighted = mx.sym.broadcast_mul(cls_score, mx.sym.expand_dims(weight, axis=1))
        cls_score = weighted + mx.sym.BlockGrad(cls_score - weighted)
    cls_prob = mx.sym.SoftmaxOutput(
        cls_score, label, normalization="batch", use_ignore=True, ignore_label=-1, name="cls_prob"
    )
    loss = mx.sym.smooth_l1(bbox_pred - bbox_target, scalar=1.0, name="bbox_loss_")
    return cls_prob, mean_loss(bbox_weight * loss, "bbox_loss", num_samples)


def _convolutions(pooled: Symbol, name: str, layers: int, channels: int) -> Symbol:
    """3x3 convolutions NAME.0.0, NAME.1.0, ... with ReLU: (R, _, h, w) -> (R, channels, h, w)."""
    for layer in range(layers):
        pooled = relu(conv(pooled, f"{name}.{layer}.0", channels), f"{name}.{layer}.relu")
    return pooled


def fc_head(pooled: Symbol, units: int, convs: int = 0, channels: int = 256) -> Symbol:
    """torchvision's TwoMLPHead: (R, channels, 7, 7) -> (R, units).

    convs: if above 0, its FastRCNNConvFCHead instead: this many convolutions, then one fully
    connected layer.
    """
    name = "roi_heads.box_head"
    pooled = _convolutions(pooled, name, convs, channels)
    layers = ((str(convs + 1), 7),) if convs else (("fc6", 7), ("fc7", row_side(units)))
    for layer, side in layers:
        pooled = relu(fc(pooled, f"{name}.{layer}", units, side), f"{name}.{layer}_relu")
    return pooled


def box_head_losses(
    cls_logits: Symbol,
    bbox_deltas: Symbol,
    label: Symbol,
    bbox_target: Symbol,
    bbox_weight: Symbol,
    active: Symbol | None = None,
    beta: float = BETA,
    mean: str = "samples",
) -> tuple[Symbol, ...]:
    """loss_classifier and loss_box_reg (1,), and roi_accuracy (3,).

    label (R,): -1 for padding rows, which do not count. bbox_target, bbox_weight (R, 4C).
    active (R, C): if given, 1 for the classes that the RoI's image is annotated for. A RoI whose
    highest logit is another class has no class loss (matterport's active_class_ids). The class loss
    is the mean over the RoIs that have one. The box loss is smooth L1 with this beta, summed over
    the foreground and divided according to `mean`, see box_divisor; the defaults are torchvision's.
    roi_accuracy: the numbers of correct RoIs, of RoIs that count, and of RoIs with a class loss.
    There may be a fourth output, roi_foreground (1,), see foreground_output.
    """
    counted, fg = label >= 0, mx.sym.sum(label > 0)
    best = mx.sym.BlockGrad(mx.sym.argmax(cls_logits, axis=1))
    classified = counted if active is None else counted * mx.sym.pick(active, best, axis=1)
    log_prob = mx.sym.pick(mx.sym.log_softmax(cls_logits, axis=1), mx.sym.relu(label), axis=1)
    weight = class_weight(label)
    if weight is not None:
        log_prob = log_prob * weight
    cls_loss = mx.sym.sum(-log_prob * classified) / mx.sym.maximum(mx.sym.sum(classified), 1)
    box_loss = smooth_l1(bbox_deltas - bbox_target, beta) * bbox_weight
    box_loss = mx.sym.sum(box_loss) / box_divisor(mx.sym.sum(counted), fg, mean)
    right = (mx.sym.sum(x) for x in ((best == label) * counted, counted, classified))
    right = mx.sym.concat(*right, dim=0)
    return (
        own_mean_loss(cls_loss, "loss_classifier"),
        own_mean_loss(box_loss, "loss_box_reg"),
        mx.sym.BlockGrad(right, name="roi_accuracy"),
        *foreground_output(fg, mean, "roi_foreground"),
    )


def mask_head(pooled: Symbol, channels: int, layers: int, num_classes: int) -> Symbol:
    """Mask logits (R, C, 28, 28) from features (R, _, 14, 14) (Mask R-CNN, figure 4 right)."""
    pooled = _convolutions(pooled, "roi_heads.mask_head", layers, channels)
    pooled = relu(deconv(pooled, "roi_heads.mask_predictor.conv5_mask", channels), "mask_relu")
    name = "roi_heads.mask_predictor.mask_fcn_logits"
    return float32(conv(pooled, name, num_classes, kernel=1, predicts=True))


def of_class(masks: Symbol, classes: Symbol) -> Symbol:
    """Pick the channel (R, S, S) of each RoI's class (R,) from masks (R, C, S, S)."""
    first = mx.sym.slice_axis(masks, axis=1, begin=0, end=1)
    index = mx.sym.reshape(classes, shape=(-1, 1, 1, 1))
    index = mx.sym.broadcast_add(mx.sym.zeros_like(first), index)
    return mx.sym.pick(masks, mx.sym.reshape(index, shape=(0, -3, -2)), axis=1)


def mask_loss(logits: Symbol, label: Symbol, target: Symbol) -> Symbol:
    """loss_mask (1,): binary cross-entropy of each RoI's own class; 0 if there are no RoIs.

    logits (F, C, S, S); label (F,): 0 for rows that do not count; target (F, S, S) in 0..1.
    """
    counted = label > 0
    loss = binary_cross_entropy(of_class(logits, label), target)
    loss = mx.sym.mean(loss, axis=(1, 2)) * counted
    loss = mx.sym.sum(loss) / mx.sym.maximum(mx.sym.sum(counted), 1)
    return own_mean_loss(loss, "loss_mask")
