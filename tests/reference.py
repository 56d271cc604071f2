"""Slow and obvious reference implementations for fast code."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np

# ---- evaluation: the VOC devkit's VOCevaldet.m, line by line, on 1-based inclusive boxes ----


def voc_devkit_ap(
    ground_truth: list[list[tuple[tuple[float, ...], bool]]],
    detections: list[tuple[float, int, tuple[float, ...]]],
    iou_thresh: float,
    use_07_metric: bool,
) -> float:
    """AP of one class; NaN without objects to find.

    ground_truth[image]: (inclusive box, difficult). detections: (score, image, inclusive box), with
    distinct scores or already sorted.
    """
    npos = sum(not difficult for image in ground_truth for _, difficult in image)
    detected = [[False] * len(image) for image in ground_truth]
    tp, fp, precision, recall = 0, 0, [], []
    for _, image, box in sorted(detections, key=lambda d: -d[0]):
        best, chosen = -math.inf, -1
        for j, (other, _) in enumerate(ground_truth[image]):
            overlap = inclusive_iou(box, other)
            if overlap > best:
                best, chosen = overlap, j
        if best >= iou_thresh:
            if not ground_truth[image][chosen][1]:
                if not detected[image][chosen]:
                    tp += 1
                    detected[image][chosen] = True
                else:
                    fp += 1
        else:
            fp += 1
        precision.append(tp / (tp + fp) if tp + fp else 0.0)
        recall.append(tp / npos if npos else math.nan)
    if not npos:
        return math.nan
    return _ap_07(recall, precision) if use_07_metric else _ap_area(recall, precision)


def inclusive_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two boxes that include their last row and column."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (area_a + area_b - width * height)


def _ap_07(recall: list[float], precision: list[float]) -> float:
    total = 0.0
    for t in np.arange(0.0, 1.1, 0.1):
        total += max((p for r, p in zip(recall, precision) if r >= t), default=0.0) / 11
    return total


def _ap_area(recall: list[float], precision: list[float]) -> float:
    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)))


# --- geometry -----------------------------------------------------------------------------------


def slow_iou(a, b, offset=0):
    """Intersection over union of two boxes, xyxy."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    union = area_a + area_b - width * height
    return width * height / union if union > 0 else 0.0


# --- targets: the plain form, with the matrix (A, G) of all overlaps ------------------------------


def plain_iou(boxes, others, offset=0.0):
    """Intersection over union (N, M) of boxes (N, 4) and others (M, 4)."""
    width = np.minimum.outer(boxes[:, 2], others[:, 2])
    width -= np.maximum.outer(boxes[:, 0], others[:, 0])
    height = np.minimum.outer(boxes[:, 3], others[:, 3])
    height -= np.maximum.outer(boxes[:, 1], others[:, 1])
    shared = np.maximum(width + offset, 0) * np.maximum(height + offset, 0)
    area, other = (
        np.prod(np.maximum(b[:, 2:4] - b[:, :2] + offset, 0), axis=1) for b in (boxes, others)
    )
    union = np.add.outer(area, other) - shared
    return shared / np.maximum(union, np.finfo(np.float32).tiny)


def plain_claims(overlaps):
    """The anchor that each object (G,) claims, given overlaps (A, G); -1 for none.

    In each round, every object bids for its best free anchor, and the object with the highest
    overlap gets it.
    """
    overlaps = overlaps.copy()
    claimed = np.full(overlaps.shape[1], -1, np.int64)
    pending = np.arange(overlaps.shape[1])
    while len(pending):
        wanted = overlaps[:, pending].argmax(axis=0)
        value = overlaps[wanted, pending]
        pending, wanted, value = (x[value > 0] for x in (pending, wanted, value))
        order = np.argsort(-value, kind="stable")
        _, first = np.unique(wanted[order], return_index=True)
        winners = order[first]
        claimed[pending[winners]] = wanted[winners]
        overlaps[wanted[winners]] = 0
        pending = np.delete(pending, winners)
    return claimed


