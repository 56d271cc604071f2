"""The second stage: RoI pooling, class and box heads, final detections (Fast R-CNN, section 2).

Letters: B images, R RoIs an image, C classes with background 0, K = C - 1, D detections an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from symnet.compat import mx
from symnet.layers import fc, float32, mean_loss

if TYPE_CHECKING:
    from symnet.layers import Symbol


def roi_head(feature: Symbol, num_classes: int) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C) and class-specific box deltas (B*R, 4C) from features (B*R, _)."""
    cls_score = fc(feature, "cls_score", num_classes)
    return float32(cls_score), float32(fc(feature, "bbox_pred", 4 * num_classes))


def roi_losses(
    cls_score: Symbol,
    bbox_pred: Symbol,
    label: Symbol,
    bbox_target: Symbol,
    bbox_weight: Symbol,
    num_samples: int,
) -> tuple[Symbol, Symbol]:
    """The class loss and the box loss, each summed over RoIs and divided by num_samples = B*R.

    label (B*R,), -1 for RoIs that fill up and do not count; bbox_target, bbox_weight (B*R, 4C).
    """
    cls_prob = mx.sym.SoftmaxOutput(
        cls_score, label, normalization="batch", use_ignore=True, ignore_label=-1, name="cls_prob"
    )
    loss = mx.sym.smooth_l1(bbox_pred - bbox_target, scalar=1.0, name="bbox_loss_")
    return cls_prob, mean_loss(bbox_weight * loss, "bbox_loss", num_samples)


def _columns(data: Symbol, begin: int, end: int) -> Symbol:
    return mx.sym.slice_axis(data, axis=-1, begin=begin, end=end)


def decode_boxes(
    rois: Symbol, deltas: Symbol, im_info: Symbol, stds: Sequence[float], offset: float
) -> Symbol:
    """Boxes (B, R, K, 4) from rois (B, R, 5) and deltas (B, R, K, 4), cut to the image.

    The same formula as BoxCoder.decode, which the tests hold it to.
    """
    rois = mx.sym.expand_dims(rois, axis=2)
    top_left = _columns(rois, 1, 3)
    sizes = _columns(rois, 3, 5) - top_left + offset
    centres = top_left + 0.5 * (sizes - offset)

    std = mx.sym.concat(*(mx.sym.full((1, 1, 1, 1), value) for value in stds), dim=3)
    deltas = mx.sym.broadcast_mul(deltas, std)
    centres = mx.sym.broadcast_add(centres, mx.sym.broadcast_mul(_columns(deltas, 0, 2), sizes))
    sizes = mx.sym.broadcast_mul(mx.sym.exp(_columns(deltas, 2, 4)), sizes)
    half = 0.5 * (sizes - offset)
    boxes = mx.sym.concat(centres - half, centres + half, dim=3)

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
        mx.sym.concat(_columns(kept, 2, 4), _columns(kept, 4, 6) - offset, dim=2, name="det_boxes"),
        mx.sym.reshape(_columns(kept, 1, 2), shape=(0, -1), name="det_scores"),
        mx.sym.reshape(_columns(kept, 0, 1), shape=(0, -1), name="det_classes"),
    )
