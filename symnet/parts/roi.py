"""The second stage: RoI pooling, class and box heads, final detections (Fast R-CNN, section 2).

Letters: B images, R RoIs an image, C classes with background 0, K = C - 1, D detections an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from symnet.machine import mx
from symnet.parts.box_loss import BETA, box_divisor, foreground_output, smooth_l1
from symnet.parts.layers import (
    binary_cross_entropy,
    conv,
    deconv,
    fc,
    float32,
    mean_loss,
    own_mean_loss,
    relu,
    row_side,
)

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol


def roi_head(feature: Symbol, num_classes: int) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C) and class-specific box deltas (B*R, 4C) from features (B*R, _)."""
    cls_score = fc(feature, "cls_score", num_classes, predicts=True)
    bbox_pred = fc(feature, "bbox_pred", 4 * num_classes, predicts=True)
    return float32(cls_score), float32(bbox_pred)


def roi_losses(
    cls_score: Symbol,
    bbox_pred: Symbol,
    label: Symbol,
    bbox_target: Symbol,
    bbox_weight: Symbol,
    num_samples: int,
) -> tuple[Symbol, Symbol]:
    """The class loss and the box loss, each summed over RoIs and divided by num_samples = B*R.

    label (B*R,), -1 for rows that add nothing to the class loss, though it is divided by all rows;
    bbox_target, bbox_weight (B*R, 4C).
    """
    cls_prob = mx.sym.SoftmaxOutput(
        cls_score, label, normalization="batch", use_ignore=True, ignore_label=-1, name="cls_prob"
    )
    loss = mx.sym.smooth_l1(bbox_pred - bbox_target, scalar=1.0, name="bbox_loss_")
    return cls_prob, mean_loss(bbox_weight * loss, "bbox_loss", num_samples)


def _columns(data: Symbol, begin: int, end: int | None) -> Symbol:
    return mx.sym.slice_axis(data, axis=-1, begin=begin, end=end)


def decode_boxes(
    boxes: Symbol,
    deltas: Symbol,
    im_info: Symbol | None,
    stds: Sequence[float],
    offset: float,
    clip: float | None = None,
) -> Symbol:
    """Boxes (B, R, K, 4) from rois (B, R, 5) or boxes (B, R, 4) and deltas (B, R, K, 4).

    They are cut to the image, if im_info (B, 3), height, width, scale, is given. The same formula
    as BoxCoder.decode, which the tests hold it to; `clip` bounds dw and dh.
    """
    boxes = mx.sym.expand_dims(boxes, axis=2)
    top_left = _columns(boxes, -4, -2)
    sizes = _columns(boxes, -2, None) - top_left + offset
    centres = top_left + 0.5 * (sizes - offset)

    std = mx.sym.concat(*(mx.sym.full((1, 1, 1, 1), value) for value in stds), dim=3)
    deltas = mx.sym.broadcast_mul(deltas, std)
    centres = mx.sym.broadcast_add(centres, mx.sym.broadcast_mul(_columns(deltas, 0, 2), sizes))
    scale = _columns(deltas, 2, 4)
    if clip is not None:
        scale = mx.sym.broadcast_minimum(scale, mx.sym.full((1, 1, 1, 1), clip))
    sizes = mx.sym.broadcast_mul(mx.sym.exp(scale), sizes)
    half = 0.5 * (sizes - offset)
    decoded = mx.sym.concat(centres - half, centres + half, dim=3)
    return decoded if im_info is None else cut_to_image(decoded, im_info)


def cut_to_image(boxes: Symbol, im_info: Symbol) -> Symbol:
    """Boxes (B, R, K, 4) cut to 0..width and 0..height; im_info (B, 3): h, w, scale."""
    width_height = mx.sym.reverse(_columns(im_info, 0, 2), axis=1)
    limit = mx.sym.reshape(mx.sym.concat(width_height, width_height, dim=1), shape=(-1, 1, 1, 4))
    return mx.sym.broadcast_minimum(mx.sym.relu(boxes), limit)


