"""What the choice needs to know of the images to train on.

Letters: K objects of all images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mxrcnn.config import Config, DataConfig
from mxrcnn.data.check.objects import TINY, network_objects
from mxrcnn.data.records import Dataset
from mxrcnn.data.transforms import trainable_objects
from mxrcnn.training.choose.recipes import LEAST_PIXELS, LEAST_SIDE, SIDE_STEP, SMALL

#: the short side at which objects are measured
_REFERENCE = 1000


@dataclass(frozen=True)
class Photos:
    """The images to train on.

    short: the median short side, in pixels of the files. ratio: of the long side to the short one;
    nine in ten have at most this, and it is from 1 to 2. smallest (K,): the shorter side of each
    object to be trained on, as a share of its image's short side.
    """

    images: int
    short: int
    ratio: float
    smallest: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, config: Config) -> Photos:
        """config: says which objects are trained on."""
        data = replace(config.data, short_side=_REFERENCE, long_side=0, square=False)
        names = dataset.class_names
        objects = network_objects(dataset.records, names, names, replace(config, data=data))
        sides = np.sort([(r.height, r.width) for r in dataset.records], axis=1)
        ratio = float(np.percentile(sides[:, 1] / sides[:, 0], 90))
        smallest = objects.sides.min(axis=1) / _REFERENCE
        return cls(len(sides), int(np.median(sides[:, 0])), min(2.0, max(1.0, ratio)), smallest)

    @property
    def small(self) -> float:
        """The `smallest` of which SMALL percent are smaller; NaN without objects."""
        return float(np.percentile(self.smallest, SMALL)) if len(self.smallest) else float("nan")

    def sides(self, most: int) -> list[int]:
        """The short sides to choose from, ascending: none above `most` or the photos' own."""
        top = max(min(most, self.short) // SIDE_STEP * SIDE_STEP, SIDE_STEP)
        return list(range(min(LEAST_SIDE, top), top + 1, SIDE_STEP))

    def wanted_side(self, sides: list[int], least: int) -> int:
        """The side, from `sides` and at least `least`, at which small objects are large enough."""
        needed = LEAST_PIXELS / self.small if self.small > 0 else 0  # NaN without objects
        enough = [side for side in sides if side >= max(needed - 1, least)]  # 1: rounded boxes
        return enough[0] if enough else sides[-1]

    def long_side(self, short: int) -> int:
        """The long side that goes with a short one: a multiple of SIDE_STEP."""
        return int(-(-round(short * self.ratio, 3) // SIDE_STEP) * SIDE_STEP)

    def tiny_share(self, short: int) -> float:
        """The share of the objects that are tiny (see TINY) at this short side."""
        return float((self.smallest * short < TINY).mean()) if len(self.smallest) else 0.0


def all_have_masks(dataset: Dataset, data: DataConfig) -> bool:
    """True if each object to train on has a mask, and some mask is more than four corners.

    Some tools write boxes as polygons of four corners.
    """
    shaped = False
    for record in dataset.records:
        for i in np.flatnonzero(trainable_objects(record, data)):
            mask = record.masks[i] if record.masks is not None else None
            if mask is None:
                return False
            shaped = shaped or not _has_four_corners(mask)
    return shaped


def _has_four_corners(mask: Any) -> bool:
    """True for a polygon of at most four corners, which may be closed by the first once more."""
    return isinstance(mask, (list, tuple)) and len(mask) == 1 and len(mask[0]) <= 10
