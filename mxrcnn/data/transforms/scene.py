"""A scene: which parts of which images a training image shows, before anything is decoded.

Transforms change a scene, `render` draws it once. So an image is resampled once, whatever the
number of transforms, and one map moves pixels, boxes and masks alike.

Letters: N objects of an image. A map (2, 3) float64 moves a point (x, y) to map @ (x, y, 1). All
maps here are scales, shifts, mirrors and turns by 90 degrees, so boxes stay boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from mxrcnn.data.records import ImageRecord
from symnet.geometry.masks import decode

Edit = Callable[[Image.Image], Image.Image]
#: polygons that reach further than this many sides of the picture are not drawn as polygons, see
#: `symnet.geometry.masks.check_segmentation`
FAR = 8


def scale_map(x: float, y: float, left: float = 0.0, top: float = 0.0) -> np.ndarray:
    """The map that multiplies by (x, y), then shifts by (left, top)."""
    return np.array([[x, 0, left], [0, y, top]], np.float64)


def after(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The map that does `first`, then `second`."""
    return np.hstack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]])


def inverted(map_: np.ndarray) -> np.ndarray:
    """The map that undoes another one."""
    matrix = np.linalg.inv(map_[:, :2])
    return np.hstack([matrix, -matrix @ map_[:, 2:]])


def turns(map_: np.ndarray) -> bool:
    """True for a map that exchanges the axes: x' depends on y."""
    return abs(map_[0, 1]) > abs(map_[0, 0])


def move_points(map_: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move points (..., 2). All that is in a picture is moved by this formula."""
    return points @ map_[:, :2].T + map_[:, 2]


def move_boxes(map_: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Move boxes (..., 4)."""
    corners = move_points(map_, np.reshape(boxes, (*np.shape(boxes)[:-1], 2, 2)))
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


def move_mask(
    map_: np.ndarray, segmentation: Any, stored: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Draw the segmentation of an image of size `stored` where the map moves it: (h, w) bool.

    Polygons are moved, then drawn. An RLE is decoded, and a pixel is what is at its centre. Raises
    ValueError as `symnet.geometry.masks.decode` does.
    """
    if not isinstance(segmentation, Mapping):
        moved = [move_points(map_, np.reshape(p, (-1, 2))).ravel() for p in segmentation or []]
        if not moved or max(np.abs(p).max(initial=0) for p in moved) <= FAR * max(size):
            return decode([p.tolist() for p in moved], *size)
    mask = decode(segmentation, *stored)
    if turns(map_):
        mask, stored, map_ = mask.T, stored[::-1], map_[:, [1, 0, 2]]
    centres = [np.repeat(np.arange(side)[:, None] + 0.5, 2, axis=1) for side in size]
    back = inverted(map_)
    rows, columns = (np.floor(move_points(back, c)[:, 1 - i]) for i, c in enumerate(centres))
    out = np.zeros(size, bool)
    inside = [(v >= 0) & (v < limit) for v, limit in zip((rows, columns), stored)]
    found = mask[rows[inside[0]].astype(int)[:, None], columns[inside[1]].astype(int)]
    out[np.ix_(*inside)] = found
    return out


@dataclass(frozen=True)
class Layer:
    """One image in a scene.

    map: from its pixels to the scene's. clip: the box, in the scene's pixels, outside which
    nothing of it is shown. keep (N,) bool: its objects that have not been left out. cut_out: only
    the pixels inside the objects' masks are shown.
    """

    record: ImageRecord
    map: np.ndarray
    clip: np.ndarray
    keep: np.ndarray
    cut_out: bool = False

    @classmethod
    def of(cls, record: ImageRecord, map_: np.ndarray, cut_out: bool = False) -> Layer:
        """A whole image, moved by a map."""
        clip = move_boxes(map_, np.array([0, 0, record.width, record.height], np.float64))
        return cls(record, map_, clip, np.ones(len(record), bool), cut_out)

    def moved(self, map_: np.ndarray) -> Layer:
        """The layer in a scene that was moved."""
        return replace(self, map=after(map_, self.map), clip=move_boxes(map_, self.clip))

    def clipped(self, box: Sequence[float]) -> Layer:
        """The layer, shown inside the box alone."""
        low, high = np.maximum(self.clip[:2], box[:2]), np.minimum(self.clip[2:], box[2:])
        return replace(self, clip=np.concatenate([low, np.maximum(low, high)]))

    @property
    def drawn_size(self) -> tuple[int, int]:
        """The (height, width) that the whole image would have in the scene, before turning."""
        scales = np.abs(self.map[:, :2]).sum(axis=0)
        width, height = np.ceil(scales * (self.record.width, self.record.height))
        return int(height), int(width)

    @property
    def boxes(self) -> np.ndarray:
        """Its boxes (N, 4) in the scene, not clipped."""
        return move_boxes(self.map, self.record.boxes.astype(np.float64))

    @property
    def visible(self) -> np.ndarray:
        """Its boxes (N, 4) in the scene, clipped to what is shown. Some may be empty."""
        low = np.maximum(self.boxes[:, :2], self.clip[:2])
        high = np.minimum(self.boxes[:, 2:], self.clip[2:])
        return np.concatenate([low, np.maximum(low, high)], axis=1)


@dataclass(frozen=True)
class Scene:
    """What a training image shows.

    canvas: the (h, w) that the plan has reserved for it. size: its (h, w), at most the canvas.
    layers: from the bottom up; the rest of the scene has the mean colour. edits: functions that
    change the picture once it is drawn.
    """

    canvas: tuple[int, int]
    size: tuple[int, int]
    layers: tuple[Layer, ...]
    edits: tuple[Edit, ...] = ()

    @classmethod
    def of(cls, record: ImageRecord, canvas: tuple[int, int]) -> Scene:
        """A whole image, resized to the canvas."""
        map_ = scale_map(canvas[1] / record.width, canvas[0] / record.height)
        return cls(canvas, canvas, (Layer.of(record, map_),))

    def moved(self, map_: np.ndarray, size: tuple[int, int]) -> Scene:
        """The scene, moved by a map and clipped to a new size."""
        whole = (0, 0, size[1], size[0])
        layers = tuple(layer.moved(map_).clipped(whole) for layer in self.layers)
        return replace(self, size=size, layers=layers)

    def cropped(self, box: Sequence[float]) -> Scene:
        """The part of the scene inside a box, as large as the canvas allows."""
        left, top, right, bottom = box
        size, scale = fitted((bottom - top, right - left), self.canvas)
        return self.moved(scale_map(*scale, -left * scale[0], -top * scale[1]), size)


def fitted(
    size: tuple[float, float], canvas: tuple[int, int]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """The largest (h, w) of this shape in the canvas, and the scales (x, y) that lead to it."""
    ratio = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (max(1, min(round(s * ratio), c)) for s, c in zip(size, canvas))
    return (height, width), (width / size[1], height / size[0])