def detections(
    boxes: Symbol,
    scores: Symbol,
    score_thresh: float,
    nms_thresh: float,
    pre_nms_top_n: int,
    max_detections: int,
    offset: float,
    boxes_name: str = "det_boxes",
) -> tuple[Symbol, Symbol, Symbol]:
    """NMS a class, best first: det_boxes (B, D, 4), det_scores (B, D), det_classes (B, D).

    boxes (B, R, K, 4) and scores (B, R, K), without the background; the pre_nms_top_n best of an
    image take part; D is max_detections, or R * K if that is less. Empty rows have class -1.
    Overlaps count a width as x2 - x1 + offset.
    """
    classes = mx.sym.cumsum(mx.sym.ones_like(scores), axis=2)  # 1, 2, ... K
    columns = [mx.sym.expand_dims(column, axis=3) for column in (classes, scores)]
    columns += [_columns(boxes, 0, 2), _columns(boxes, 2, 4) + offset]
    rows = mx.sym.reshape(mx.sym.concat(*columns, dim=3), shape=(0, -1, 6))
    return suppressed(
        rows, score_thresh, nms_thresh, pre_nms_top_n, max_detections, offset, boxes_name
    )


def suppressed(
    rows: Symbol,
    score_thresh: float,
    nms_thresh: float,
    pre_nms_top_n: int,
    max_detections: int,
    offset: float = 0,
    boxes_name: str = "det_boxes",
) -> tuple[Symbol, Symbol, Symbol]:
    """`detections` of rows (B, N, 6): class, score and xyxy, whose x2 and y2 are up by offset."""
    kept = mx.sym.contrib.box_nms(
        rows,
        overlap_thresh=nms_thresh,
        valid_thresh=score_thresh,
        topk=pre_nms_top_n,
        id_index=0,
        score_index=1,
        coord_start=2,
    )
    kept = mx.sym.slice(kept, begin=(None, 0), end=(None, max_detections))
    return (
        mx.sym.concat(_columns(kept, 2, 4), _columns(kept, 4, 6) - offset, dim=2, name=boxes_name),
        mx.sym.reshape(_columns(kept, 1, 2), shape=(0, -1), name="det_scores"),
        mx.sym.reshape(_columns(kept, 0, 1), shape=(0, -1), name="det_classes"),
    )


def crop_and_resize(
    data: Symbol, index: Symbol, boxes: Symbol, size: int, name: str, scale: float = 1.0
) -> Symbol:
    """TensorFlow's crop_and_resize: boxes (R, 4) of maps index (R, 1) as (R, _, size, size).

    Bilinear samples at x1 + i * (x2 - x1) / (size - 1), in cells, scale being cells a unit of the
    boxes: the outer ones are on the box's edges. ROIAlign with one sample a bin takes the bins'
    centres, up to half a bin from there, so boxes grow by half a bin on each side. A box narrower
    than about one cell is sampled over one cell. No gradient goes to the boxes.
    """
    first, last = _columns(boxes, 0, 2), _columns(boxes, 2, 4)
    half_bin = (last - first) * (0.5 / (size - 1))
    return mx.sym.contrib.ROIAlign(
        data,
        mx.sym.BlockGrad(mx.sym.concat(index, first - half_bin, last + half_bin, dim=1)),
        pooled_size=(size, size),
        spatial_scale=scale,
        sample_ratio=1,
        name=name,
    )


def large(boxes: Symbol, min_size: float) -> Symbol:
    """1 where both sides of boxes (..., 4) are at least min_size, else 0: (..., 1)."""
    sizes = _columns(boxes, 2, 4) - _columns(boxes, 0, 2)
    return mx.sym.min(sizes, axis=-1, keepdims=True) >= min_size


