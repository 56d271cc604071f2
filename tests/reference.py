"""Slow, obvious oracles for fast code."""

from __future__ import annotations

import math

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
