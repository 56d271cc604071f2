"""The order of images: which make up each batch, mirrored or not, and the padded size of it.

A plan depends on the data, the seed and the epoch alone. So the number of loader workers changes
nothing but speed, and the same plan always gives the same batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mxrcnn.config import Config, DataConfig
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.repeats import Repeats, draw, most_drawn
from mxrcnn.data.tiles import epoch_shares
from mxrcnn.data.transforms import (
    Augmentation,
    check_masks,
    padded_size,
    resized_size,
    trainable_objects,
)
from symnet import get_detector

#: what tells the generators of a place in an epoch apart; its targets are drawn without it
AUGMENT, PARTNERS, SIDE = (1,), (2,), (0, 3)
#: rows of gt_boxes, at most, that are added for the objects of other images
MOST_ROWS = 200
#: the fields of a plan that have one element an image
OF_EACH_IMAGE = ("records", "flips", "seeds", "partners")


@dataclass(frozen=True)
class BatchPlan:
    """The images of one batch, which of them are mirrored, and the (H, W) that holds them all.

    seeds: of each image, for the sampling of its targets and for its augmentation. partners: other
    images that each image's augmentation may show. short_side: this batch's own, if not 0.
    """

    epoch: int
    index: int
    records: tuple[ImageRecord, ...]
    flips: tuple[bool, ...]
    seeds: tuple[tuple[int, ...], ...]
    size: tuple[int, int]
    partners: tuple[tuple[ImageRecord, ...], ...] = ()
    short_side: int = 0


class TrainingPlan:
    """The order of a data set for training: epoch -> plans of equally large batches.

    A batch has the images of one step of all training workers, each of which gets an equal part. So
    all make the same number of steps, and an image's samples do not depend on how it is divided.

    A batch holds either landscape or portrait images, to need little padding. The last batch of
    either group is filled up with images of the same group, so no image is left out. Raises
    DataError if there are no images to train on, or if masks are wanted and missing.
    """

    def __init__(self, dataset: Dataset, config: Config, workers: int = 1) -> None:
        data = config.data
        records = dataset.records
        if not data.keep_empty:
            records = tuple(r for r in records if trainable_objects(r, data).any())
        if not records:
            why = "" if data.keep_empty else " (keep_empty is off)"
            where = dataset.annotation_file or data.root
            raise DataError(where, f"no images to train on in {dataset.name}{why}")
        for record in records:
            check_masks(record, data)
        self._records = records
        self.augmentation = Augmentation.of(data)
        sides = self.augmentation.sides or (data.short_side,)
        self._sizes_of = {
            side: [
                resized_size(r.height, r.width, replace(data, short_side=side))[:2] for r in records
            ]
            for side in sorted(sides)
        }
        self._sizes = self._sizes_of[max(sides)]
        self._share = config.train.batch_size * config.train.accumulate
        self._batch_size = self._share * workers
        self._multiple = np.lcm(data.pad_multiple, get_detector(config.network).stride)
        self._least_side = data.least_padded_side
        self._seed = config.train.seed
        flips = (False, True) if self.augmentation.both_ways else (False,)
        wide = np.array([width >= height for height, width in self._sizes])
        self._groups = [
            np.array([(i, flip) for flip in flips for i in np.flatnonzero(wide == side)])
            for side in (True, False)
            if (wide == side).any()
        ]
        # how often each image comes in an epoch, in the mean; None: once
        self._often = epoch_shares(records, data) if data.tile else None
        self._alike = _alike(records, self._often) if self.augmentation.partners else []
        self.repeats = None
        if data.repeat_thresh:
            often = np.ones(len(records)) if self._often is None else self._often
            self.repeats = Repeats.of(records, data, often.sum())
            self._often = often * self.repeats.images
        self._drawn = [most_drawn(self._factors(group)) for group in self._groups]
        most = max(1, *(_rows(r, config) for r in records))
        self.capacity = max(most, min(most * (1 + self.augmentation.partners), MOST_ROWS))

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return sum(-(-drawn // self._batch_size) for drawn in self._drawn)

    def _factors(self, group: np.ndarray) -> np.ndarray:
        """How often each of a group's images comes in an epoch, in the mean."""
        return np.ones(len(group)) if self._often is None else self._often[group[:, 0]]

    def largest_size(self) -> tuple[int, int]:
        """The (H, W) of the largest area that a batch can have."""
        shapes = {self._padded([size]) for size in self._sizes}
        if self._batch_size > 1:
            shapes = [self._padded([self._sizes[i] for i in group[:, 0]]) for group in self._groups]
        return max(shapes, key=lambda shape: shape[0] * shape[1])

    def _padded(self, sizes: list[tuple[int, int]]) -> tuple[int, int]:
        return padded_size(sizes, self._multiple, self._least_side)

    def epoch(self, epoch: int) -> list[BatchPlan]:
        """The plans of one epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        batches = []
        for group, drawn in zip(self._groups, self._drawn):
            order = rng.permutation(len(group))
            if self._often is not None:
                order = np.repeat(order, draw(self._factors(group[order]), rng))
                order = rng.permutation(order)
            missing = drawn + -drawn % self._batch_size - len(order)
            order = np.concatenate([order, rng.integers(0, len(group), missing)])
            batches += list(group[order].reshape(-1, self._batch_size, 2))
        return [
            self._plan(epoch, index, batches[place])
            for index, place in enumerate(rng.permutation(len(batches)))
        ]

    def _plan(self, epoch: int, index: int, entries: np.ndarray) -> BatchPlan:
        images = entries[:, 0].tolist()
        records = tuple(self._records[i] for i in images)
        flips = tuple(bool(flip) for flip in entries[:, 1])
        seeds = tuple((self._seed, epoch, index, place) for place in range(len(images)))
        side, sizes, partners = 0, self._sizes, ()
        if self.augmentation.sides:
            rng = np.random.default_rng((self._seed, epoch, index, *SIDE))
            side = int(rng.choice(self.augmentation.sides))
            sizes = self._sizes_of[side]
        if self.augmentation.partners:
            partners = tuple(self._partners(i, seed) for i, seed in zip(images, seeds))
        size = self._padded([sizes[i] for i in images])
        return BatchPlan(epoch, index, records, flips, seeds, size, partners, side)

    def _partners(self, image: int, seed: tuple[int, ...]) -> tuple[ImageRecord, ...]:
        """Random images that are annotated for the same classes, by the seed of its place."""
        pool = self._alike[image]
        chosen = np.random.default_rng((*seed, *PARTNERS)).integers(
            0, len(pool), self.augmentation.partners
        )
        return tuple(self._records[pool[k]] for k in chosen)

    def stream(self, epoch: int, index: int, rank: int = 0) -> Iterator[BatchPlan]:
        """The endless plans of training worker `rank`, from a batch of an epoch on."""
        part = slice(rank * self._share, (rank + 1) * self._share)
        for current in itertools.count(epoch):
            for plan in self.epoch(current)[index:]:
                mine = {name: getattr(plan, name)[part] for name in OF_EACH_IMAGE}
                yield replace(plan, **mine)
            index = 0


def test_plans(dataset: Dataset, data: DataConfig, stride: int, batch_size: int) -> list[BatchPlan]:
    """Every image once, in batches of equal shape; the last batch of a shape may be smaller."""
    multiple = np.lcm(data.pad_multiple, stride)
    shapes: dict[tuple[int, int], list[ImageRecord]] = {}
    for record in dataset.records:
        size = resized_size(record.height, record.width, data)[:2]
        size = padded_size([size], multiple, data.least_padded_side)
        shapes.setdefault(size, []).append(record)
    chunks = [
        (size, tuple(records[start : start + batch_size]))
        for size, records in shapes.items()
        for start in range(0, len(records), batch_size)
    ]
    return [
        BatchPlan(0, index, records, (False,) * len(records), (), size)
        for index, (size, records) in enumerate(chunks)
    ]


def with_regions(config: Config) -> bool:
    """True if the network gets ignore regions, see the field ignore_overlap of model configs."""
    return config.model.ignore_overlap > 0


def _rows(record: ImageRecord, config: Config) -> int:
    """The number of rows of gt_boxes that an image has."""
    if with_regions(config):
        return len(record)
    return int(trainable_objects(record, config.data).sum())


def _alike(records: Sequence[ImageRecord], often: np.ndarray | None) -> list[np.ndarray]:
    """For each record, those that are annotated for the same classes.

    Those that come less often than once an epoch are only there if there are no others.
    """
    groups: dict[tuple[int, ...] | None, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record.active_classes, []).append(i)
    pools = {key: np.array(group) for key, group in groups.items()}
    for key, pool in pools.items() if often is not None else ():
        usual = pool[often[pool] >= 1]
        pools[key] = usual if len(usual) else pool
    return [pools[record.active_classes] for record in records]
