"""The confusion matrix: which objects are taken for which class at one score and IoU.

Letters: D detections, G objects (ground truth), K (detection, object) pairs of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.best_f1 import IOU, best_f1
from mxrcnn.evaluation.matching import (
    ClassVerdicts,
    flatten,
    flatten_objects,
    image_pairs,
    match_all,
    paired_overlap,
)


def confusion(
    dataset: Dataset, detections: Mapping[ImageId, Detections], score: float, iou: float = IOU
) -> np.ndarray:
    """Counts (C, C) int64: rows are classes of objects, columns of detections.

    Row 0 has detections that show no object, column 0 objects that nobody found. Detections with at
    least this score and objects are paired one to one, whatever their class: the pair of the
    greatest IoU first, as long as it is at least `iou`. A detection without an object does not
    count if at least the share `iou` of it lies in a difficult or crowd object of its class.
    Raises ValueError as `in_order` does.
    """
    records, count = dataset.records, dataset.num_classes
    boxes, scores, classes, images = flatten(records, detections, count)
    kept = scores >= score
    boxes, classes, images = boxes[kept], classes[kept], images[kept]
    gt_boxes, gt_classes, gt_images, difficult, crowd = flatten_objects(records)
    region = difficult | crowd

    one, other = image_pairs(images, gt_images[~region])
    overlap = paired_overlap(boxes[one], gt_boxes[~region][other])
    near = np.flatnonzero(overlap >= iou)
    near = near[np.argsort(-overlap[near], kind="stable")]
    one, other = _closest(one[near], other[near], len(boxes), int((~region).sum()))
    alone, missed = np.ones(len(boxes), bool), np.ones(int((~region).sum()), bool)
    alone[one] = missed[other] = False

    inside, which = image_pairs(images, gt_images[region])
    covered = paired_overlap(boxes[inside], gt_boxes[region][which], True) >= iou
    covered &= classes[inside] == gt_classes[region][which]
    alone[inside[covered]] = False
    real = gt_classes[~region]
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (real[other], classes[one]), 1)
    np.add.at(table, (0, classes[alone]), 1)
    np.add.at(table, (real[missed], 0), 1)
    return table


def _closest(
    one: np.ndarray, other: np.ndarray, detections: int, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (K,), (K,) that stay if they are taken in order and each side only once.

    In each round those pairs are taken that come first for both of their sides.
    """
    taken = [np.zeros((2, 0), np.int64)]
    while len(one):
        place = np.arange(len(one))
        first = np.full(detections, len(one)), np.full(objects, len(one))
        for least, side in zip(first, (one, other)):
            np.minimum.at(least, side, place)
        now = (first[0][one] == place) & (first[1][other] == place)
        taken.append(np.stack([one[now], other[now]]))
        gone = np.isin(one, one[now]) | np.isin(other, other[now])
        one, other = one[~gone], other[~gone]
    return tuple(np.concatenate(taken, axis=1))


def best_score(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> float:
    """The score with the best F1 over all classes together, at IoU 0.5; 0.5 if nothing is right."""
    matched = match_all(dataset.records, detections, dataset.num_classes, IOU)
    if not matched:
        return 0.5
    columns = ("scores", "images", "verdicts", "gt_images", "gt_ignored")
    joined = [np.concatenate([getattr(c, name) for c in matched]) for name in columns]
    order = np.argsort(-joined[0], kind="stable")
    best = best_f1(ClassVerdicts(*(x[order] for x in joined[:3]), *joined[3:]))
    return best.threshold if best else 0.5


def confusion_entry(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> dict[str, Any]:
    """The matrix at `best_score` for report.json: score, iou, classes, and counts as rows."""
    score = best_score(dataset, detections)
    counts = confusion(dataset, detections, score).tolist()
    names = ["background", *dataset.class_names]
    return {"score": score, "iou": IOU, "classes": names, "counts": counts}
