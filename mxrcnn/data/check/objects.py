"""The objects of the checked image sets, as the network sees them, and their counts.

Letters: K objects of all images. Boxes are xyxy in network pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mxrcnn.config import Config
from mxrcnn.data.records import Dataset, ImageRecord
from mxrcnn.data.tiles import at_full_scale
from mxrcnn.data.transforms import padded_size, resized_size, trainable_objects
from symnet import get_detector
from symnet.geometry.boxes import areas

#: a tiny box has a shorter side, in network pixels, below this; a huge one covers more than this
#: share of its image; a long one has sides of more than 1 : this
TINY, HUGE, LONG = 8, 0.9, 8


@dataclass(frozen=True)
class Objects:
    """Objects as the network sees them.

    boxes (K, 4) float32; image (K,) index of each object's image; size (K, 2) height and width of
    that image without padding, padded (K, 2) with it; classes (K,) index into all class names.
    """

    boxes: np.ndarray
    image: np.ndarray
    size: np.ndarray
    padded: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Any) -> Objects:
        return Objects(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    @property
    def sides(self) -> np.ndarray:
        """Widths and heights (K, 2)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]


@dataclass(frozen=True)
class Split:
    """An image set, the fingerprint (BITS * BITS,) or None of each image, and its objects."""

    dataset: Dataset
    prints: list[np.ndarray | None]
    objects: Objects

    @property
    def name(self) -> str:
        """The name given to --imageset."""
        return self.dataset.name


def network_objects(
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    own_names: Sequence[str],
    config: Config,
) -> Objects:
    """The objects that a detector is trained on, in network pixels; with `data.tile`, in tiles.

    class_names: the classes of all image sets; own_names: those of these records.
    """
    data = config.data
    multiple = int(np.lcm(data.pad_multiple, get_detector(config.network).stride))
    index = np.array([class_names.index(name) for name in own_names], np.int64)
    boxes, classes, sizes, padded = [np.zeros((0, 4))], [index[:0]], [], []
    records = at_full_scale(records, data)
    for record in records:
        keep = trainable_objects(record, data)
        height, width, _ = resized_size(record.height, record.width, data)
        boxes.append(record.boxes[keep] * ([width / record.width, height / record.height] * 2))
        classes.append(index[record.classes[keep] - 1])
        sizes.append((height, width))
        padded.append(padded_size(sizes[-1:], multiple, data.least_padded_side))
    image = np.repeat(np.arange(len(records)), [len(part) for part in boxes[1:]])
    sizes, padded = (np.array(part, np.int64).reshape(-1, 2)[image] for part in (sizes, padded))
    kinds = np.concatenate(classes)
    return Objects(np.concatenate(boxes).astype(np.float32), image, sizes, padded, kinds)


def join_objects(parts: Sequence[Objects]) -> Objects:
    """The objects of all splits together; image indices continue from split to split."""
    first, shifted = 0, []
    for part in parts:
        shifted.append(replace(part, image=part.image + first))
        first += int(part.image.max(initial=-1)) + 1
    names = Objects.__dataclass_fields__
    return Objects(*(np.concatenate([getattr(p, name) for p in shifted]) for name in names))


def count_objects(split: Split) -> dict[str, Any]:
    """Name -> count for a split: its images, and its objects by kind, size and class."""
    records, objects = split.dataset.records, split.objects
    sides, image = objects.sides, np.prod(objects.size, axis=1)
    shorter, longer = sides.min(axis=1, initial=np.inf), sides.max(axis=1, initial=0)
    names = split.dataset.class_names
    per_class = Counter(names[k - 1] for record in records for k in record.classes.tolist())
    return {
        "images": len(records),
        "images without objects": sum(not len(record) for record in records),
        "objects": sum(len(record) for record in records),
        "difficult": sum(int(record.difficult.sum()) for record in records),
        "crowds": sum(int(record.crowd.sum()) for record in records),
        "truncated": sum(int(record.truncated.sum()) for record in records),
        "tiny": int((shorter < TINY).sum()),
        "huge": int((areas(objects.boxes) > HUGE * image).sum()),
        "long": int((longer > LONG * shorter).sum()),
        "per class": dict(per_class.most_common()),
    }
