"""Which objects a network's anchors can reach.

Letters: K objects, A anchors of a position, L levels. Boxes are xyxy in network pixels.

An anchor of given sides overlaps an object most at the grid position nearest to the object's
centre. That holds in x and in y independently, as the shared area is a product of two lengths. So
an object's best overlap needs no grid, only one position for each of the A shapes and L levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mxrcnn.data.check.objects import Objects
from symnet.classic import OFFSET
from symnet.geometry.anchors import AnchorSpec, ClassicLevels, PyramidAnchors

#: the first and last position (K, A) of anchors along an axis
_Range = tuple[np.ndarray, np.ndarray]

#: IoUs at which coverage is reported
THRESHOLDS = (0.5, 0.7)


@dataclass(frozen=True)
class _Level:
    """A level's anchors: base (A, 4) at the first position; step and count (K, 2) in y and x."""

    base: np.ndarray
    step: np.ndarray
    count: np.ndarray


def _levels(anchors: Any, objects: Objects) -> Iterator[_Level]:
    """The levels of a network's anchors, for the images of the objects."""
    padded = objects.padded
    if isinstance(anchors, PyramidAnchors):
        for level, size in enumerate(anchors.cells(padded[:, 0], padded[:, 1])):
            count = np.stack(size, axis=1)
            yield _Level(anchors.base(level), padded // count, count)
        return
    for spec in anchors.levels if isinstance(anchors, ClassicLevels) else (anchors,):
        step = np.full(padded.shape, spec.stride)
        yield _Level(spec.base(), step, -(-padded // spec.stride))


def anchor_sides(anchors: Any) -> np.ndarray:
    """Widths and heights (A * L, 2) of all anchors of a network, in network pixels."""
    nobody = np.zeros((0, 2), np.int64)
    nothing = Objects(np.zeros((0, 4), np.float32), nobody[:, 0], nobody, nobody, nobody[:, 0])
    base = np.concatenate([level.base for level in _levels(anchors, nothing)])
    inclusive = 0 if isinstance(anchors, PyramidAnchors) else OFFSET
    return base[:, 2:] - base[:, :2] + inclusive


def best_overlaps(anchors: Any, objects: Objects, inside_only: bool = False) -> np.ndarray:
    """The largest IoU (K,) of each object with any anchor of its image.

    The rules are those of the RPN's targets. The classic networks count a width as x2 - x1 + 1, and
    leave out anchors that cross the image's border unless all do. With inside_only all networks
    leave those out.
    """
    classic = isinstance(anchors, AnchorSpec)
    levels = list(_levels(anchors, objects))
    axes = [tuple(_Axis.of(level, objects, axis) for axis in (0, 1)) for level in levels]
    ranges = [tuple(axis.everywhere() for axis in both) for both in axes]
    if classic or inside_only:
        ranges = _inside_ranges(axes)
    best = np.zeros(len(objects))
    for parts in zip(levels, axes, ranges):
        overlaps = _level_overlaps(objects, *parts, classic)
        best = np.maximum(best, overlaps.max(axis=1, initial=0))
    return best


def _inside_ranges(axes: list[tuple[_Axis, _Axis]]) -> list[tuple[_Range, _Range]]:
    """For each level, in y and x, the positions at which its anchors are inside the image.

    For images in which no anchor of any level is inside: those at which they touch it.
    """
    inside = [tuple(axis.inside() for axis in both) for both in axes]
    fits = [
        ((y_low <= y_high) & (x_low <= x_high)).any(axis=1)
        for (y_low, y_high), (x_low, x_high) in inside
    ]
    none = ~np.any(fits, axis=0)[:, None]
    return [
        tuple(
            tuple(np.where(none, there, here) for there, here in zip(axis.touching(), found))
            for axis, found in zip(both, level)
        )
        for both, level in zip(axes, inside)
    ]


def _level_overlaps(
    objects: Objects,
    level: _Level,
    axes: tuple[_Axis, _Axis],
    ranges: tuple[_Range, _Range],
    classic: bool,
) -> np.ndarray:
    """IoU (K, A) of each object with each anchor of a level at its best position."""
    offset = OFFSET if classic else 0
    shared = np.ones((len(objects), len(level.base)))
    for axis, (low, high) in zip(axes, ranges):
        shared *= axis.shared(low, high, offset)
    sides = level.base[:, 2:] - level.base[:, :2] + offset
    union = np.prod(objects.sides + offset, axis=1)[:, None] + np.prod(sides, axis=1) - shared
    return shared / union


@dataclass(frozen=True)
class _Axis:
    """Objects (K, 1) and base anchors (A,) along x or y: where they begin and end.

    step and count (K, 1) of the grid: position p moves an anchor by p steps. limit (K, 1): the
    image's end.
    """

    begin: np.ndarray
    end: np.ndarray
    base_begin: np.ndarray
    base_end: np.ndarray
    step: np.ndarray
    count: np.ndarray
    limit: np.ndarray

    @classmethod
    def of(cls, level: _Level, objects: Objects, axis: int) -> _Axis:
        """Axis 0 is y, 1 is x."""
        x = 1 - axis
        columns = objects.boxes[:, x], objects.boxes[:, x + 2]
        grid = level.step[:, axis], level.count[:, axis], objects.size[:, axis]
        begin, end = (column[:, None].astype(np.float64) for column in columns)
        base = level.base.astype(np.float64)
        return cls(begin, end, base[:, x], base[:, x + 2], *(value[:, None] for value in grid))

    def everywhere(self) -> _Range:
        """The first and last position (K, A) of the grid."""
        shape = (len(self.begin), len(self.base_begin))
        return np.zeros(shape), np.broadcast_to(self.count - 1, shape)

    def inside(self) -> _Range:
        """The range of positions at which the anchor begins at 0 or later and ends before limit."""
        return self._between(self.base_begin, self.base_end)

    def touching(self) -> _Range:
        """The range of positions at which the anchor ends at 0 or later and begins before limit."""
        return self._between(self.base_end, self.base_begin)

    def _between(self, lower: np.ndarray, upper: np.ndarray) -> _Range:
        """The range of positions at which lower is at least 0 and upper is below limit."""
        low, high = self.everywhere()
        first = np.ceil(-lower / self.step)
        last = np.ceil((self.limit - upper) / self.step) - 1
        return np.maximum(low, first), np.minimum(high, last)

    def shared(self, low: np.ndarray, high: np.ndarray, offset: float) -> np.ndarray:
        """The length (K, A) shared at the best position in low..high; 0 if that range is empty."""
        centred = (self.begin + self.end - self.base_begin - self.base_end) / (2 * self.step)
        moved = np.clip(np.round(centred), low, high) * self.step
        length = np.minimum(self.end, self.base_end + moved)
        length -= np.maximum(self.begin, self.base_begin + moved)
        return np.where(low <= high, np.maximum(length + offset, 0), 0)


def coverage(overlaps: np.ndarray) -> dict[str, float]:
    """The share of objects whose overlap (K,) reaches each of THRESHOLDS; NaN for no objects."""
    return {
        f"{at:g}": float((overlaps >= at).mean()) if len(overlaps) else float("nan")
        for at in THRESHOLDS
    }
