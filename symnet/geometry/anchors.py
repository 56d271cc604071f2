"""Where detectors start from: the anchors of region proposal networks, the points of FCOS.

Letters: A anchors a position (ratios outer, scales inner), H, W the feature map's size, N all
anchors or points of an image.
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
    """The A anchors (A, 4) of the first cell, exactly those of contrib.MultiProposal.

    Faster R-CNN, section 3.1.1, with py-faster-rcnn's rounding: widths and heights of the ratios
    are whole pixels of a stride x stride cell, inclusive (+1), before the scale multiplies them.
    Ratios are height over width. half_even: 22.5 pixels (stride 32) are 22, as NumPy and so gluoncv
    have it, and not 23.
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
    """Anchors of one feature level: stride in pixels, scales in strides, ratios height / width.

    half_even: see classic_base_anchors.
    """

    stride: int
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    half_even: bool = False

    @property
    def num_anchors(self) -> int:
        """A, the anchors of one position."""
        return len(self.scales) * len(self.ratios)

    def base(self) -> np.ndarray:
        """The anchors (A, 4) of the first cell."""
        return classic_base_anchors(self.stride, self.scales, self.ratios, self.half_even)

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (H*W*A, 4) of a map of height x width cells: row, column, anchor."""
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
    """torchvision's anchors of a feature pyramid: sizes in pixels, one a level; ratios h / w.

    They are centred on the corners of the cells and rounded to whole pixels. The stride of a level
    is the image's side divided by the map's, rounded down, in each direction. last_pixel: as in
    matterport's Mask R-CNN they are not rounded, and x2 and y2 are the last pixel's, one less.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    last_pixel: bool = False

    @property
    def num_anchors(self) -> int:
        """A, the anchors of one position."""
        return len(self.ratios)

    def stride(self, level: int) -> None:
        """None: that of a level depends on the image."""

    def base(self, level: int) -> np.ndarray:
        """The anchors (A, 4) of a level around the origin."""
        root = np.sqrt(np.float32(self.ratios))
        half = np.stack([1 / root, root], axis=1) * np.float32(self.sizes[level]) / 2
        if self.last_pixel:
            return np.concatenate([-half, half - 1], axis=1).astype(np.float32)
        return np.round(np.concatenate([-half, half], axis=1)).astype(np.float32)

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (N, 4) of a padded image: level by level, then row, column, anchor."""
        return _pyramid_grid(self, height, width)


@dataclass(frozen=True)
class ClassicLevels:
    """The classic anchors of one map or several, by the interface of PyramidAnchors.

    They are centred on the cells' centres, and a map's stride is fixed.
    """

    levels: tuple[AnchorSpec, ...]

    @property
    def num_anchors(self) -> int:
        """A, the anchors of one position."""
        return self.levels[0].num_anchors

    def stride(self, level: int) -> int:
        """The pixels from a cell of a level to the next."""
        return self.levels[level].stride

    def base(self, level: int) -> np.ndarray:
        """The anchors (A, 4) of a level's first cell."""
        return self.levels[level].base()

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (N, 4) of a padded image: level by level, then row, column, anchor."""
        sizes = ((s, -(-height // s.stride), -(-width // s.stride)) for s in self.levels)
        return np.concatenate([spec.grid(rows, columns) for spec, rows, columns in sizes])


#: what region proposals of built-in operators start from
Anchors = Union[PyramidAnchors, ClassicLevels]


def pyramid_sizes(height: int, width: int, levels: int, finest: int = 4) -> list[tuple[int, int]]:
    """The (h, w) of a pyramid's maps, the first of stride `finest`, each half of the last."""
    sizes = []
    for level in range(levels):
        stride = finest * 2**level
        sizes.append((-(-height // stride), -(-width // stride)))
    return sizes


@lru_cache(maxsize=16)
def _pyramid_grid(anchors: PyramidAnchors, height: int, width: int) -> np.ndarray:
    levels = []
    for level, (rows, columns) in enumerate(pyramid_sizes(height, width, len(anchors.sizes))):
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        y, x = y * (height // rows), x * (width // columns)
        shifts = np.stack([x, y, x, y], axis=-1)
        levels.append((shifts[:, :, None] + anchors.base(level)).reshape(-1, 4))
    grid = np.concatenate(levels)
    grid.flags.writeable = False
    return grid


@dataclass(frozen=True)
class PyramidPoints:
    """The locations of FCOS (Tian et al. 2019, section 3.1): one a cell of maps p3, p4, ...

    strides: one a level, each twice the last. centred: a point is the centre of its cell, stride *
    (i + 0.5). Otherwise it is the cell's corner, as the anchors of torchvision's FCOS are placed,
    i times the image's side over the map's, rounded down.
    """

    strides: tuple[int, ...]
    centred: bool = True

    def grid(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """All points (N, 2) x, y of a padded image, level by level along rows; their level (N,)."""
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
