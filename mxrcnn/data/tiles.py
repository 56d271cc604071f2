"""Large images cut into tiles to train on: the partner of predictions in tiles.

The tiles are those of predictions, `symnet.geometry.tiles.tile_frames`. The whole image is trained
on as well, scaled down, because predictions look at it for what is larger than a tile.
Letters: N objects of an image, K of a tile, I images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import DataConfig
from mxrcnn.data.reading import progress
from mxrcnn.data.records import DataError, Dataset, ImageRecord, Window
from mxrcnn.data.transforms import resized_size, trainable_objects
from mxrcnn.data.transforms.mix import only
from mxrcnn.data.transforms.render import LEAST_SIDE, LEAST_VISIBLE
from symnet.geometry.boxes import areas
from symnet.geometry.masks import crop, decode
from symnet.geometry.tiles import tile_frames


@dataclass
class Tiled:
    """A data set to train on: each image, and after those that are larger than a tile, their tiles.

    whole, tiles: images that were cut, and what they were cut into; empty: tiles without objects to
    train on. left_out: parts of objects that tiles leave out, by the reasons that the transforms
    have (`render`); too_small: objects that are too small in whole images; unseen: objects that no
    image shows. size: the bytes of all decoded images that were cut.
    """

    dataset: Dataset
    whole: int = 0
    tiles: int = 0
    empty: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    too_small: int = 0
    unseen: int = 0
    size: int = 0

    def counts(self) -> dict[str, Any]:
        """The numbers, for log.jsonl."""
        names = ("whole", "tiles", "empty", "too_small", "unseen")
        return {**{n: getattr(self, n) for n in names}, "left_out": dict(self.left_out)}

    def lines(self, data: DataConfig) -> list[str]:
        """What was cut and left out, for the user."""
        if not data.tile:
            return []
        side = min(s for s in (data.tile, data.short_side, data.long_side) if s)
        head = f"tiles of {data.tile} x {data.tile} pixels"
        if not self.whole:
            return [f"{head}: no image is larger, nothing is cut"]
        head += f" that overlap by at least {data.overlap:.0%}, resized to {side}: {self.tiles} of "
        head += f"{self.whole} images, each of which is also trained on whole; "
        lines = [f"{head}{len(self.dataset) - self.tiles - self.whole} images fit into a tile"]
        lines += self._empty_lines(data)
        left = self.left_out
        lines.append(
            f"left out of tiles: {left['cut off']} parts of objects (less than {LEAST_VISIBLE:.0%} "
            f"of the box), {left['too small']} too small (a side below {LEAST_SIDE:g} network "
            f"pixels); of whole images: {self.too_small} objects too small"
        )
        lines.append(
            f"decoded images are kept in the run's folder until training is done: up to "
            f"{self.size / 1e9:.2g} GB"
        )
        if self.unseen:
            lines.append(f"{self.unseen} objects are too small wherever they are shown")
        return [lines[0], *(f"  {line}" for line in lines[1:])]

    def _empty_lines(self, data: DataConfig) -> list[str]:
        if not self.empty:
            return []
        if not data.keep_empty:
            return [f"{self.empty} tiles have no objects and are left out (keep_empty is off)"]
        shown = self.empty - (1 - epoch_shares(self.dataset.records, data)).sum()
        if shown == self.empty:
            return [f"{self.empty} tiles have no objects"]
        return [
            f"{self.empty} tiles have no objects; {shown:.0f} of them are shown in an epoch, "
            f"others in the next ({data.empty_tiles:g} for each tile with objects: empty_tiles)"
        ]


def tile_dataset(dataset: Dataset, data: DataConfig, store: Path | None = None) -> Tiled:
    """Cut the images that are larger than `data.tile` into tiles, each a record of its own.

    Objects are clipped to their tile. One of which too little is to be seen stays as a crowd: it is
    not trained on, and is an ignore region where there are some. The same goes for objects that are
    too small in the whole image. store: a folder for decoded images, see `mxrcnn.data.store`.
    Raises DataError for a mask that cannot be drawn.
    """
    made = Tiled(dataset)
    if not data.tile:
        return made
    records: list[ImageRecord] = []
    for record in progress(dataset.records, "cutting tiles"):
        frames = tile_frames(record.height, record.width, (data.tile, data.tile), data.overlap)
        if len(frames) == 1:
            records.append(record)
            continue
        made.size += 3 * record.height * record.width
        whole, seen = _whole(record, data, made)
        records.append(whole)
        for frame in frames.tolist():
            window = Window(tuple(frame), (record.height, record.width), store)
            tile, shown = _tile(record, window, data, made)
            seen[shown] = True
            records.append(tile)
        made.whole, made.tiles = made.whole + 1, made.tiles + len(frames)
        made.unseen += int((trainable_objects(record, data) & ~seen).sum())
    return replace(made, dataset=replace(dataset, records=tuple(records)))


def _whole(record: ImageRecord, data: DataConfig, made: Tiled) -> tuple[ImageRecord, np.ndarray]:
    """The record without objects that are too small when scaled down, and which are shown (N,)."""
    wanted = trainable_objects(record, data)
    small = wanted & _are_small(record.boxes, record.height, record.width, data)
    made.too_small += int(small.sum())
    return replace(record, crowd=record.crowd | small), wanted & ~small


def _are_small(boxes: np.ndarray, height: int, width: int, data: DataConfig) -> np.ndarray:
    """Which boxes (N, 4) of an image have a side below LEAST_SIDE network pixels."""
    resized = resized_size(height, width, data)[:2]
    ratio = np.array([resized[1] / width, resized[0] / height])
    return ((boxes[:, 2:] - boxes[:, :2]) * ratio < LEAST_SIDE).any(axis=1)


def _tile(
    record: ImageRecord, window: Window, data: DataConfig, made: Tiled
) -> tuple[ImageRecord, np.ndarray]:
    """The record of a tile, and the numbers of the objects that it shows."""
    left, top, right, bottom = frame = window.frame
    boxes = np.clip(record.boxes, np.tile(frame[:2], 2), np.tile(frame[2:], 2))
    there = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    part, boxes = only(replace(record, masks=None), there), boxes[there]
    wanted = trainable_objects(part, data)
    share = areas(boxes) / areas(part.boxes.astype(np.float64))
    cut = share < LEAST_VISIBLE
    small = ~cut & _are_small(boxes, bottom - top, right - left, data)
    masks = None
    if data.masks and record.masks is not None:
        masks = [None] * len(there)
        for k in np.flatnonzero(wanted & ~cut & ~small):
            masks[k] = _mask(record, there[k], frame, whole=share[k] == 1)
            cut[k] = masks[k] is None and record.masks[there[k]] is not None
    made.left_out["cut off"] += int((wanted & cut).sum())
    made.left_out["too small"] += int((wanted & small).sum())
    shown = wanted & ~cut & ~small
    made.empty += not shown.any()
    tile = replace(
        part,
        image_id=f"{record.image_id} [{left},{top}]",
        height=bottom - top,
        width=right - left,
        boxes=(boxes - np.array([left, top] * 2)).astype(np.float32),
        crowd=part.crowd | (wanted & ~shown),
        truncated=part.truncated | (share < 1),
        areas=(part.areas * share).astype(np.float32),
        masks=None if masks is None else tuple(masks),
        window=window,
    )
    return tile, there[shown]


def _mask(record: ImageRecord, i: int, frame: tuple[int, int, int, int], whole: bool) -> object:
    """The mask of object i in a tile, or None if it has no pixel there. whole: not cut."""
    if record.masks[i] is None:
        return None
    left, top, right, bottom = frame
    try:
        mask = crop(record.masks[i], (record.height, record.width), frame)
        return mask if whole or decode(mask, bottom - top, right - left).any() else None
    except ValueError as error:
        raise DataError(record.path, f"the mask of object {i}: {error}") from error


def at_full_scale(records: Sequence[ImageRecord], data: DataConfig) -> list[ImageRecord]:
    """The records, with the tiles of those that are larger than one in place of the whole.

    So objects have the sizes that the network is to find them at.
    """
    found = tile_dataset(Dataset("", (), tuple(records)), replace(data, masks=False)).dataset
    cut = data.tile or np.inf
    return [record for record in found.records if max(record.height, record.width) <= cut]


def epoch_shares(records: Sequence[ImageRecord], data: DataConfig) -> np.ndarray:
    """How often each image comes in an epoch, in the mean (I,).

    That is 1, and less for tiles without objects, so that an epoch shows `data.empty_tiles` of them
    for each tile with objects, drawn anew for each epoch: else they would swamp it.
    """
    tiles = np.array([record.window is not None for record in records], bool)
    full = np.array([trainable_objects(record, data).any() for record in records], bool)
    empty = tiles & ~full
    wanted = data.empty_tiles * (tiles & full).sum()
    share = min(1.0, wanted / max(1, empty.sum()))
    return np.where(empty, share, 1.0)
