"""Which images two detectors differ on most: objects that only one finds, and false detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.best_f1 import best_f1_by_class
from mxrcnn.evaluation.core import without_unannotated
from mxrcnn.evaluation.curves import Curves
from mxrcnn.tables import aligned


@dataclass(frozen=True)
class Change:
    """What differs on one image.

    objects: to find. only_a, only_b: objects that one detector alone finds; both: that both find.
    false_a, false_b: false detections.
    """

    image_id: ImageId
    objects: int
    both: int
    only_a: int
    only_b: int
    false_a: int
    false_b: int

    @property
    def size(self) -> int:
        """By how much the image changed: objects found by one alone, and more or fewer false."""
        return self.only_a + self.only_b + abs(self.false_b - self.false_a)

    @property
    def gain(self) -> int:
        """How many errors B makes less than A."""
        return self.only_b - self.only_a + self.false_a - self.false_b

    def to_json(self) -> dict[str, Any]:
        """All numbers, with size and gain."""
        return {**asdict(self), "size": self.size, "gain": self.gain}


def thresholds(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> np.ndarray:
    """The score with the best F1 of each class (K,); infinite where no detection is right."""
    counted, _ = without_unannotated(dataset, detections)
    best = best_f1_by_class(dataset, counted)
    return np.array([b.threshold if b else np.inf for b in map(best.get, dataset.class_names)])


def shown(found: Detections, least: np.ndarray) -> Detections:
    """The detections whose scores reach their class's threshold."""
    return found[np.asarray(found.scores) >= least[np.asarray(found.classes, np.int64) - 1]]


def changed_images(
    dataset: Dataset, sides: Sequence[Curves], least: Sequence[np.ndarray]
) -> list[Change]:
    """Every image with what differs between two detectors on it, largest changes first.

    least: each side's threshold by class. Detections are matched at IoU 0.5 by COCO's rules. Of
    changes of the same size, those for the worse come first, then the data set's order decides.
    """
    count = len(dataset)
    false, objects = np.zeros((2, count), int), np.zeros(count, int)
    both, only = np.zeros(count, int), np.zeros((2, count), int)
    for k, pair in enumerate(zip(*(side.matched for side in sides))):
        if pair[0] is None or pair[1] is None:
            continue  # a class without objects: it has no threshold either
        hits = []
        for side, matched in enumerate(pair):
            kept = (matched.scores >= least[side][k]) & ~matched.ignored
            right = kept & (matched.objects > 0)
            false[side] += np.bincount(matched.images[kept & ~right], minlength=count)
            hits.append(np.isin(matched.gt_ids, matched.objects[right]))
        images = pair[0].gt_images
        objects += np.bincount(images, minlength=count)
        both += np.bincount(images[hits[0] & hits[1]], minlength=count)
        only[0] += np.bincount(images[hits[0] & ~hits[1]], minlength=count)
        only[1] += np.bincount(images[hits[1] & ~hits[0]], minlength=count)
    columns = zip(*(x.tolist() for x in (objects, both, *only, *false)))
    changes = [Change(r.image_id, *row) for r, row in zip(dataset.records, columns)]
    return sorted(changes, key=lambda change: (-change.size, change.gain))


def changes_table(changes: Sequence[Change], most: int = 10) -> str:
    """The images that changed most, as text; says how many are left out."""
    moved = [change for change in changes if change.size]
    if not moved:
        return f"no image changed: both find the same objects in all {len(changes)}"
    head = ["image", "objects", "found by both", "only A", "only B", "false A", "false B"]
    rows = [
        [str(c.image_id)[:60], *map(str, (c.objects, c.both, c.only_a, c.only_b)), *_false(c)]
        for c in moved[:most]
    ]
    title = f"{len(moved)} of {len(changes)} images changed"
    if len(moved) > most:
        title += f"; the {most} that changed most (compare.json has all):"
    return f"{title}\n\n{aligned([head, *rows], rule=True)}"


def _false(change: Change) -> tuple[str, str]:
    return str(change.false_a), str(change.false_b)
