"""Training targets: matching anchors, proposals and points to objects, and sampling.

Letters: A anchors (all of an image), P proposals, R RoIs, N points, G objects, I ignore regions,
C classes with background 0. Labels: -1 ignored, 0 background, k > 0 class k (the RPN only has 1,
object). FCOS differs: -2 ignored, -1 background, k - 1 class k.
gt_boxes (G, 5): xyxy and class. Rows of class -2 are ignore regions: crowds and difficult objects,
inside which nothing counts as background. Other rows of class <= 0 are padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symnet.geometry.boxes import BoxCoder, areas, iou
from symnet.geometry.matching import IGNORE, anchors_within, match_anchors

#: the class of an ignore region in gt_boxes, and FCOS's label of points inside one
REGION = -2


def real_objects(gt_boxes: np.ndarray) -> np.ndarray:
    """The rows of gt_boxes (G, 5) that are objects."""
    return gt_boxes[gt_boxes[:, 4] > 0]


def ignore_regions(gt_boxes: np.ndarray) -> np.ndarray:
    """The boxes (I, 4) of the rows of gt_boxes (G, 5) that are ignore regions."""
    return gt_boxes[gt_boxes[:, 4] == REGION, :4]


def choose(candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Sample at most `count` of the candidates (indices) without replacement."""
    if len(candidates) <= count:
        return candidates
    return rng.choice(candidates, size=count, replace=False, shuffle=False)


def candidate_anchors(anchors: np.ndarray, height: float, width: float) -> np.ndarray:
    """Indices of the anchors (A, 4) inside the image; if there are none, of those touching it."""
    x1, y1, x2, y2 = anchors.T
    inside = np.flatnonzero((x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height))
    if len(inside):
        return inside
    return np.flatnonzero((x1 < width) & (y1 < height) & (x2 >= 0) & (y2 >= 0))


@dataclass(frozen=True)
class RPNSampling:
    """How many anchors the RPN trains on, and which overlaps make them foreground or background.

    inside_only: ignore anchors that cross the image's border. own_anchor: match every object that
    any anchor overlaps with an anchor of its own. If False, as in torchvision, an object's best
    anchor is foreground, but assigned to the object that it overlaps most. best_below_bg: such an
    anchor is foreground even if its overlap is below bg_thresh. If False, as in gluoncv, it is
    background. ignore_overlap: an anchor is not background if more than this fraction of its area
    lies in an ignore region; 0: off.
    """

    num_samples: int = 256
    fg_fraction: float = 0.5
    fg_thresh: float = 0.7
    bg_thresh: float = 0.3
    inside_only: bool = True
    own_anchor: bool = True
    best_below_bg: bool = True
    ignore_overlap: float = 0.0


