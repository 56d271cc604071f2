"""What is wrong with a data set, and what is in it; `check_report` tells it.

Annotations are read by the loaders themselves, as with --skip-bad: what they leave out, drop, cut
or find amiss is what is reported. Each image is decoded once.

Letters: K objects of all images, I images, N objects of one image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mxrcnn.config import Config
from mxrcnn.data import read_annotations
from mxrcnn.data.check_anchors import (
    Objects,
    PointReach,
    Suggestion,
    best_overlaps,
    point_reach,
    suggest,
)
from mxrcnn.data.check_twins import BITS, alike_groups, fingerprint
from mxrcnn.data.images import orientation
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.transforms import padded_size, read_pixels, resized_size, trainable_objects
from symnet import get_detector
from symnet.geometry.boxes import areas, iou

#: kind of fault -> (level, what it is). An error stops a training, unless --skip-bad leaves it out
KINDS = {
    "unreadable": ("error", "entries that cannot be read"),
    "broken image": ("error", "images that cannot be decoded, or are of another size"),
    "size mismatch": ("warning", "annotations with another image size than the file, which counts"),
    "dropped": ("warning", "boxes that are empty, inverted or outside the image: dropped"),
    "clipped": ("warning", "boxes that reach outside the image: cut to it"),
    "same box twice": ("warning", "pairs of boxes of one class at the same place"),
    "two classes": ("warning", "pairs of boxes of different classes at the same place"),
    "turned": ("warning", "images that EXIF says to turn, and exif_orientation=false does not"),
    "same image": ("warning", "groups of images of one split that look the same"),
    "leak": ("warning", "groups of images of several splits that look the same"),
    "class without objects": ("warning", "classes that a split has no object of"),
}
#: IoU from which two boxes are at the same place
SAME_PLACE = 0.9
#: the shorter side of a tiny box, in network pixels; the share of the image that a huge one covers;
#: the longer side of a long one over its shorter side
TINY, HUGE, LONG = 8, 0.9, 8
#: other images of a group that a fault names; the JSON has all
NAMED = 3


class Fault(NamedTuple):
    """One fault; box is xyxy in the image's pixels.

    Of images that look the same, members are all, as (split, file); other is one to show beside
    file: of another split, if there is one.
    """

    kind: str
    split: str
    file: str
    detail: str
    box: tuple[float, ...] | None = None
    other: str = ""
    members: tuple[tuple[str, str], ...] = ()

    @property
    def level(self) -> str:
        """error or warning."""
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class Split:
    """An image set: its data, and of each image the fingerprint (BITS * BITS,) or None."""

    dataset: Dataset
    prints: list[np.ndarray | None]
    objects: Objects

    @property
    def name(self) -> str:
        """As in --imageset."""
        return self.dataset.name


@dataclass(frozen=True)
class Reach:
    """Of one network: how many objects its anchors reach, and what would reach more."""

    network: str
    overlaps: np.ndarray
    suggestion: Suggestion | None
    points: PointReach | None


@dataclass(frozen=True)
class DataCheck:
    """All that was found."""

    config: Config
    splits: list[Split]
    faults: list[Fault]
    class_names: tuple[str, ...]
    objects: Objects
    reach: Reach
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def passed(self, strict: bool = False) -> bool:
        """Whether a training can start as it is; strict: whether there is not even a warning."""
        return not any(strict or fault.level == "error" for fault in self.faults)


def check_data(config: Config, imagesets: Sequence[str], progress: bool = True) -> DataCheck:
    """Look at every annotation and image of some image sets, as a config would use them.

    Raises DataError for what cannot be read at all (no such image set, broken JSON, no usable
    image), ConfigError for an unknown kind of data set.
    """
    data = replace(config.data, skip_bad=True)
    datasets = [read_annotations(data, name) for name in imagesets]
    class_names = tuple(dict.fromkeys(n for dataset in datasets for n in dataset.class_names))
    splits, faults = [], []
    for name, dataset in zip(imagesets, datasets):
        dataset = replace(dataset, name=name)
        prints, broken = _look(dataset, config, progress)
        objects = network_objects(dataset.records, class_names, dataset.class_names, config)
        splits.append(Split(dataset, prints, objects))
        faults += [*_notes(dataset), *broken, *_same_places(dataset)]
    faults += [*_empty_classes(splits, class_names), *_twins(splits, progress)]
    every = _joined([split.objects for split in splits])
    order = list(KINDS)
    faults.sort(key=lambda fault: order.index(fault.kind))
    counts = {split.name: _counts(split) for split in splits}
    reach = _reach(config, every, splits[0].objects)
    return DataCheck(config, splits, faults, class_names, every, reach, counts)


def network_objects(
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    own_names: Sequence[str],
    config: Config,
) -> Objects:
    """The objects that a detector learns from, in the pixels of its network.

    own_names: the classes of these records; class_names: those of all image sets.
    """
    data = config.data
    multiple = int(np.lcm(data.pad_multiple, get_detector(config.network).stride))
    index = np.array([class_names.index(name) for name in own_names], np.int64)
    boxes, images, sizes, padded, classes = [], [], [], [], []
    for place, record in enumerate(records):
        keep = trainable_objects(record, data)
        height, width, _ = resized_size(record.height, record.width, data)
        count = int(keep.sum())
        boxes.append(record.boxes[keep] * ([width / record.width, height / record.height] * 2))
        images.append(np.full(count, place))
        sizes.append(np.tile((height, width), (count, 1)))
        outer = padded_size([(height, width)], multiple, data.least_padded_side)
        padded.append(np.tile(outer, (count, 1)))
        classes.append(index[record.classes[keep] - 1])
    parts = (boxes, images, sizes, padded, classes)
    found = [np.concatenate(part) if part else np.zeros(0) for part in parts]
    return Objects(found[0].astype(np.float32), *(part.astype(np.int64) for part in found[1:]))


def _joined(parts: Sequence[Objects]) -> Objects:
    """The objects of all splits; image numbers count on."""
    first, shifted = 0, []
    for part in parts:
        shifted.append(replace(part, image=part.image + first))
        first += int(part.image.max(initial=-1)) + 1
    names = Objects.__dataclass_fields__
    return Objects(*(np.concatenate([getattr(p, name) for p in shifted]) for name in names))


def _reach(config: Config, objects: Objects, training: Objects) -> Reach:
    """What a config's anchors reach of all objects; suggestions are made from those of training."""
    model = config.model
    if hasattr(model, "points"):
        return Reach(config.network, np.zeros(0), None, point_reach(model, objects))
    inside_only = getattr(getattr(model, "form", None), "rpn_inside_only", False)
    overlaps = best_overlaps(model.anchors, objects, inside_only)
    best = suggest(model, training)
    if best is not None and training is not objects:
        anchors = replace(model, **best.settings).anchors
        best = replace(best, overlaps=best_overlaps(anchors, objects, inside_only))
    return Reach(config.network, overlaps, best, None)