def plain_match(overlaps, fg_thresh, bg_thresh, own_anchor, best_below_bg):
    """Labels (A,), matched objects (A,) and claimed anchors, for overlaps (A, G)."""
    num_anchors, num_objects = overlaps.shape
    if not num_objects:
        nobody = np.zeros(num_anchors, np.int64)
        return nobody, nobody, nobody[:0]
    matched = overlaps.argmax(axis=1)
    best = overlaps[np.arange(num_anchors), matched]
    labels = np.full(num_anchors, -1, np.int64)
    labels[best < bg_thresh] = 0
    labels[best >= fg_thresh] = 1
    object_best = overlaps.max(axis=0)
    is_best = ((overlaps == object_best) & (object_best > 0)).any(axis=1)
    labels[is_best & (best_below_bg | (labels != 0))] = 1
    if not own_anchor:
        return labels, matched, np.zeros(0, np.int64)
    claimed = plain_claims(overlaps)
    objects = np.flatnonzero(claimed >= 0)
    matched[claimed[objects]] = objects
    labels[claimed[objects]] = 1
    return labels, matched, claimed[objects]


def plain_rpn_targets(anchors, gt_boxes, image_size, sampling, coder, rng):
    """Equals `geometry.targets.rpn_targets` to the bit: labels, targets, weights and draws."""

    def choose(candidates, count):
        if len(candidates) <= count:
            return candidates
        return rng.choice(candidates, size=count, replace=False, shuffle=False)

    inside = np.arange(len(anchors))
    if sampling.inside_only:
        x1, y1, x2, y2 = anchors.T
        height, width = image_size
        inside = np.flatnonzero((x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height))
        if not len(inside):
            inside = np.flatnonzero((x1 < width) & (y1 < height) & (x2 >= 0) & (y2 >= 0))
    objects = gt_boxes[gt_boxes[:, 4] > 0]
    overlaps = plain_iou(anchors[inside], objects[:, :4], coder.offset)
    rule = sampling.fg_thresh, sampling.bg_thresh, sampling.own_anchor, sampling.best_below_bg
    match, matched, own = plain_match(overlaps, *rule)

    max_fg = int(sampling.num_samples * sampling.fg_fraction)
    own = choose(own, max_fg)
    others = np.setdiff1d(np.flatnonzero(match == 1), own)
    fg = np.concatenate([own, choose(others, max_fg - len(own))])
    bg = choose(np.flatnonzero(match == 0), sampling.num_samples - len(fg))

    labels = np.full(len(anchors), -1, np.float32)
    targets, weights = np.zeros((2, len(anchors), 4), np.float32)
    labels[inside[bg]] = 0
    labels[inside[fg]] = 1
    targets[inside[fg]] = coder.encode(anchors[inside[fg]], objects[matched[fg], :4])
    weights[inside[fg]] = 1
    return labels, targets, weights


def plain_match_points(points, levels, strides, boxes, rule):
    """The object (N,) of each point (N, 2), -1 for none, and all LTRB distances (N, G, 4)."""
    stride = np.asarray(strides, np.float32)[levels][:, None]  # (N, 1)
    ltrb = np.concatenate(
        [points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], axis=2
    )
    low = np.where(levels == 0, 0, rule.size_range[0] * stride[:, 0])[:, None]
    high = np.where(levels == len(strides) - 1, np.inf, rule.size_range[1] * stride[:, 0])[:, None]
    farthest = ltrb.max(axis=2)
    ours = (ltrb.min(axis=2) > 0) & (farthest > low) & (farthest < high)
    if rule.center_sampling_radius > 0:
        # half the difference of the left and right distances is the distance to the centre
        away = np.abs(ltrb[:, :, :2] - ltrb[:, :, 2:]).max(axis=2) / 2
        ours &= away < rule.center_sampling_radius * stride
    if not len(boxes):
        return np.full(len(points), -1), ltrb
    area = np.where(ours, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.inf)
    matched = area.argmin(axis=1)
    return np.where(ours.any(axis=1), matched, -1), ltrb


# --- detections ---------------------------------------------------------------------------------


def slow_detections(boxes, scores, score_thresh, nms_thresh, pre_nms_top_n, max_detections, offset):
    """[(score, class, box)] of one image, by descending score: greedy NMS per class.

    boxes (R, K, 4) and scores (R, K) have K classes, without the background, which is class 0.
    """
    candidates = [
        (float(scores[r, k]), k + 1, boxes[r, k])
        for r in range(scores.shape[0])
        for k in range(scores.shape[1])
        if scores[r, k] > score_thresh
    ]
    kept = []
    for score, k, box in sorted(candidates, key=lambda c: -c[0])[:pre_nms_top_n]:
        others = [other for _, same, other in kept if same == k]
        if all(slow_iou(box, other, offset) <= nms_thresh for other in others):
            kept.append((score, k, box))
    return kept[:max_detections]


# --- pyramids: torchvision's steps, one box at a time --------------------------------------------


