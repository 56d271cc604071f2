"""Matches detections to ground truth objects by Pascal VOC's rules.

Letters: D detections, G objects (ground truth), N objects of one image,
K (detection, object) pairs of the same image.
Boxes are xyxy and continuous: width is x2 - x1. The VOC devkit computes overlaps on inclusive
1-based pixels, with width xmax - xmin + 1. That is the same number, because reading a VOC file
subtracts 1 from the minimum only: x2 - x1 = xmax - xmin + 1. Hence there is no "+ 1" here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mxrcnn.data.records import Detections, ImageId, ImageRecord
from symnet.geometry.boxes import paired_coverage, paired_iou

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = 1, 0, -1
_BLOCK = 1 << 16  # number of detections whose pairs are in memory at once


def paired_overlap(
    boxes: np.ndarray, others: np.ndarray, others_are_crowds: bool = False
) -> np.ndarray:
    """Intersection over union (K,) float64 of boxes (K, 4) with others (K, 4), row by row.

    If the others are crowds, it is intersection over the box's area, as in COCO: a crowd is a
    region that contains many objects. Empty and inverted boxes overlap nothing.
    """
    overlap = paired_coverage if others_are_crowds else paired_iou
    return overlap(np.asarray(boxes, np.float64), np.asarray(others, np.float64))


def best_overlap(
    boxes: np.ndarray,
    images: np.ndarray,
    gt_boxes: np.ndarray,
    gt_images: np.ndarray,
    crowds: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """For each box (D, 4), find the object of the same image that overlaps it most.

    images (D,) and gt_images (G,) number the images of the boxes and of gt_boxes (G, 4); gt_images
    is ascending. crowds: True if the objects are crowds, see `paired_overlap`. Returns (overlap
    (D,) float64, index into gt_boxes (D,) int64). Among equal overlaps the first object wins, as in
    the devkit. A box whose image has no object gets overlap 0 and index -1.
    """
    iou, index = np.zeros(len(boxes)), np.full(len(boxes), -1, np.int64)
    for first in range(0, len(boxes), _BLOCK):
        pair_box, pair_gt = image_pairs(images[first : first + _BLOCK], gt_images)
        pair_box += first
        pair_iou = paired_overlap(boxes[pair_box], gt_boxes[pair_gt], crowds)
        rows, best, place = row_maxima(pair_box, pair_iou)
        iou[rows], index[rows] = best, pair_gt[place]
    return iou, index


def image_pairs(images: np.ndarray, gt_images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (K,), (K,) of a box and an object of its image, by box and then by object.

    images (D,) and gt_images (G,), which is ascending, number the images.
    """
    start = np.searchsorted(gt_images, images, side="left")
    count = np.searchsorted(gt_images, images, side="right") - start
    offset = np.cumsum(count) - count
    box = np.repeat(np.arange(len(images)), count)
    return box, np.arange(len(box)) + np.repeat(start - offset, count)


