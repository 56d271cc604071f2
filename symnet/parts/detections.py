"""From deltas and scores to boxes: decoding, clipping to the image, NMS.

Letters: B images, R RoIs per image, C classes with background 0, K = C - 1, D detections per image.
"""

from __future__ import annotations

from collections.abc import Sequence

from symnet.machine import Symbol, mx
from symnet.ops.tensors import columns


def decode_boxes(
    boxes: Symbol,
    deltas: Symbol,
    im_info: Symbol | None,
    stds: Sequence[float],
    offset: float,
    clip: float | None = None,
) -> Symbol:
    """Decode boxes (B, R, K, 4) from rois (B, R, 5) or boxes (B, R, 4), and deltas (B, R, K, 4).

    im_info (B, 3), height, width, scale: clip the boxes to the image, if given. clip: the upper
    bound of dw and dh. The formula is that of BoxCoder.decode; tests compare the two.
    """
    boxes = mx.sym.expand_dims(boxes, axis=2)
    top_left = columns(boxes, -4, -2)
    sizes = columns(boxes, -2, None) - top_left + offset
    centres = top_left + 0.5 * (sizes - offset)

    std = mx.sym.concat(*(mx.sym.full((1, 1, 1, 1), value) for value in stds), dim=3)
    deltas = mx.sym.broadcast_mul(deltas, std)
    centres = mx.sym.broadcast_add(centres, mx.sym.broadcast_mul(columns(deltas, 0, 2), sizes))
    scale = columns(deltas, 2, 4)
    if clip is not None:
        scale = mx.sym.broadcast_minimum(scale, mx.sym.full((1, 1, 1, 1), clip))
    sizes = mx.sym.broadcast_mul(mx.sym.exp(scale), sizes)
    half = 0.5 * (sizes - offset)
    decoded = mx.sym.concat(centres - half, centres + half, dim=3)
    return decoded if im_info is None else cut_to_image(decoded, im_info)


def cut_to_image(boxes: Symbol, im_info: Symbol) -> Symbol:
    """Clip boxes (B, R, K, 4) to 0..width and 0..height; im_info (B, 3): h, w, scale."""
    width_height = mx.sym.reverse(columns(im_info, 0, 2), axis=1)
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
    """NMS per class: det_boxes (B, D, 4), det_scores (B, D), det_classes (B, D), best first.

    boxes (B, R, K, 4) and scores (B, R, K) have no background class. Only the pre_nms_top_n best
    candidates of an image take part. D is max_detections, or R * K if that is less. Empty rows have
    class -1. For overlaps, a width is x2 - x1 + offset.
    """
    classes = mx.sym.cumsum(mx.sym.ones_like(scores), axis=2)  # 1, 2, ... K
    parts = [mx.sym.expand_dims(part, axis=3) for part in (classes, scores)]
    parts += [columns(boxes, 0, 2), columns(boxes, 2, 4) + offset]
    rows = mx.sym.reshape(mx.sym.concat(*parts, dim=3), shape=(0, -1, 6))
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
    """`detections` for rows (B, N, 6): class, score, xyxy with offset added to x2 and y2."""
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
        mx.sym.concat(columns(kept, 2, 4), columns(kept, 4, 6) - offset, dim=2, name=boxes_name),
        mx.sym.reshape(columns(kept, 1, 2), shape=(0, -1), name="det_scores"),
        mx.sym.reshape(columns(kept, 0, 1), shape=(0, -1), name="det_classes"),
    )


def large(boxes: Symbol, min_size: float) -> Symbol:
    """1 where both sides of boxes (..., 4) are at least min_size, else 0: (..., 1)."""
    sizes = columns(boxes, 2, 4) - columns(boxes, 0, 2)
    return mx.sym.min(sizes, axis=-1, keepdims=True) >= min_size


def with_batch_index(boxes: Symbol, valid: Symbol) -> Symbol:
    """Make rois (B, R, 5) from boxes (B, R, 4): image index, or -1 where valid (B, R, 1) is 0."""
    index = mx.sym.reshape(mx.sym.contrib.arange_like(boxes, axis=0), shape=(-1, 1, 1))
    index = mx.sym.broadcast_add(mx.sym.zeros_like(valid), index)
    return mx.sym.concat(mx.sym.where(valid, index, -mx.sym.ones_like(index)), boxes, dim=2)
