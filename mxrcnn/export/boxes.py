"""Translators of non-maximum suppression and the classic proposals to ONNX.

Letters: B images, N candidates per image, C classes, A anchors per position, H, W the map's size, P
proposals per image.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from mxrcnn.export.graph import MXNode, OnnxGraph, translates
from symnet.geometry.anchors import classic_base_anchors


def take_rows(g: OnnxGraph, data: str, index: str) -> str:
    """Gather the rows (B, K, columns) of data (B, N, columns) at indices (B, K), per image."""
    return g.op("GatherND", data, g.unsqueeze(index, 2), batch_dims=1)


def columns(g: OnnxGraph, data: str, begin: int, end: int) -> str:
    """Columns begin..end-1 of the last axis."""
    return g.slice(data, -1, begin, end)


def sorted_rows(g: OnnxGraph, score: str, count: str) -> str:
    """The indices (B, K) of the K = count (1,) highest scores (B, N), best first."""
    return g.op("TopK", score, count, outputs=2, axis=1)[1]


def suppress(
    g: OnnxGraph, boxes: str, scores: str, iou_thresh: float, *score_thresh: float
) -> tuple[str, str]:
    """Greedy NMS per class. Returns indices (B, N), survivors first, and their number (B, 1).

    boxes (B, N, 4) and scores (B, C, N) are sorted, best first; survivors keep that order, and the
    other indices follow. Boxes with scores up to score_thresh are ignored.
    """
    candidates = g.shape(boxes, 1, 2)
    survivors = g.op(
        "NonMaxSuppression",
        *(boxes, scores, candidates),
        *(g.constant([value]) for value in (iou_thresh, *score_thresh)),
    )
    # survivors (S, 3): image, class, index -> marks (B, N): 1 for a survivor
    places = g.op("Gather", survivors, g.ints(0, 2), axis=1)
    marks = g.op(
        "ScatterND",
        g.filled(g.shape(boxes, 0, 2), 0),
        places,
        g.filled(g.shape(survivors, 0, 1), 1),
    )
    earlier_first = g.op("Sub", candidates, g.range(candidates))
    order = sorted_rows(g, g.op("Mul", marks, g.cast(earlier_first)), candidates)
    count = g.cast(g.op("ReduceSum", marks, g.ints(1), keepdims=1), TensorProto.INT64)
    return order, count


@translates("_contrib_box_nms")
def _box_nms(g: OnnxGraph, node: MXNode) -> str:
    """Rows (B, N, columns) -> survivors, best first, then rows of -1."""
    node.refuse_unless(in_format="corner", out_format="corner", background_id=-1)
    rows, score_column = node.inputs[0], node.get("score_index", 1)
    total = g.shape(rows, 1, 2)
    count = total
    if node.get("topk", -1) > 0:
        count = g.op("Min", total, g.ints(node["topk"]))
    score = g.op("Squeeze", columns(g, rows, score_column, score_column + 1), g.ints(2))
    rows = take_rows(g, rows, sorted_rows(g, score, count))
    first = node.get("coord_start", 2)
    valid_thresh = node.get("valid_thresh", 0)
    order, kept = suppress(
        g,
        columns(g, rows, first, first + 4),
        _scores_by_class(g, node, rows, valid_thresh),
        node.get("overlap_thresh", 0.5),
        valid_thresh,
    )
    rows = take_rows(g, rows, order)
    survives = g.unsqueeze(g.op("Less", g.unsqueeze(g.range(count), 0), kept), 2)
    rows = g.op("Where", survives, rows, g.constant(-1))
    rest = g.op("Sub", total, count)
    pads = g.concat(g.ints(0, 0, 0, 0), rest, g.ints(0), axis=0)
    return g.op("Pad", rows, pads, g.constant(-1))


def _scores_by_class(g: OnnxGraph, node: MXNode, rows: str, none: float) -> str:
    """Scores (B, C, N) of rows (B, N, columns); `none` for the classes that a row does not have."""
    score_column, id_column = node.get("score_index", 1), node.get("id_index", -1)
    rows = g.op("Transpose", rows, perm=(0, 2, 1))
    score = g.slice(rows, 1, score_column, score_column + 1)
    if id_column < 0 or node.get("force_suppress", False):
        return score
    kinds = g.slice(rows, 1, id_column, id_column + 1)
    highest = g.op("ReduceMax", kinds, keepdims=0)
    classes = g.op("Add", g.cast(highest, TensorProto.INT64), g.ints(1))
    classes = g.reshape(g.cast(g.range(classes)), 1, -1, 1)
    return g.op("Where", g.op("Equal", kinds, classes), score, g.constant(none))


@translates("_contrib_MultiProposal")
def _multi_proposal(g: OnnxGraph, node: MXNode) -> str:
    """rois (B*P, 5): batch index, xyxy. As in the operator, widths include the last pixel (+1).

    Boxes that are too small, or whose cell starts outside the image, get the score -1 but may still
    be used. If NMS leaves fewer than P, they are repeated from the first.
    """
    node.refuse_unless(output_score=False, iou_loss=False)
    scores, boxes = _anchored(g, node)
    total = g.shape(scores, 1, 2)
    limit = node.get("rpn_pre_nms_top_n", 6000)
    count = g.op("Min", total, g.ints(limit)) if limit > 0 else total
    best = sorted_rows(g, scores, count)
    boxes = take_rows(g, boxes, best)
    scores = g.op("GatherElements", scores, best, axis=1)
    grown = g.op("Add", boxes, g.constant([0, 0, 1, 1]))
    order, kept = suppress(g, grown, g.unsqueeze(scores, 1), node.get("threshold", 0.7))
    wanted = node.get("rpn_post_nms_top_n", 300)
    # the operator stops at P proposals, so no more are repeated; at least 1, for NaN scores
    kept = g.op("Max", g.op("Min", kept, g.ints(wanted)), g.ints(1))
    place = g.op("Mod", g.constant([range(wanted)], np.int64), kept)
    boxes = take_rows(g, boxes, g.op("GatherElements", order, place, axis=1))
    image = g.reshape(g.cast(g.range(g.shape(boxes, 0, 1))), -1, 1, 1)
    image = g.op("Expand", image, g.ints(1, wanted, 1))
    return g.reshape(g.concat(image, boxes, axis=2), -1, 5)


def _anchored(g: OnnxGraph, node: MXNode) -> tuple[str, str]:
    """Scores (B, H*W*A) and boxes (B, H*W*A, 4) of all anchors, by row, column, anchor."""
    probability, deltas, im_info = node.inputs
    stride = node["feature_stride"]
    base = classic_base_anchors(stride, node["scales"], node["ratios"])
    rows, cols = (g.shape(probability, axis, axis + 1) for axis in (2, 3))
    size = g.concat(rows, cols, g.ints(1), axis=0)
    y = g.op("Expand", g.reshape(g.cast(g.range(rows)), -1, 1, 1), size)
    x = g.op("Expand", g.reshape(g.cast(g.range(cols)), 1, -1, 1), size)
    corner = g.op("Mul", g.concat(x, y, x, y, axis=2), g.constant(stride))
    anchors = g.op("Add", g.unsqueeze(corner, 2), g.constant(base))
    deltas = g.reshape(g.op("Transpose", deltas, perm=(0, 2, 3, 1)), 0, -1, 4)
    limit = g.slice(im_info, 1, 1, 2), g.slice(im_info, 1, 0, 1)
    limit = g.unsqueeze(g.concat(*limit, *limit, axis=1), 1)  # (B, 1, 4): w, h, w, h
    boxes = _decode(g, g.reshape(anchors, 1, -1, 4), deltas, limit)

    score = g.slice(probability, 1, len(base), 2 * len(base))
    score = g.op("Transpose", score, perm=(0, 2, 3, 1))
    whole = g.op("Floor", g.op("Div", g.slice(limit, 2, 0, 2), g.constant(stride)))
    cell = g.reshape(g.concat(x, y, axis=2), 1, -1, 2)
    inside = g.op("Less", cell, whole)  # (B, H*W, 2)
    inside = g.op("ReduceMin", g.cast(inside), axes=[2], keepdims=1)
    inside = g.reshape(g.op("Expand", inside, g.ints(1, 1, len(base))), 0, -1)
    score = g.op("Where", g.cast(inside, TensorProto.BOOL), g.reshape(score, 0, -1), g.constant(-1))
    return _without_small(g, node, score, boxes, im_info)


def _decode(g: OnnxGraph, anchors: str, deltas: str, limit: str) -> str:
    """Decode deltas (B, N, 4) of anchors (1, N, 4), clipped to 0..limit-1; `BoxCoder(offset=1)`."""
    top_left = columns(g, anchors, 0, 2)
    sizes = g.op("Add", g.op("Sub", columns(g, anchors, 2, 4), top_left), g.constant(1))
    half, one = g.constant(0.5), g.constant(1)
    centres = g.op("Add", top_left, g.op("Mul", half, g.op("Sub", sizes, one)))
    centres = g.op("Add", g.op("Mul", columns(g, deltas, 0, 2), sizes), centres)
    sizes = g.op("Mul", g.op("Exp", columns(g, deltas, 2, 4)), sizes)
    reach = g.op("Mul", half, g.op("Sub", sizes, one))
    boxes = (g.op(kind, centres, reach) for kind in ("Sub", "Add"))
    boxes = g.op("Min", g.concat(*boxes, axis=2), g.op("Sub", limit, one))
    return g.op("Max", boxes, g.constant(0))


def _without_small(
    g: OnnxGraph, node: MXNode, score: str, boxes: str, im_info: str
) -> tuple[str, str]:
    """Boxes with a side below m = rpn_min_size * scale: score -1, and m / 2 larger per side."""
    least = g.op("Mul", g.slice(im_info, 1, 2, 3), g.constant(node.get("rpn_min_size", 16)))
    least = g.unsqueeze(least, 2)  # (B, 1, 1)
    sizes = g.op("Sub", columns(g, boxes, 2, 4), columns(g, boxes, 0, 2))
    sizes = g.op("Add", sizes, g.constant(1))
    small = g.op("Less", g.op("ReduceMin", sizes, axes=[2], keepdims=1), least)
    growth = g.op("Mul", least, g.constant([-0.5, -0.5, 0.5, 0.5]))
    boxes = g.op("Where", small, g.op("Add", boxes, growth), boxes)
    return g.op("Where", g.op("Squeeze", small, g.ints(2)), g.constant(-1), score), boxes