def row_maxima(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each different row: (the row, its greatest value, the first place that has it).

    rows (K,) is ascending; values (K,).
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if not len(starts):
        return rows[:0], values[:0], starts
    best = np.maximum.reduceat(values, starts)
    is_best = np.flatnonzero(values == np.repeat(best, np.diff(starts, append=len(rows))))
    return rows[starts], best, is_best[np.searchsorted(is_best, starts)]


def match(
    boxes: np.ndarray,
    groups: np.ndarray,
    gt_boxes: np.ndarray,
    gt_groups: np.ndarray,
    gt_difficult: np.ndarray,
    gt_crowd: np.ndarray,
    iou_thresh: float,
) -> np.ndarray:
    """Classify detections (D, 4) as true or false positives, or ignored; returns (D,) int8.

    Detections are sorted by descending score within each class. groups (D,) and gt_groups (G,),
    which is ascending, number the (class, image) pair of each row. gt_difficult and gt_crowd (G,)
    bool mark ignored objects.
    As in the VOC devkit (VOCevaldet.m), only the object with the highest overlap counts: below
    `iou_thresh` the detection is FALSE_POSITIVE; on a difficult object it is IGNORED; otherwise the
    object's first detection is TRUE_POSITIVE, and later ones are FALSE_POSITIVE. VOC has no crowds.
    They follow COCO: a detection that would be FALSE_POSITIVE is IGNORED if at least `iou_thresh`
    of its own area lies in a crowd.
    """
    verdict = np.full(len(boxes), FALSE_POSITIVE, np.int8)
    single = np.flatnonzero(~gt_crowd)
    iou, index = best_overlap(boxes, groups, gt_boxes[single], gt_groups[single])
    hits = np.flatnonzero((iou >= iou_thresh) & (index >= 0))
    on_difficult = gt_difficult[single][index[hits]]
    verdict[hits[on_difficult]] = IGNORED
    hits = hits[~on_difficult]
    _, first = np.unique(index[hits], return_index=True)
    verdict[hits[first]] = TRUE_POSITIVE
    if gt_crowd.any():
        wrong = np.flatnonzero(verdict == FALSE_POSITIVE)
        crowds = gt_boxes[gt_crowd], gt_groups[gt_crowd]
        inside, _ = best_overlap(boxes[wrong], groups[wrong], *crowds, crowds=True)
        verdict[wrong[inside >= iou_thresh]] = IGNORED
    return verdict


@dataclass(frozen=True)
class ClassVerdicts:
    """One class's detections, by descending score, and its objects.

    scores, images (index into the records), verdicts: (D,); gt_images, gt_ignored: (G,).
    """

    scores: np.ndarray
    images: np.ndarray
    verdicts: np.ndarray
    gt_images: np.ndarray
    gt_ignored: np.ndarray


def match_all(
    records: Sequence[ImageRecord],
    detections: Mapping[ImageId, Detections],
    num_classes: int,
    iou_thresh: float,
) -> list[ClassVerdicts]:
    """Match every class 1..num_classes-1 over all images; see `match`.

    Detections with equal scores keep the order of the records, then their order within the image.
    All classes are matched at once, so the cost is that of one sort, whatever their number. Raises
    ValueError for duplicate image ids, detections of unknown images, classes out of range,
    non-finite numbers and thresholds outside (0, 1].
    """
    if not 0 < iou_thresh <= 1:
        raise ValueError(f"iou_thresh {iou_thresh} is not in (0, 1]")
    boxes, scores, classes, images = flatten(records, detections, num_classes)
    order = np.lexsort((-scores, classes))  # stable
    boxes, scores, classes, images = (x[order] for x in (boxes, scores, classes, images))
    gt_boxes, gt_classes, gt_images, difficult, crowd = flatten_objects(records)
    gt_order = np.argsort(gt_classes, kind="stable")
    gt_boxes, gt_classes, difficult, crowd, gt_images = (
        x[gt_order] for x in (gt_boxes, gt_classes, difficult, crowd, gt_images)
    )
    groups, gt_groups = classes * len(records) + images, gt_classes * len(records) + gt_images
    verdicts = match(boxes, groups, gt_boxes, gt_groups, difficult, crowd, iou_thresh)
    borders = np.arange(1, num_classes + 1)
    mine, gt = np.searchsorted(classes, borders), np.searchsorted(gt_classes, borders)
    gt_ignored = difficult | crowd
    return [
        ClassVerdicts(scores[a:b], images[a:b], verdicts[a:b], gt_images[c:d], gt_ignored[c:d])
        for a, b, c, d in zip(mine, mine[1:], gt, gt[1:])
    ]


def ignored(record: ImageRecord) -> np.ndarray:
    """Mark the record's ignored objects, difficult or crowd: (N,) bool."""
    return np.asarray(record.difficult, bool) | np.asarray(record.crowd, bool)


def image_scores(
    records: Sequence[ImageRecord],
    detections: Mapping[ImageId, Detections],
    iou_thresh: float = 0.5,
    score_thresh: float = 0.5,
) -> dict[ImageId, float]:
    """Each image's F1 score (see `f1_score`), used to choose pictures.

    Only detections with a score of at least `score_thresh` count, and ignored objects do not.
    Raises ValueError as `match_all` does.
    """
    shown = {i: d[np.asarray(d.scores) >= score_thresh] for i, d in detections.items()}
    top = [int(np.max(x.classes)) for x in [*records, *shown.values()] if len(x)]
    hits, counted, objects = np.zeros((3, len(records)))
    for c in match_all(records, shown, max(top, default=0) + 1, iou_thresh):
        hits += np.bincount(c.images[c.verdicts == TRUE_POSITIVE], None, len(records))
        counted += np.bincount(c.images[c.verdicts != IGNORED], None, len(records))
        objects += np.bincount(c.gt_images[~c.gt_ignored], None, len(records))
    f1 = f1_score(hits, counted, objects)
    return {record.image_id: float(score) for record, score in zip(records, f1)}


def f1_score(hits: np.ndarray, detections: np.ndarray, objects: np.ndarray | int) -> np.ndarray:
    """F1 from counts of true positives, detections and objects: 2 TP / (2 TP + FP + missed).

    That is the harmonic mean of precision and recall. Without detections and objects it is 1.
    """
    total = np.add(detections, objects, dtype=np.float64)
    return np.divide(2 * hits, total, out=np.ones_like(total), where=total > 0)


def check_images(records: Sequence[ImageRecord], answers: Mapping[ImageId, object]) -> None:
    """Raise ValueError if image ids repeat, or if `answers` has images that are not in records."""
    known = {record.image_id for record in records}
    if len(known) != len(records):
        raise ValueError(f"{len(records) - len(known)} image ids occur more than once")
    unknown = [image_id for image_id in answers if image_id not in known]
    if unknown:
        some = ", ".join(repr(u) for u in unknown[:3])
        raise ValueError(f"{len(unknown)} images are not in the data set: {some}")


def in_order(
    records: Sequence[ImageRecord], detections: Mapping[ImageId, Detections], num_classes: int
) -> Iterator[tuple[ImageRecord, Detections]]:
    """Yield each record with its detections, which are empty if `detections` has no entry for it.

    Raises ValueError as `check_images` does, and for detections with a class outside
    1..num_classes-1 or a non-finite number.
    """
    check_images(records, detections)
    for record in records:
        found = detections.get(record.image_id, Detections.empty())
        problem = None
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            problem = "a box or score that is not finite"
        if ((found.classes < 1) | (found.classes >= num_classes)).any():
            problem = f"a class outside 1..{num_classes - 1}"
        if problem:
            raise ValueError(f"detections of image {record.image_id!r}: {problem}")
        yield record, found


def flatten_objects(
    records: Sequence[ImageRecord],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All objects in the records' order: boxes (G, 4), classes, images, difficult, crowd (G,)."""
    boxes = np.concatenate([np.zeros((0, 4)), *(r.boxes for r in records)])
    classes = np.concatenate([np.zeros(0, np.int64), *(r.classes for r in records)])
    images = np.repeat(np.arange(len(records)), [len(r) for r in records])
    none = np.zeros(0, bool)
    difficult = np.concatenate([none, *(r.difficult for r in records)]).astype(bool)
    crowd = np.concatenate([none, *(r.crowd for r in records)]).astype(bool)
    return boxes, classes, images, difficult, crowd


def flatten(
    records: Sequence[ImageRecord], detections: Mapping[ImageId, Detections], num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All detections in the records' order: boxes (D, 4), scores, classes and images (D,)."""
    found = [d for _, d in in_order(records, detections, num_classes)]
    images = np.repeat(np.arange(len(records)), [len(d) for d in found])
    found.append(Detections.empty())
    boxes = np.concatenate([np.reshape(d.boxes, (-1, 4)) for d in found])
    scores = np.concatenate([d.scores for d in found])
    classes = np.concatenate([d.classes for d in found])
    return boxes, scores, classes, images