def with_batch_index(boxes: Symbol, valid: Symbol) -> Symbol:
    """rois (B, R, 5) of boxes (B, R, 4): the image's index, or -1 where valid (B, R, 1) is 0."""
    index = mx.sym.reshape(mx.sym.contrib.arange_like(boxes, axis=0), shape=(-1, 1, 1))
    index = mx.sym.broadcast_add(mx.sym.zeros_like(valid), index)
    return mx.sym.concat(mx.sym.where(valid, index, -mx.sym.ones_like(index)), boxes, dim=2)


def _convolutions(pooled: Symbol, name: str, layers: int, channels: int) -> Symbol:
    """3x3 convolutions NAME.0.0, NAME.1.0, ... with ReLU: (R, _, h, w) -> (R, channels, h, w)."""
    for layer in range(layers):
        pooled = relu(conv(pooled, f"{name}.{layer}.0", channels), f"{name}.{layer}.relu")
    return pooled


def fc_head(pooled: Symbol, units: int, convs: int = 0, channels: int = 256) -> Symbol:
    """torchvision's TwoMLPHead: (R, channels, 7, 7) -> (R, units).

    With so many convolutions before it its FastRCNNConvFCHead, of one fully connected layer.
    """
    name = "roi_heads.box_head"
    pooled = _convolutions(pooled, name, convs, channels)
    layers = ((str(convs + 1), 7),) if convs else (("fc6", 7), ("fc7", row_side(units)))
    for layer, side in layers:
        pooled = relu(fc(pooled, f"{name}.{layer}", units, side), f"{name}.{layer}_relu")
    return pooled


def box_predictor(feature: Symbol, num_classes: int, unused: int = 0) -> tuple[Symbol, Symbol]:
    """Class logits (R, C + unused) and class-specific box deltas (R, 4C) from features (R, _)."""
    name = "roi_heads.box_predictor."
    cls_logits = fc(feature, f"{name}cls_score", num_classes + unused, predicts=True)
    bbox_deltas = fc(feature, f"{name}bbox_pred", 4 * num_classes, predicts=True)
    return float32(cls_logits), float32(bbox_deltas)


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

    label (R,), -1 for RoIs that fill up and do not count; bbox_target, bbox_weight (R, 4C). active
    (R, C), if given, is 1 for the classes of a RoI's data set: a RoI whose highest logit is of
    another class has no class loss (matterport's active_class_ids). The class loss is the mean over
    the RoIs that have one. The box loss is smooth L1 with that beta, summed over the foreground and
    divided as `mean` says, see box_divisor; the defaults are torchvision's. The accuracy: how many
    RoIs are right, of how many, and how many have a class loss. A fourth output is roi_foreground
    (1,), see foreground_output.
    """
    counted, fg = label >= 0, mx.sym.sum(label > 0)
    best = mx.sym.BlockGrad(mx.sym.argmax(cls_logits, axis=1))
    classified = counted if active is None else counted * mx.sym.pick(active, best, axis=1)
    log_prob = mx.sym.pick(mx.sym.log_softmax(cls_logits, axis=1), mx.sym.relu(label), axis=1)
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
    """The channel (R, S, S) of masks (R, C, S, S) that belongs to each RoI's class (R,)."""
    first = mx.sym.slice_axis(masks, axis=1, begin=0, end=1)
    index = mx.sym.reshape(classes, shape=(-1, 1, 1, 1))
    index = mx.sym.broadcast_add(mx.sym.zeros_like(first), index)
    return mx.sym.pick(masks, mx.sym.reshape(index, shape=(0, -3, -2)), axis=1)


def mask_loss(logits: Symbol, label: Symbol, target: Symbol) -> Symbol:
    """loss_mask (1,): binary cross-entropy on each RoI's own class, 0 if there are no RoIs.

    logits (F, C, S, S); label (F,), 0 for rows that do not count; target (F, S, S) in 0..1.
    """
    counted = label > 0
    loss = binary_cross_entropy(of_class(logits, label), target)
    loss = mx.sym.mean(loss, axis=(1, 2)) * counted
    loss = mx.sym.sum(loss) / mx.sym.maximum(mx.sym.sum(counted), 1)
    return own_mean_loss(loss, "loss_mask")