def rpn_targets(
    anchors: np.ndarray,
    gt_boxes: np.ndarray,
    image_size: tuple[float, float],
    sampling: RPNSampling,
    coder: BoxCoder,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (A,), box targets (A, 4) and weights (A, 4), float32, for one image's anchors (A, 4).

    image_size: (height, width) without padding. If there is little foreground, background fills up
    the sample. Each object's own anchor is sampled before other foreground anchors.
    """
    labels = np.full(len(anchors), IGNORE, np.float32)
    targets = np.zeros((len(anchors), 4), np.float32)
    weights = np.zeros((len(anchors), 4), np.float32)
    inside, candidates = np.arange(len(anchors)), anchors
    if sampling.inside_only:
        inside = candidate_anchors(anchors, *image_size)
        candidates = anchors[inside]
    objects = real_objects(gt_boxes)
    match = match_anchors(
        candidates,
        objects[:, :4],
        sampling.fg_thresh,
        sampling.bg_thresh,
        sampling.own_anchor,
        coder.offset,
        sampling.best_below_bg,
    )
    if sampling.ignore_overlap:
        regions = ignore_regions(gt_boxes)
        inner = anchors_within(candidates, regions, sampling.ignore_overlap, coder.offset)
        match.labels[inner[match.labels[inner] == 0]] = IGNORE

    max_fg = int(sampling.num_samples * sampling.fg_fraction)
    chosen = choose(np.arange(len(match.own)), max_fg, rng)
    own = match.own[chosen]
    others = np.setdiff1d(np.flatnonzero(match.labels == 1), own)
    others = choose(others, max_fg - len(own), rng)
    bg = choose(
        np.flatnonzero(match.labels == 0), sampling.num_samples - len(own) - len(others), rng
    )

    fg = inside[np.concatenate([own, others])]
    labels[inside[bg]] = 0
    labels[fg] = 1
    if len(fg):
        matched = iou(anchors[fg], objects[:, :4], coder.offset).argmax(axis=1)
        matched[: len(own)] = match.owners[chosen]
        targets[fg] = coder.encode(anchors[fg], objects[matched, :4])
        weights[fg] = 1
    return labels, targets, weights


@dataclass(frozen=True)
class RoISampling:
    """How many RoIs per image the box head trains on, and what counts as foreground.

    fill_with_background: if there are fewer candidates than num_samples, repeat background RoIs and
    count every row, as in the original MXNet graph, whose class loss divides by all rows. If False,
    the remaining rows get label -1, for losses that divide by the number of rows that count.
    ignore_overlap: a RoI is not background if more than this fraction of its area lies in an ignore
    region; 0: off.
    """

    num_samples: int = 128
    fg_fraction: float = 0.25
    fg_thresh: float = 0.5
    bg_thresh_low: float = 0.0
    fill_with_background: bool = True
    ignore_overlap: float = 0.0


def _distinct(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) float32 without duplicates and non-finite rows."""
    boxes = np.ascontiguousarray(boxes[np.isfinite(boxes).all(axis=1)] + np.float32(0))
    rows = boxes.view(np.dtype((np.void, boxes.itemsize * 4))).ravel()
    _, first = np.unique(rows, return_index=True)
    return boxes[np.sort(first)]


def roi_targets(
    proposals: np.ndarray,
    gt_boxes: np.ndarray,
    num_classes: int,
    sampling: RoISampling,
    coder: BoxCoder,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """RoIs (R, 4), labels (R,), box targets (R, 4C) and weights (R, 4C), and matched objects (R,).

    All are float32, for one image, with foreground first.

    Fast R-CNN, section 2.3: the objects are added to the proposals (P, 4), a quarter of the RoIs is
    foreground, and each RoI only has targets in the four columns of its class. Duplicate proposals
    count once. If there are fewer candidates than RoIs, the remaining rows repeat the sampled
    background in turn (see RoISampling). Without background they repeat the first box, with label
    -1 and weights 0.
    """
    count = sampling.num_samples
    objects = real_objects(gt_boxes)
    boxes = _distinct(np.concatenate([proposals, objects[:, :4]]).astype(np.float32))
    if len(objects):
        overlaps = iou(boxes, objects[:, :4], coder.offset)
        matched = overlaps.argmax(axis=1)
        best = overlaps[np.arange(len(boxes)), matched]
    else:
        matched = np.zeros(len(boxes), np.int64)
        best = np.zeros(len(boxes), np.float32)

    fg = np.flatnonzero(best >= sampling.fg_thresh)
    fg = choose(fg, round(count * sampling.fg_fraction), rng)
    is_bg = (best < sampling.fg_thresh) & (best >= sampling.bg_thresh_low)
    if sampling.ignore_overlap:
        regions = ignore_regions(gt_boxes)
        is_bg[anchors_within(boxes, regions, sampling.ignore_overlap, coder.offset)] = False
    bg = np.flatnonzero(is_bg)
    bg = choose(bg, count - len(fg), rng)
    if sampling.fill_with_background and len(bg):
        bg = np.resize(bg, count - len(fg))
    kept = np.concatenate([fg, bg])

    rois = np.zeros((count, 4), np.float32)
    rois[: len(kept)] = boxes[kept]
    rois[len(kept) :] = rois[0]
    labels = np.full(count, IGNORE, np.float32)
    labels[: len(kept)] = 0
    labels[: len(fg)] = objects[matched[fg], 4]
    deltas = coder.encode(boxes[fg], objects[matched[fg], :4])
    targets, weights = expand_by_class(deltas, labels, num_classes)
    own = np.zeros(count, np.float32)
    own[: len(fg)] = np.flatnonzero(gt_boxes[:, 4] > 0)[matched[fg]]
    return rois, labels, targets, weights, own


def expand_by_class(
    deltas: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Box targets and weights (R, 4C) from the deltas (F, 4) of the first F rows, by class."""
    count = len(deltas)
    targets = np.zeros((len(labels), num_classes, 4), np.float32)
    weights = np.zeros_like(targets)
    rows, classes = np.arange(count), labels[:count].astype(np.int64)
    targets[rows, classes] = deltas
    weights[rows, classes] = 1
    return targets.reshape(len(labels), -1), weights.reshape(len(labels), -1)


@dataclass(frozen=True)
class PointMatching:
    """The rule that assigns FCOS's points to objects; lengths are in strides of the point's level.

    size_range: a point's largest distance to its object's sides lies strictly between these bounds,
    as in torchvision; the first level starts at 0, the last has no upper bound. A distance that
    equals a bound fits neither level. center_sampling_radius: a point must be closer than this to
    the object's centre, in x and in y; 0: off.
    """

    size_range: tuple[float, float] = (4.0, 8.0)
    center_sampling_radius: float = 1.5


def match_points(
    points: np.ndarray,
    levels: np.ndarray,
    strides: Sequence[int],
    boxes: np.ndarray,
    rule: PointMatching,
) -> np.ndarray:
    """The object (N,) of each point (N, 2), -1 for none.

    levels (N,): the points' levels. strides: one per level. boxes (G, 4): the objects. FCOS,
    section 3.2: the smallest of the objects that contain the point and have its level's size. With
    centre sampling (the second FCOS paper) the point must also be near the object's centre.
    Points are processed in blocks: 700 objects on 800 x 1344 take 0.15 s and 2 MB.
    """
    if not len(boxes):
        return np.full(len(points), -1)
    step = max(1, _BLOCK // len(boxes))
    blocks = (slice(start, start + step) for start in range(0, len(points), step))
    parts = [_match_block(points[part], levels[part], strides, boxes, rule) for part in blocks]
    return np.concatenate(parts)


#: pairs of a point and an object that are processed at once
_BLOCK = 1 << 15


def _match_block(
    points: np.ndarray,
    levels: np.ndarray,
    strides: Sequence[int],
    boxes: np.ndarray,
    rule: PointMatching,
) -> np.ndarray:
    """`match_points` with all pairs at once."""
    stride = np.asarray(strides, np.float32)[levels][:, None]  # (N, 1)
    low = np.where(levels[:, None] == 0, 0, rule.size_range[0] * stride)
    high = np.where(levels[:, None] == len(strides) - 1, np.inf, rule.size_range[1] * stride)
    x, y = points[:, 0:1], points[:, 1:2]
    left, top, right, bottom = x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y
    nearest = np.minimum(np.minimum(left, right), np.minimum(top, bottom))
    farthest = np.maximum(np.maximum(left, right), np.maximum(top, bottom))
    ours = (nearest > 0) & (farthest > low) & (farthest < high)
    if rule.center_sampling_radius > 0:
        # half the difference of the left and right distances is the distance to the centre
        away = np.maximum(np.abs(left - right), np.abs(top - bottom)) / 2
        ours &= away < rule.center_sampling_radius * stride
    matched = np.where(ours, areas(boxes), np.inf).argmin(axis=1)
    return np.where(ours.any(axis=1), matched, -1)


def fcos_targets(
    points: np.ndarray,
    levels: np.ndarray,
    strides: Sequence[int],
    gt_boxes: np.ndarray,
    rule: PointMatching,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,), LTRB targets (N, 4) in strides and centerness (N,), float32, of the points.

    points (N, 2), levels (N,), strides: one per level. Background has label -1 and zeros elsewhere.
    A point that belongs to no object and lies inside an ignore region has label -2. Centerness is
    equation 3 of FCOS: sqrt(min(l, r) min(t, b) / (max(l, r) max(t, b))).
    """
    objects = real_objects(gt_boxes)
    matched = match_points(points, levels, strides, objects[:, :4], rule)
    labels = np.full(len(points), -1, np.float32)
    regions = ignore_regions(gt_boxes)
    inside = (points[:, None] > regions[:, :2]) & (points[:, None] < regions[:, 2:])
    labels[inside.all(axis=2).any(axis=1)] = REGION
    ltrb = np.zeros((len(points), 4), np.float32)
    centerness = np.zeros(len(points), np.float32)
    fg = np.flatnonzero(matched >= 0)
    place, box = points[fg], objects[matched[fg]]
    own = np.concatenate([place - box[:, :2], box[:, 2:4] - place], axis=1)
    labels[fg] = box[:, 4] - 1
    ltrb[fg] = own / np.asarray(strides, np.float32)[levels[fg], None]
    near, far = np.minimum(own[:, :2], own[:, 2:]), np.maximum(own[:, :2], own[:, 2:])
    centerness[fg] = np.sqrt(near.prod(axis=1) / far.prod(axis=1))
    return labels, ltrb, centerness


def pad_objects(objects: Sequence[np.ndarray], capacity: int) -> np.ndarray:
    """Stack the objects (G_b, 5) of B images as gt_boxes (B, capacity, 5), padded with -1."""
    padded = np.full((len(objects), capacity, 5), -1, np.float32)
    for row, boxes in zip(padded, objects):
        row[: len(boxes)] = boxes
    return padded
