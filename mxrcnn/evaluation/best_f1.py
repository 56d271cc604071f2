"""The score threshold with the best F1 of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.matching import IGNORED, TRUE_POSITIVE, ClassVerdicts, f1_score, match_all

#: the IoU from which a detection finds an object
IOU = 0.5


@dataclass(frozen=True)
class BestF1:
    """A class's score threshold with the best F1, and F1, precision and recall at it.

    Detections with a score of at least `threshold` count.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


def best_f1_by_class(
    dataset: Dataset, detections: Mapping[ImageId, Detections]
) -> dict[str, BestF1 | None]:
    """The best F1 of each class at IoU 0.5, over objects of all sizes; see `best_f1`.

    Detections are matched by `match_all`, whatever the metric of the report: Pascal VOC's rules,
    without difficult and crowd objects. It costs what VOC's AP costs: 0.2 s for 300,000 detections.
    """
    matched = match_all(dataset.records, detections, dataset.num_classes, IOU)
    return dict(zip(dataset.class_names, map(best_f1, matched)))


def best_f1(verdicts: ClassVerdicts) -> BestF1 | None:
    """The threshold with the best F1 of one class; None if no detection is right.

    Detections with equal scores are kept or dropped together. Of thresholds with the same F1 the
    highest wins: it gives the fewest detections. The threshold is halfway to the next lower score,
    so that a score's last digit, which differs between engines and batch sizes, does not matter.
    """
    counted = verdicts.verdicts != IGNORED
    scores = np.asarray(verdicts.scores, np.float32)[counted]
    hits = np.cumsum(verdicts.verdicts[counted] == TRUE_POSITIVE)
    objects = int((~verdicts.gt_ignored).sum())
    if not len(hits) or not hits[-1]:
        return None
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # the last of equal scores
    f1 = f1_score(hits[ends], ends + 1, objects)
    best = int(np.argmax(f1))
    lowest = scores[ends[best]]
    below = scores[ends[best] + 1] if best + 1 < len(ends) else lowest
    halfway = np.float32((np.float64(lowest) + below) / 2)
    threshold = float(halfway if halfway > below else lowest)
    found, shown = int(hits[ends[best]]), int(ends[best]) + 1
    return BestF1(threshold, float(f1[best]), found / shown, found / objects)
