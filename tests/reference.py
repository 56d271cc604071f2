"""Slow, obvious oracles for fast code."""

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
    """AP of one class. ground_truth[image]: (inclusive box, difficult); detections: (score, image,
    inclusive box), distinct scores or already in order. NaN without objects to find."""
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
    """Overlap of two boxes whose last row and column are part of them."""
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


# --- detections ---------------------------------------------------------------------------------


def slow_detections(boxes, scores, score_thresh, nms_thresh, pre_nms_top_n, max_detections, offset):
    """[(score, class, box)] of one image, best first: greedy NMS a class.

    boxes (R, K, 4) and scores (R, K) of K classes without the background, which is class 0.
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
    """The index of a box's map, p2 being 0: FPN paper, equation 1, with torchvision's 1e-6."""
    area = max(0.0, (box[2] - box[0]) * (box[3] - box[1]))
    if area == 0:
        return 0
    level = math.floor(canonical_level + math.log2(math.sqrt(area) / canonical_size) + 1e-6)
    return min(max(level, 2), levels + 1) - 2


def slow_matcher(anchors, boxes, high, low):
    """[(label, object)] of anchors as torchvision's Matcher with allow_low_quality_matches.

    Labels: 1, 0 for background, -1 between the thresholds. An object's best anchors (all that are
    tied) become 1, but stay with the object that they overlap most.
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
    """The box that a delta (dx, dy, dw, dh) makes of a box."""
    width, height = box[2] - box[0], box[3] - box[1]
    dx, dy, dw, dh = (float(d) * s for d, s in zip(delta, stds))
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    width, height = width * math.exp(min(dw, clip)), height * math.exp(min(dh, clip))
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def slow_pyramid_proposals(objectness, deltas, anchors, padded, image, rule):
    """[(score, box)] of one image, best first, as torchvision's filter_proposals.

    objectness: maps (A, H, W) of logits, one a level; deltas (4A, H, W); anchors: (A, 4) a level;
    padded and image: (height, width); rule: a ProposalFilter, of gluoncv's kind without per_level.
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
    """(size, size): the mean of the samples of each bin of a RoI, as RoIAlign without `aligned`.

    mask (h, w) lies in frame (xyxy, pixels of the network); a sample is read there, bilinear.
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
    """A mask of height x width network pixels at (y, x) of its frame; 0 a pixel outside."""
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    (rows, columns), value = mask.shape, 0.0
    y, x = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    for i in {math.floor(y), math.ceil(y)}:
        for j in {math.floor(x), math.ceil(x)}:
            value += (1 - abs(y - i)) * (1 - abs(x - j)) * float(mask[i, j])
    return value
