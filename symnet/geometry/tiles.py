"""Tiles of a large image, and which of the detections in them count.

Letters: T tiles, V views. A view is a detection in one tile, or in the whole image scaled down. Its
frame is the part of the image that was looked at. All boxes are xyxy in pixels of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: the error of a side of a view of the whole image, as a share of the box
LOOSE = 0.1
#: tiles show a box equally well if the distances to their borders differ by this share of the box
EQUAL = 0.05


def tile_frames(height: int, width: int, tile: tuple[int, int], overlap: float) -> np.ndarray:
    """The tiles (T, 4) int64 xyxy that cover an image, row by row.

    All have the same size: `tile` is their height and width in pixels, or the image's side where
    that is less. Neighbours overlap by at least the share `overlap` of a tile (0 <= overlap < 1).
    There are as few of them as that allows, spread evenly.
    """
    tops, tall = _starts(height, tile[0], overlap)
    lefts, wide = _starts(width, tile[1], overlap)
    top, left = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
    return np.stack([left, top, left + wide, top + tall], axis=1)


def _starts(side: int, tile: int, overlap: float) -> tuple[np.ndarray, int]:
    """The first pixels of the tiles along a side, and their length."""
    length = min(tile, side)
    step = max(1, int(tile * (1 - overlap) + 1e-6))
    count = 1 - (-(side - length) // step)
    return np.rint(np.linspace(0, side - length, count)).astype(np.int64), length


@dataclass(frozen=True)
class Views:
    """Detections of tiles: boxes (V, 4), scores (V,), classes (V,), and their frames.

    tile (V,): the number of the view's tile, or -1 for the whole image. tiles (T, 4): see
    `tile_frames`. size: height and width of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    tile: np.ndarray
    tiles: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: np.ndarray) -> Views:
        rows = (self.boxes, self.scores, self.classes, self.tile)
        return Views(*(row[keep] for row in rows), self.tiles, self.size)

    @property
    def whole(self) -> np.ndarray:
        """Which views (V,) are of the whole image."""
        return self.tile < 0

    @cached_property
    def frames(self) -> np.ndarray:
        """What was looked at: (V, 4) xyxy."""
        return np.concatenate([self.tiles, [[0, 0, self.size[1], self.size[0]]]])[self.tile]


def gaps(views: Views) -> np.ndarray:
    """Pixels (V, 4) from each side of a box to its frame's; inf where the image itself ends."""
    sign = np.array([1, 1, -1, -1])
    ends = views.frames == np.array([0, 0, *views.size[::-1]])
    return np.where(ends, np.inf, (views.boxes - views.frames) * sign)


def counting(views: Views, margin: float) -> np.ndarray:
    """The views (V,) bool that count; see the two parts. margin: as in `join_views`."""
    counts = _is_best_place(views, margin)
    counts[views.whole] = _is_large(views.boxes[views.whole], views.tiles)
    return counts


def _is_large(boxes: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) are too large for all tiles (T, 4): (N,) bool.

    That is, no tile would show the box even if it were smaller by `LOOSE` on each side.
    """
    slack = LOOSE * np.tile(boxes[:, 2:] - boxes[:, :2], 2) * (1, 1, -1, -1)
    inner = (boxes + slack)[:, None]
    shown = (inner[..., :2] >= tiles[:, :2]) & (inner[..., 2:] <= tiles[:, 2:])
    return ~shown.all(axis=2).any(axis=1)


def _is_best_place(views: Views, margin: float) -> np.ndarray:
    """The views (V,) whose tile shows their box best: farther from its borders than any other.

    So each place is judged by one tile, however many overlap there, and mistakes do not add up. Two
    tiles count where they show a box about equally well.
    """
    best = np.ones(len(views), bool)
    for axis in (0, 1):
        side = views.size[1 - axis]
        starts, own = np.unique(views.tiles[:, axis], return_inverse=True)
        ends = starts + views.tiles[0, axis + 2] - views.tiles[0, axis]
        low, high = views.boxes[:, axis, None], views.boxes[:, axis + 2, None]
        clear = np.minimum(
            np.where(starts > 0, low - starts, np.inf), np.where(ends < side, ends - high, np.inf)
        )
        here = clear[np.arange(len(views)), own.reshape(-1)[views.tile]]
        slack = 2 * margin + EQUAL * (high - low)[:, 0]
        best &= here >= clear.max(axis=1, initial=-np.inf) - slack
    return best
