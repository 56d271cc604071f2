"""Compares an exported detector with the run that it was made from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from pycocotools import mask as rle

from mxrcnn.data.records import Detections
from mxrcnn.inference.predictor import Predictor
from symnet.geometry.boxes import areas, iou

LEAST_IOU = 0.99
LARGEST_GAP = 1e-3
#: detections with lower scores need no counterpart
FLOOR = 0.05
#: boxes whose corners differ by fewer pixels are the same, even without area
SAME_CORNERS = 0.01
#: two masks are the same if they differ in at most this share of the box, or so many pixels
MASK_SHARE, MASK_PIXELS = 0.05, 4


@dataclass(frozen=True)
class Agreement:
    """How well two sets of detections of one image agree.

    detections: pairs, and single ones of either side, with a score above the floor. unmatched:
    those without a counterpart. Of the pairs: the lowest IoU; the largest difference of scores; the
    largest share of a box in which the masks differ (NaN without masks); and the number whose masks
    differ in more than MASK_SHARE of the box and more than MASK_PIXELS.
    """

    image: str
    detections: int
    unmatched: int
    least_iou: float
    largest_gap: float
    mask_gap: float
    other_masks: int

    def line(self) -> str:
        """This image's row of the table."""
        masks = "" if np.isnan(self.mask_gap) else f"{self.mask_gap:10.1e}"
        return (
            f"{self.image:<34.34}{self.detections:11d}{self.unmatched:11d}"
            f"{self.least_iou:11.5f}{self.largest_gap:12.1e}{masks}"
        )


HEAD = (
    f"{'image':<34}{'detections':>11}{'unmatched':>11}{'least IoU':>11}{'score gap':>12}  mask gap"
)


def agreement(image: str, ours: Detections, theirs: Detections, floor: float = FLOOR) -> Agreement:
    """Match detections above the floor, best first, with those of the same class on the other side.

    A counterpart has an IoU above LEAST_IOU and a score that differs by at most LARGEST_GAP.
    """
    pairs, unmatched = _matched(ours, theirs, floor)
    back, unmatched_back = _matched(theirs, ours, floor)
    pairs = sorted({*pairs, *((i, j) for j, i in back)})
    first, second = (np.array(column, int) for column in zip(*pairs)) if pairs else ([], [])
    overlaps = _overlaps(ours, theirs)[first, second]
    gaps = np.abs(ours.scores[first] - theirs.scores[second])
    has_masks = ours.masks is not None
    differing = np.array([_differing(ours, i, theirs.masks[j]) for i, j in pairs if has_masks])
    shares = differing / np.maximum(1, areas(ours.boxes[first]) if has_masks else 1)
    return Agreement(
        image,
        len(pairs) + unmatched + unmatched_back,
        unmatched + unmatched_back,
        float(overlaps.min(initial=1)),
        float(gaps.max(initial=0)),
        float(shares.max(initial=0)) if has_masks else np.nan,
        int(((shares > MASK_SHARE) & (differing > MASK_PIXELS)).sum()),
    )


def _differing(ours: Detections, place: int, mask: Any) -> float:
    """The number of pixels in which two masks differ."""
    own = ours.masks[place]
    return float(2 * rle.area(rle.merge([own, mask])) - rle.area(own) - rle.area(mask))


def _overlaps(ours: Detections, theirs: Detections) -> np.ndarray:
    """IoU (N, M); 1 for the same corners, 0 for different classes."""
    overlaps = iou(ours.boxes, theirs.boxes)
    away = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(axis=2, initial=0)
    overlaps[away < SAME_CORNERS] = 1
    return overlaps * (ours.classes[:, None] == theirs.classes)


def _matched(
    ours: Detections, theirs: Detections, floor: float
) -> tuple[list[tuple[int, int]], int]:
    """Pairs (index in ours, index in theirs), and how many of ours above the floor have none."""
    overlaps = _overlaps(ours, theirs)
    gaps = np.abs(ours.scores[:, None] - theirs.scores)
    fits = (overlaps > LEAST_IOU) & (gaps <= LARGEST_GAP)
    pairs, wanted = [], np.flatnonzero(ours.scores > floor)
    for i in wanted:
        candidates = np.flatnonzero(fits[i])
        if len(candidates):
            j = candidates[gaps[i, candidates].argmin()]
            fits[:, j] = False
            pairs.append((int(i), int(j)))
    return pairs, len(wanted) - len(pairs)


def check(reference: Predictor, path: Path, images: Sequence[str | Path]) -> bool:
    """Print how well an ONNX file agrees with its detector; returns whether it does.

    Times are per image, from file to boxes; the two detectors alternate.
    """
    if not images:
        return True
    sides = reference, Predictor.load(path)
    seconds: list[list[float]] = [[], []]
    rows = []
    print(HEAD)
    for image in images:
        found = []
        for detector, times in zip(sides, seconds):
            start = perf_counter()
            found.append(detector.predict(image))
            times.append(perf_counter() - start)
        rows.append(agreement(Path(image).name, *found))
        print(rows[-1].line())
    medians = [np.median(times) for times in seconds]
    print(f"seconds an image, median: MXNet {medians[0]:.3f}, onnxruntime {medians[1]:.3f}")
    counts = ("detections", "unmatched", "other_masks")
    total, unmatched, other_masks = (sum(getattr(r, name) for r in rows) for name in counts)
    differing = unmatched + other_masks
    print(f"{total - differing} of {total} detections above {FLOOR} are the same on both sides")
    if other_masks:
        print(f"{other_masks} have the same box but another mask")
    if differing:
        print(f"error: {path} does not find what the run finds", file=sys.stderr)
    return not differing