def slow_roi_level(box, levels, canonical_size=224, canonical_level=4):
    """A box's level, with 0 for p2: FPN paper, equation 1, with torchvision's 1e-6."""
    area = max(0.0, (box[2] - box[0]) * (box[3] - box[1]))
    if area == 0:
        return 0
    level = math.floor(canonical_level + math.log2(math.sqrt(area) / canonical_size) + 1e-6)
    return min(max(level, 2), levels + 1) - 2


def slow_matcher(anchors, boxes, high, low):
    """[(label, object)] of anchors, like torchvision's Matcher with allow_low_quality_matches.

    Labels: 1 for foreground, 0 for background, -1 between the thresholds. An object's best anchors
    (all ties) become 1, but stay assigned to the object that they overlap most.
    """
    table = [[slow_iou(anchor, box) for box in boxes] for anchor in anchors]
    best_of_object = [max(row[g] for row in table) for g in range(len(boxes))]
    found = []
    for row in table:
        best = max(row, default=0.0)
        label = 1 if best >= high else 0 if best < low else -1
        if any(value == top > 0 for value, top in zip(row, best_of_object)):
            label = 1
        found.append((label, row.index(best) if row else 0))
    return found


def slow_decode(box, delta, stds, clip):
    """Apply a delta (dx, dy, dw, dh) to a box."""
    width, height = box[2] - box[0], box[3] - box[1]
    dx, dy, dw, dh = (float(d) * s for d, s in zip(delta, stds))
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    width, height = width * math.exp(min(dw, clip)), height * math.exp(min(dh, clip))
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def slow_pyramid_proposals(objectness, deltas, anchors, padded, image, rule):
    """[(score, box)] of one image, by descending score, like torchvision's filter_proposals.

    For each level: objectness (A, H, W) logits, deltas (4A, H, W), anchors (A, 4). padded and
    image: (height, width). rule: a ProposalFilter; without per_level it works like gluoncv's.
    """
    groups, kept = [], []
    for logits, moves, base in zip(objectness, deltas, anchors):
        _, rows, columns = logits.shape
        step_y, step_x = padded[0] // rows, padded[1] // columns
        cells = [(-logits[index], index) for index in np.ndindex(logits.shape)]
        chosen = []
        for negative, (a, y, x) in sorted(cells)[: rule.pre_nms_top_n]:
            anchor = base[a] + np.array([x * step_x, y * step_y] * 2)
            delta = moves[4 * a : 4 * a + 4, y, x]
            box = slow_decode(anchor, delta, rule.bbox_stds, rule.clip)
            box = [min(max(v, 0), image[1 - i % 2]) for i, v in enumerate(box)]
            score = 1 / (1 + math.exp(negative))
            large = min(box[2] - box[0], box[3] - box[1]) >= rule.min_size
            if large and score > rule.score_thresh:
                chosen.append((score, box))
        groups.append(chosen)
    if not rule.per_level:
        groups = [sorted(chain(*groups), key=lambda c: -c[0])[: rule.pre_nms_top_n]]
    for chosen in groups:
        survivors = []
        for score, box in chosen:
            if all(slow_iou(box, other) <= rule.nms_thresh for _, other in survivors):
                survivors.append((score, box))
        kept += survivors
    return sorted(kept, key=lambda c: -c[0])[: rule.post_nms_top_n]


def slow_crop(mask, frame, roi, size):
    """The mean of the samples in each bin of a RoI (size, size), like RoIAlign without `aligned`.

    mask (h, w) covers frame (xyxy, network pixels); samples are bilinear.
    """
    x1, y1, x2, y2 = (float(v) for v in roi)
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    across, down = math.ceil(width / size), math.ceil(height / size)
    out = np.zeros((size, size))
    for i, j in np.ndindex(out.shape):
        for b, a in np.ndindex(down, across):
            y = y1 + (i + (b + 0.5) / down) * height / size - frame[1]
            x = x1 + (j + (a + 0.5) / across) * width / size - frame[0]
            out[i, j] += _read(mask, y, x, frame[3] - frame[1], frame[2] - frame[0])
    return out / (down * across)


def _read(mask, y, x, height, width):
    """Read a mask of height x width network pixels at (y, x) of its frame.

    More than one pixel outside it is 0.
    """
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    (rows, columns), value = mask.shape, 0.0
    y, x = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    for i in {math.floor(y), math.ceil(y)}:
        for j in {math.floor(x), math.ceil(x)}:
            value += (1 - abs(y - i)) * (1 - abs(x - j)) * float(mask[i, j])
    return value
