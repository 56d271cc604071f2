"""Pascal VOC's average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mxrcnn.data.records import Detections, ImageId, ImageRecord
from mxrcnn.evaluation.matching import IGNORED, TRUE_POSITIVE, ClassVerdicts, match_all
from mxrcnn.evaluation.report import Report

METRICS = {"voc07": "11-point", "voc12": "area"}


def average_precision(recall: np.ndarray, precision: np.ndarray, use_07_metric: bool) -> float:
    """Average precision of a curve of recall (D,), non-decreasing, and precision (D,).

    use_07_metric: the mean, over recalls 0, 0.1 ... 1, of the best precision at that recall or
    higher (VOC 2007); otherwise the area under the monotone precision curve (VOC 2010 and later).
    An empty curve has AP 0. The eleven recalls are `np.arange(0, 1.1, 0.1)`, as in py-faster-rcnn
    and gluoncv. In floating point its 0.3, 0.6 and 0.7 are slightly too high, so finding exactly 3
    of 10 objects does not reach recall "0.3".
    """
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if use_07_metric:
        first = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), side="left")
        return float(envelope[first].sum() / 11)
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope[:-1]))


def precision_recall(verdicts: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """The curve of one class: verdicts (D,) of `match` -> recall, precision, each (D',).

    Ignored detections add no point, so D' may be less than D. Recall is NaN without objects.
    """
    hit = verdicts[verdicts != IGNORED] == TRUE_POSITIVE
    tp = np.cumsum(hit)
    precision = tp / np.arange(1, len(hit) + 1)
    recall = tp / num_objects if num_objects else np.full(len(hit), np.nan)
    return recall, precision


def evaluate_voc(
    records: Sequence[ImageRecord],
    detections: Mapping[ImageId, Detections],
    class_names: Sequence[str],
    iou_thresh: float = 0.5,
    metric: str = "voc07",
) -> Report:
    """Average precision of each class and their mean, as the VOC devkit computes them.

    metric: "voc07" (11 points) or "voc12" (area). Difficult and crowd objects are ignored, and so
    are detections that match them; further detections of an object are false positives. A class
    without objects to find has AP NaN and is left out of the mean. The report's curves have
    `recall`, `precision` and `scores`, each (D',), by class. An image missing from `detections`
    counts as one without detections. Raises ValueError as `match_all` does, and for another metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    matched = match_all(records, detections, len(class_names) + 1, iou_thresh)
    per_class, curves = {}, {}
    for name, verdicts in zip(class_names, matched):
        per_class[name], curves[name] = _evaluate_class(verdicts, metric)
    aps = np.array([row["AP"] for row in per_class.values()])
    seen = ~np.isnan(aps)
    notes = [f"VOC AP ({metric}, {METRICS[metric]}) at IoU {iou_thresh:g}"]
    if not seen.all():
        absent = ", ".join(name for name, s in zip(per_class, seen) if not s)
        notes.append(f"left out of the mean, because there are no objects to find: {absent}")
    unanswered = sum(record.image_id not in detections for record in records)
    if unanswered:
        notes.append(f"{unanswered} of {len(records)} images have no entry in the detections")
    mean = float(aps[seen].mean()) if seen.any() else float("nan")
    return Report({"mAP": mean}, per_class, curves, notes, metric, "mAP")


def _evaluate_class(
    verdicts: ClassVerdicts, metric: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    objects = int((~verdicts.gt_ignored).sum())
    recall, precision = precision_recall(verdicts.verdicts, objects)
    ap, max_recall = float("nan"), float("nan")
    if objects:
        ap = average_precision(recall, precision, metric == "voc07")
        max_recall = float(recall[-1]) if len(recall) else 0.0
    row = {
        "AP": ap,
        "objects": objects,
        "ignored_objects": len(verdicts.gt_ignored) - objects,
        "detections": len(verdicts.verdicts),
        "max_recall": max_recall,
    }
    scores = verdicts.scores[verdicts.verdicts != IGNORED]
    return row, {"recall": recall, "precision": precision, "scores": scores}