# Faults


def _notes(dataset: Dataset) -> Iterator[Fault]:
    """What the loader noted."""
    for reason in dataset.notes.skipped:
        yield Fault("unreadable", dataset.name, "", reason)
    for item in dataset.notes.mended:
        yield Fault(item.kind, dataset.name, str(item.image), item.detail, item.box)


def _look(
    dataset: Dataset, config: Config, progress: bool
) -> tuple[list[np.ndarray | None], list[Fault]]:
    """Decode every image: fingerprints, and what is wrong with the files."""
    upright = config.data.exif_orientation

    def look(record: ImageRecord) -> tuple[np.ndarray | None, Fault | None]:
        try:
            pixels = read_pixels(record, config.data)
            turn = 1 if upright else orientation(record.path)
        except DataError as error:
            return None, Fault("broken image", dataset.name, str(record.path), error.problem)
        fault = None
        if turn != 1:
            detail = f"orientation {turn}: --set exif_orientation=true, if the boxes are of it so"
            fault = Fault("turned", dataset.name, str(record.path), detail)
        return fingerprint(pixels), fault

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(look, dataset.records),
            f"looking at {dataset.name}",
            len(dataset),
            disable=None if progress else True,
        )
        prints, faults = zip(*bar)
    return list(prints), [fault for fault in faults if fault is not None]


def _twins(splits: Sequence[Split], progress: bool) -> Iterator[Fault]:
    """Groups of images that look the same, within a split or across splits."""
    owners = [
        (split.name, str(record.path)) for split in splits for record in split.dataset.records
    ]
    prints = [bits for split in splits for bits in split.prints]
    for group in alike_groups(prints, progress):
        members = tuple(owners[i] for i in group)
        name, path = members[0]
        elsewhere = [member for member in members if member[0] != name]
        other_name, other = (elsewhere or members[1:])[0]
        if len(members) == 2:
            where = f" of {other_name}" if elsewhere else ""
            differ = int((prints[group[0]] != prints[group[1]]).sum())
            detail = f"like {other}{where} ({differ} of {BITS * BITS} bits differ)"
        else:
            counts = Counter(member[0] for member in members)
            each = ", ".join(f"{count} of {split}" for split, count in counts.items())
            named = [other, *(file for _, file in members[1:] if file != other)][:NAMED]
            more = ", ..." if len(members) > NAMED + 1 else ""
            detail = f"one of {len(members)} alike ({each}): {', '.join(named)}{more}"
        kind = "leak" if elsewhere else "same image"
        yield Fault(kind, name, path, detail, other=other, members=members)


def _same_places(dataset: Dataset) -> Iterator[Fault]:
    """Pairs of boxes of an image that lie on one another. A crowd may hold objects of its class."""
    for record in dataset.records:
        single = np.flatnonzero(~record.crowd)
        boxes, classes = record.boxes[single], record.classes[single]
        for i, j in np.argwhere(np.triu(iou(boxes, boxes) >= SAME_PLACE, k=1)):
            names = [dataset.class_names[classes[k] - 1] for k in (i, j)]
            kind = "same box twice" if classes[i] == classes[j] else "two classes"
            box = tuple(boxes[i].tolist())
            detail = f"{' and '.join(dict.fromkeys(names))} at {' '.join(f'{v:g}' for v in box)}"
            yield Fault(kind, dataset.name, str(record.path), detail, box)


def _empty_classes(splits: Sequence[Split], class_names: Sequence[str]) -> Iterator[Fault]:
    total = Counter(k for split in splits for k in split.objects.classes.tolist())
    for split in splits:
        here = set(split.objects.classes.tolist())
        for k, name in enumerate(class_names):
            # (the 20 names of VOC stand for any data set that has some of them)
            if k not in here and (total[k] or split.dataset.category_ids):
                yield Fault("class without objects", split.name, "", name)


# Counts


def _counts(split: Split) -> dict[str, Any]:
    """Numbers of a split."""
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
