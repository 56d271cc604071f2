"""Groups of images that a split keeps on one side: near-duplicates, copies, frames of a video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mxrcnn.config import DataConfig
from mxrcnn.data.check.twins import alike_groups, fingerprint
from mxrcnn.data.records import Dataset, ImageRecord
from mxrcnn.data.sequences import Together, copies, sequences
from mxrcnn.data.transforms import read_pixels

ALIKE = "look the same"


@dataclass(frozen=True)
class Groups:
    """The images that stay together.

    of: the group of each image, as the smallest index in it. reasons: what linked images: their
    indices, and "look the same" or what their names have in common. apart: sequences that were not
    kept together, and why.
    """

    of: tuple[int, ...]
    reasons: tuple[Together, ...] = ()
    apart: tuple[str, ...] = ()

    def members(self) -> list[list[int]]:
        """The indices of each group, single images included."""
        out: dict[int, list[int]] = {}
        for i, first in enumerate(self.of):
            out.setdefault(first, []).append(i)
        return list(out.values())


def places_of(records: Sequence[ImageRecord]) -> list[str]:
    """The path of each image without ending, inside the folder that all have in common."""
    folders = [str(record.path.parent) for record in records]
    common = Path(os.path.commonpath(folders))
    return [r.path.relative_to(common).with_suffix("").as_posix() for r in records]


def fingerprints(
    records: Sequence[ImageRecord], data: DataConfig, progress: bool
) -> list[np.ndarray | None]:
    """The fingerprint of each image, as in `mxrcnn check`; shows progress and time left.

    Cost: each image is decoded, 3 ms of a core for 640 x 480 pixels. Raises DataError for an image
    that cannot be decoded.
    """

    def look(record: ImageRecord) -> np.ndarray | None:
        return fingerprint(read_pixels(record, data))

    pool = ThreadPoolExecutor(os.cpu_count())
    disable = None if progress else True
    try:
        found = pool.map(look, records)
        what = "looking for near-duplicates"
        return list(tqdm(found, what, len(records), unit="image", disable=disable))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Links:
    """Sets of images that are linked, directly or through others."""

    def __init__(self, count: int) -> None:
        self._first = list(range(count))
        self._members = [[i] for i in range(count)]

    def union(self, images: Sequence[int]) -> list[int]:
        """The images of all sets that these would join."""
        firsts = dict.fromkeys(self._first[i] for i in images)
        return [i for first in firsts for i in self._members[first]]

    def link(self, images: Sequence[int]) -> None:
        joined = self.union(images)
        first = min(joined)
        self._members[first] = joined
        for i in joined:
            self._first[i] = first

    def first(self) -> tuple[int, ...]:
        return tuple(self._first)


def find_groups(
    dataset: Dataset, prints: Sequence[np.ndarray | None], least: Fraction, progress: bool
) -> Groups:
    """The groups of a data set.

    prints: the fingerprint of each image. least: the share of the smallest side. Images that look
    the same, and copies of one image, are always together. A sequence is not, if with what it is
    linked to it would hold more than `least` of all images, or more than half of the images of a
    class that has enough for all sides.
    """
    places = places_of(dataset.records)
    links, reasons = _Links(len(dataset)), []
    alike = [Together(ALIKE, tuple(group.tolist())) for group in alike_groups(prints, progress)]
    for group in (*alike, *copies(places)):
        links.link(group.members)
        reasons.append(group)
    classes = [set(record.classes.tolist()) for record in dataset.records]
    totals = Counter(k for some in classes for k in some)
    apart = []
    for group in sequences(places):
        joined = links.union(group.members)
        counts = Counter(k for i in joined for k in classes[i])
        crowded = [
            dataset.class_names[k - 1]
            for k, count in sorted(counts.items())
            if 2 * count > totals[k] and totals[k] * least >= 1
        ]
        if len(joined) > least * len(dataset):
            apart.append(f"{group.pattern}: {len(joined)} of {len(dataset)} images")
        elif crowded:
            apart.append(f"{group.pattern}: most images of {', '.join(crowded[:3])}")
        else:
            links.link(group.members)
            reasons.append(group)
    return Groups(links.first(), tuple(reasons), tuple(apart))
