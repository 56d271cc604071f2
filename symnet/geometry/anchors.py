"""Anchors of region proposal networks, and points of FCOS.

Letters: A anchors per position (ratios outer, scales inner), H, W feature map size, N all anchors
or points of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

import numpy as np


def classic_base_anchors(
    stride: int, scales: Sequence[float], ratios: Sequence[float], half_even: bool = False
) -> np.ndarray:
    """The anchors (A, 4) of the first cell, exactly as in contrib.MultiProposal.

    Faster R-CNN, section 3.1.1, with py-faster-rcnn's rounding: the width and height for a ratio
    (height / width) are whole pixels of a stride x stride cell, inclusive (+1), and are then
    multiplied by the scale. half_even: round half to even like NumPy, and therefore gluoncv: 22.5
    pixels (stride 32) become 22 instead of 23.
    """
    rounded = np.round if half_even else _half_up
    centre = 0.5 * (stride - 1)
    anchors = []
    for ratio in ratios:
        width = rounded(np.sqrt(np.floor(stride * stride / ratio)))
        height = rounded(width * ratio)
        for scale in scales:
            half_w, half_h = 0.5 * (width * scale - 1), 0.5 * (height * scale - 1)
            anchors.append([centre - half_w, centre - half_h, centre + half_w, centre + half_h])
    return np.array(anchors, np.float32)


def _half_up(value: float) -> float:
    return np.floor(value + 0.5)


@dataclass(frozen=True)
class AnchorSpec:
    """The anchors of one level: stride in pixels, scales in strides, ratios height / width.

    half_even: see classic_base_anchors.
    """

    stride: int
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    half_even: bool = False

    @property
    def num_anchors(self) -> int:
        """A, the number of anchors per position."""
        return len(self.scales) * len(self.ratios)

    def base(self) -> np.ndarray:
        """The anchors (A, 4) of the first cell."""
        return classic_base_anchors(self.stride, self.scales, self.ratios, self.half_even)

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (H*W*A, 4) of a height x width map, ordered by row, column, anchor."""
        return _grid(self, height, width)


@lru_cache(maxsize=64)
def _grid(spec: AnchorSpec, height: int, width: int) -> np.ndarray:
    base = spec.base()
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * spec.stride
    shifts = np.stack([x, y, x, y], axis=-1)
    anchors = (shifts[:, :, None] + base).reshape(-1, 4)
    anchors.flags.writeable = False
    return anchors


@dataclass(frozen=True)
class PyramidAnchors:
    """torchvision's anchors of a feature pyramid: one size in pixels per level; ratios h / w.

    The levels have strides 4, 8, ..., unless `strides` lists them: then every level has all sizes.
    Anchors are centred on the cells' corners and rounded to whole pixels. In each direction, a
    level's stride is the image's side divided by the feature map's, rounded down. last_pixel: as in
    matterport's Mask R-CNN, anchors are not rounded, and x2 and y2 are one less (the last pixel).
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    last_pixel: bool = False
    strides: tuple[int, ...] = ()

    @property
    def num_anchors(self) -> int:
        """A, the number of anchors per position."""
        return len(self.ratios) * (len(self.sizes) if self.strides else 1)

    def stride(self, level: int) -> None:
        """None: a level's stride depends on the image."""

    def cells(self, height: int, width: int) -> list[tuple[int, int]]:
        """The (h, w) of each level for a padded image; also for arrays of heights and widths."""
        strides = self.strides or tuple(4 * 2**level for level in range(len(self.sizes)))
        return [(-(-height // stride), -(-width // stride)) for stride in strides]

    def base(self, level: int) -> np.ndarray:
        """A level's anchors (A, 4), centred on the origin."""
        root = np.sqrt(np.float32(self.ratios))
        sizes = np.float32(self.sizes if self.strides else self.sizes[level : level + 1])
        half = np.stack([1 / root, root], axis=1)[:, None] * sizes[:, None] / 2
        half = half.reshape(-1, 2)
        if self.last_pixel:
            return np.concatenate([-half, half - 1], axis=1).astype(np.float32)
        return np.round(np.concatenate([-half, half], axis=1)).astype(np.float32)

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (N, 4) of a padded image, ordered by level, row, column, anchor."""
        return _pyramid_grid(self, height, width)


@dataclass(frozen=True)
class ClassicLevels:
    """The classic anchors of one or more feature maps, with the interface of PyramidAnchors.

    Anchors are centred on the cells' centres, and each map's stride is fixed.
    """

    levels: tuple[AnchorSpec, ...]

    @property
    def num_anchors(self) -> int:
        """A, the number of anchors per position."""
        return self.levels[0].num_anchors

    def stride(self, level: int) -> int:
        """A level's stride in pixels."""
        return self.levels[level].stride

    def base(self, level: int) -> np.ndarray:
        """The anchors (A, 4) of a level's first cell."""
        return self.levels[level].base()

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (N, 4) of a padded image, ordered by level, row, column, anchor."""
        sizes = ((s, -(-height // s.stride), -(-width // s.stride)) for s in self.levels)
        return np.concatenate([spec.grid(rows, columns) for spec, rows, columns in sizes])


#: the anchors that proposals made of built-in operators can use
Anchors = Union[PyramidAnchors, ClassicLevels]


def pyramid_sizes(height: int, width: int, levels: int, finest: int = 4) -> list[tuple[int, int]]:
    """The (h, w) of a pyramid's levels: stride `finest` first, each twice the one before."""
    sizes = []
    for level in range(levels):
        stride = finest * 2**level
        sizes.append((-(-height // stride), -(-width // stride)))
    return sizes


@lru_cache(maxsize=16)
def _pyramid_grid(anchors: PyramidAnchors, height: int, width: int) -> np.ndarray:
    levels = []
    for level, (rows, columns) in enumerate(anchors.cells(height, width)):
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        y, x = y * (height // rows), x * (width // columns)
        shifts = np.stack([x, y, x, y], axis=-1)
        levels.append((shifts[:, :, None] + anchors.base(level)).reshape(-1, 4))
    grid = np.concatenate(levels)
    grid.flags.writeable = False
    return grid


@dataclass(frozen=True)
class PyramidPoints:
    """The locations of FCOS (Tian et al. 2019, section 3.1): one per cell of p3, p4, ...

    strides: one per level, each twice the one before. centred: points are cell centres, stride * (i
    + 0.5). Otherwise they are cell corners, like the anchors of torchvision's FCOS: i times the
    image's side divided by the feature map's, rounded down.
    """

    strides: tuple[int, ...]
    centred: bool = True

    def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """All points (N, 2) x, y of a padded image, by level and row; and their levels (N,)."""
        return _points_grid(self, height, width)


@lru_cache(maxsize=16)
def _points_grid(points: PyramidPoints, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = pyramid_sizes(height, width, len(points.strides), points.strides[0])
    places, levels = [], []
    for level, (stride, (rows, columns)) in enumerate(zip(points.strides, sizes)):
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        if points.centred:
            y, x = (y + 0.5) * stride, (x + 0.5) * stride
        else:
            y, x = y * (height // rows), x * (width // columns)
        places.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        levels.append(np.full(rows * columns, level))
    grid = np.concatenate(places), np.concatenate(levels)
    for array in grid:
        array.flags.writeable = False
    return grid
