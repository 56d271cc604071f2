"""Faults of image sets: what readers noted, broken or turned images, duplicates, empty classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mxrcnn.config import Config
from mxrcnn.data.check.objects import Split
from mxrcnn.data.check.twins import BITS, alike_groups, fingerprint
from mxrcnn.data.images import orientation
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.transforms import read_pixels
from symnet.geometry.boxes import iou

#: kind of fault -> (level, what it is). An error stops training, unless --skip-bad skips the image
KINDS = {
    "unreadable": ("error", "entries that cannot be read"),
    "broken image": ("error", "images that cannot be decoded, or are of another size"),
    "otherwise": ("warning", "kinds of entries that were left out or read in another form"),
    "size mismatch": (
        "warning",
        "annotations with another size than the file, whose size is used",
    ),
    "dropped": ("warning", "boxes that are empty, inverted or outside the image: dropped"),
    "clipped": ("warning", "boxes that reach outside the image: clipped"),
    "same box twice": ("warning", "pairs of boxes of one class at the same place"),
    "two classes": ("warning", "pairs of boxes of different classes at the same place"),
    "turned": ("warning", "images with an EXIF orientation that exif_orientation=false ignores"),
    "same image": ("warning", "groups of images of one split that look the same"),
    "leak": ("warning", "groups of images of several splits that look the same"),
    "class without objects": ("warning", "classes without an object in a split"),
}
#: two boxes of at least this IoU are at the same place
SAME_PLACE = 0.9
#: other images of a group that a fault names; the JSON lists all
NAMED = 3


class Fault(NamedTuple):
    """One fault; box is xyxy in the image's pixels.

    For images that look the same, members are all of them as (split, file), and other is the one to
    show beside file: one of another split, if there is any.
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
        """Either "error" or "warning"."""
        return KINDS[self.kind][0]


def dataset_faults(
    dataset: Dataset, config: Config, progress: bool
) -> tuple[list[np.ndarray | None], list[Fault]]:
    """The fingerprints of all images, and the faults of single images and their annotations."""
    prints, broken = _look(dataset, config, progress)
    return prints, [*_notes(dataset), *broken, *_same_places(dataset)]


def _notes(dataset: Dataset) -> Iterator[Fault]:
    """What the reader noted."""
    for reason in dataset.notes.skipped:
        yield Fault("unreadable", dataset.name, "", reason)
    for what, count in dataset.notes.counted.items():
        yield Fault("otherwise", dataset.name, "", f"{count} {what}")
    for item in dataset.notes.mended:
        yield Fault(item.kind, dataset.name, str(item.image), item.detail, item.box)


def _look(
    dataset: Dataset, config: Config, progress: bool
) -> tuple[list[np.ndarray | None], list[Fault]]:
    """Decode every image; returns fingerprints and the faults of files."""
    upright = config.data.exif_orientation

    def look(record: ImageRecord) -> tuple[np.ndarray | None, Fault | None]:
        try:
            pixels = read_pixels(record, config.data)
            turn = 1 if upright else orientation(record.path)
        except DataError as error:
            return None, Fault("broken image", dataset.name, str(record.path), error.problem)
        fault = None
        if turn != 1:
            detail = f"orientation {turn}: --set exif_orientation=true if its boxes are turned"
            fault = Fault("turned", dataset.name, str(record.path), detail)
        return fingerprint(pixels), fault

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found, disable = pool.map(look, dataset.records), None if progress else True
        bar = tqdm(found, f"looking at {dataset.name}", len(dataset), disable=disable)
        prints, faults = zip(*bar)
    return list(prints), list(filter(None, faults))


def alike_images(splits: Sequence[Split], progress: bool) -> Iterator[Fault]:
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
    """Pairs of boxes at the same place. Crowds are left out, as they may contain objects."""
    for record in dataset.records:
        single = np.flatnonzero(~record.crowd)
        boxes, classes = record.boxes[single], record.classes[single]
        for i, j in np.argwhere(np.triu(iou(boxes, boxes) >= SAME_PLACE, k=1)):
            names = [dataset.class_names[classes[k] - 1] for k in (i, j)]
            kind = "same box twice" if classes[i] == classes[j] else "two classes"
            box = tuple(boxes[i].tolist())
            detail = f"{' and '.join(dict.fromkeys(names))} at {' '.join(f'{v:g}' for v in box)}"
            yield Fault(kind, dataset.name, str(record.path), detail, box)


def empty_classes(splits: Sequence[Split], class_names: Sequence[str]) -> Iterator[Fault]:
    """Classes without an object in a split.

    A class without an object in any split counts only in COCO files, which list their categories;
    the 20 names of VOC are given to any data set that has some of them.
    """
    total = Counter(k for split in splits for k in split.objects.classes.tolist())
    for split in splits:
        here = set(split.objects.classes.tolist())
        for k, name in enumerate(class_names):
            if k not in here and (total[k] or split.dataset.category_ids):
                yield Fault("class without objects", split.name, "", name)
