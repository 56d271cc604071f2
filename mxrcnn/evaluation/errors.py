"""The errors of detections, and how much AP each kind costs, as TIDE defines them.

Bolya et al. (2020), "TIDE: A General Toolbox for Identifying Object Detection Errors". A detection
finds an object of its class at IoU 0.5 (FOREGROUND); below IoU 0.1 (BACKGROUND) it shows none.
Letters: D detections, G objects (ground truth), K (detection, object) pairs of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.matching import (
    flatten,
    flatten_objects,
    image_pairs,
    paired_overlap,
    row_maxima,
)
from mxrcnn.tables import aligned

FOREGROUND, BACKGROUND = 0.5, 0.1
#: detections of an image that count, best first, as in COCO
MOST = 100
#: what a detection is; `missed` is what an object is
RIGHT, IGNORED, BEYOND = "right", "ignored", "beyond"
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_CODES = {name: code for code, name in enumerate((RIGHT, IGNORED, *KINDS))}


@dataclass(frozen=True)
class Errors:
    """The errors of a data set's detections.

    counts: by kind. cost: the AP (0 to 1) that mending all errors of a kind would add to `ap`, the
    mean AP at IoU 0.5. by_class: counts by class name and kind; an error belongs to the class of
    the detection, a missed object to its own. of_detections: the kind of each, or `right`,
    `ignored`, `beyond` (after the 100 best of its image); of_objects: `found`, `missed`, `mendable`
    (nothing finds it, but a mended detection would), `ignored`. Both in the order of the records,
    and of an image's detections and objects.
    """

    ap: float
    counts: dict[str, int]
    cost: dict[str, float]
    by_class: dict[str, dict[str, int]]
    of_detections: tuple[str, ...] = ()
    of_objects: tuple[str, ...] = ()

    def table(self) -> str:
        """Plain text, a row for each kind: what costs most first."""
        rows = [
            [kind, str(self.counts[kind]), f"{self.cost[kind]:.4f}"]
            for kind in sorted(KINDS, key=lambda kind: -self.cost[kind])
        ]
        head = ["error", "count", "AP50 it costs"]
        return aligned([head, *rows], rule=True)

    def to_json(self) -> dict[str, Any]:
        """AP50, count and ap_cost by kind, and per_class: the counts."""
        kinds = {k: {"count": self.counts[k], "ap_cost": self.cost[k]} for k in KINDS}
        return {"AP50": self.ap, "kinds": kinds, "per_class": self.by_class}


@dataclass(frozen=True)
class _Matched:
    """Detections, best first within an image, and their objects.

    codes (D,) int8: their kinds, see `_CODES`. found (G,) bool. mends (D,): the object that a
    detection would find if its error were mended, or -1: of several, the one of the best score.
    """

    scores: np.ndarray
    classes: np.ndarray
    codes: np.ndarray
    mends: np.ndarray
    gt_classes: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    of_detections: tuple[str, ...]
    of_objects: tuple[str, ...]


def find_errors(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> Errors:
    """Count the errors of each kind, and what they cost.

    A detection that finds no object, in this order, is: `localisation` if an object of its class
    overlaps it with an IoU from 0.1 to 0.5; `classification` if one of another class does with 0.5
    or more; `duplicate` if it overlaps an object by 0.5 that a better detection found; `background`
    if no object overlaps it with more than 0.1; else `both`. An object is `missed` if nothing finds
    it, and no error of the first two kinds would if it were mended.

    Ignored objects (difficult, crowds) are found by none: detections of their class that lie in one
    by more than half of their area do not count. Other tools list these as errors too. The 100 best
    detections of an image count. Raises ValueError as `in_order` does.
    """
    matched = _match(dataset, detections)
    ap = _mean_ap(matched, "")
    cost = {kind: max(0.0, _mean_ap(matched, kind) - ap) for kind in KINDS}
    by_class = {}
    for number, name in enumerate(dataset.class_names, 1):
        codes = np.bincount(matched.codes[matched.classes == number], None, len(_CODES))
        row = {kind: int(codes[_CODES[kind]]) for kind in KINDS}
        row["missed"] = int(matched.missed[matched.gt_classes == number].sum())
        by_class[name] = row
    counts = {kind: sum(row[kind] for row in by_class.values()) for kind in KINDS}
    told = matched.of_detections, matched.of_objects
    return Errors(ap, counts, cost, by_class, *told)


def _match(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> _Matched:
    records = dataset.records
    flat = flatten(records, detections, dataset.num_classes)
    boxes, scores, classes, images = flat
    order = np.lexsort((-scores, images))  # stable
    place = np.arange(len(order)) - np.searchsorted(images[order], images[order])
    order = order[place < MOST]
    boxes, scores, classes, images = (x[order] for x in (boxes, scores, classes, images))
    gt_boxes, gt_classes, gt_images, difficult, crowd = flatten_objects(records)
    left_out = difficult | crowd

    real = np.flatnonzero(~left_out)
    one, other = image_pairs(images, gt_images[real])
    overlap = paired_overlap(boxes[one], gt_boxes[real][other])
    keep = overlap > 0
    one, other, overlap = one[keep], other[keep], overlap[keep]
    same = classes[one] == gt_classes[real][other]
    finds = _greedy(one, other, np.where(same, overlap, 0), len(boxes), len(real))
    found = np.zeros(len(real), bool)
    found[finds[finds >= 0]] = True

    codes, mends = _classify(one, other, overlap, same, finds, found)
    if left_out.any():
        one, other = image_pairs(images, gt_images[left_out])
        inside = paired_overlap(boxes[one], gt_boxes[left_out][other], True) > FOREGROUND
        inside &= classes[one] == gt_classes[left_out][other]
        codes[one[inside & (finds[one] < 0)]] = _CODES[IGNORED]
    mends[codes == _CODES[IGNORED]] = -1
    reachable = np.zeros(len(real), bool)
    reachable[mends[mends >= 0]] = True
    mends = _best_only(mends, scores)
    missed = ~found & ~reachable

    of_detections = np.full(len(flat[0]), BEYOND, object)
    of_detections[order] = np.array(list(_CODES), object)[codes]
    of_objects = np.full(len(left_out), IGNORED, object)
    of_objects[real] = np.select([found, missed], ["found", "missed"], "mendable")
    told = tuple(of_detections), tuple(of_objects)
    return _Matched(scores, classes, codes, mends, gt_classes[real], found, missed, *told)


def _greedy(
    one: np.ndarray, other: np.ndarray, overlap: np.ndarray, count: int, objects: int
) -> np.ndarray:
    """The object that each detection finds, or -1: (count,).

    Detections are served best first, and take the object that overlaps them most, if that is by
    FOREGROUND and nobody took it. In each round all are served whose object no better one wants.
    """
    finds = np.full(count, -1, np.int64)
    wanted = overlap >= FOREGROUND
    one, other, overlap = one[wanted], other[wanted], overlap[wanted]
    while len(one):
        rows, _, place = row_maxima(one, overlap)
        first = np.full(objects, count)
        np.minimum.at(first, other, one)
        choice = other[place]
        served = first[choice] == rows
        finds[rows[served]] = choice[served]
        taken = np.zeros(objects, bool)
        taken[choice[served]] = True
        keep = (finds[one] < 0) & ~taken[other]
        one, other, overlap = one[keep], other[keep], overlap[keep]
    return finds


def _classify(
    one: np.ndarray,
    other: np.ndarray,
    overlap: np.ndarray,
    same: np.ndarray,
    finds: np.ndarray,
    found: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The codes (D,) of detections, and the objects (D,) that they would find if mended, or -1."""
    count = len(finds)

    def best(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The greatest overlap (D,) with objects of some pairs, and which (D,)."""
        value, which = np.zeros(count), np.full(count, -1, np.int64)
        rows, most, place = row_maxima(one[where], overlap[where])
        value[rows], which[rows] = most, other[where][place]
        return value, which

    own, near = best(same)
    others, confused = best(~same)
    used, _ = best(same & found[other])
    any_, _ = best(np.ones(len(one), bool))
    badly_placed = (own >= BACKGROUND) & (own <= FOREGROUND)
    of_other = others >= FOREGROUND
    conditions = [finds >= 0, badly_placed, of_other, used >= FOREGROUND, any_ <= BACKGROUND]
    kinds = (RIGHT, "localisation", "classification", "duplicate", "background")
    codes = np.select(conditions, [_CODES[kind] for kind in kinds], _CODES["both"])
    mends = np.full(count, -1, np.int64)
    for kind, objects in (("localisation", near), ("classification", confused)):
        rows = np.flatnonzero(codes == _CODES[kind])
        rows = rows[~found[objects[rows]]]
        mends[rows] = objects[rows]
    return codes.astype(np.int8), mends


def _best_only(mends: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """`mends` with -1 where a detection of a better score would find the same object."""
    order = np.argsort(-scores, kind="stable")
    order = order[mends[order] >= 0]
    _, first = np.unique(mends[order], return_index=True)
    kept = np.full(len(mends), -1, np.int64)
    kept[order[first]] = mends[order[first]]
    return kept


def _mean_ap(matched: _Matched, mended: str) -> float:
    """The mean over classes of AP at IoU 0.5, with all errors of one kind mended.

    Badly placed and wrongly classified detections become right, or go if another finds their
    object; duplicates and false alarms go; missed objects are no objects any more. Classes without
    objects and detections are left out; without objects only, their AP is 0.
    """
    right = matched.codes == _CODES[RIGHT]
    there = matched.codes != _CODES[IGNORED]
    classes = matched.classes
    objects = matched.gt_classes
    if mended == "missed":
        objects = objects[~matched.missed]
    elif mended:
        rows, finds = matched.codes == _CODES[mended], matched.mends >= 0
        right = right | (rows & finds)
        there = there & (finds | ~rows)
        if mended == "classification":
            classes = classes.copy()
            classes[rows & finds] = matched.gt_classes[matched.mends[rows & finds]]
    order = np.flatnonzero(there)
    order = order[np.argsort(-matched.scores[order], kind="stable")]
    values = [
        _ap(right[order][classes[order] == number], int((objects == number).sum()))
        for number in np.union1d(classes[order], objects)
    ]
    return float(np.mean(values)) if values else 0.0


def _ap(hits: np.ndarray, objects: int) -> float:
    """AP over 101 recalls, as in COCO. hits (D,): which detections are right, best first."""
    if not objects:
        return 0.0
    true = np.cumsum(hits)
    precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1))[::-1])[::-1]
    place = np.searchsorted(true / objects, np.arange(101) / 100, side="left")
    return float(np.append(precision, 0.0)[place].mean())
