"""Transforms that put other images of the data set into a scene: mosaic and copy-paste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from mxrcnn.data.records import ImageRecord
from mxrcnn.data.transforms.place import SCALES, Transform
from mxrcnn.data.transforms.scene import Layer, Scene, after, fitted, scale_map
from symnet.config.ranges import SHARE


@dataclass(frozen=True)
class Mosaic(Transform):
    """With probability p, show four images around a point, as ultralytics' YOLO does.

    Each image fits the canvas, and the point is in the middle half of the four. The view has the
    canvas' size: `scale` times the pixels, shifted by up to `translate` of its sides.
    """

    p: float = 1.0
    scale: tuple[float, ...] = (0.5, 1.5)
    translate: float = 0.1
    partners: ClassVar = 3
    RANGES: ClassVar = {"p": SHARE, "scale": SCALES, "translate": SHARE}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        wanted, ratio = rng.random() < self.p, rng.uniform(*self.scale)
        shift = 0.5 + rng.uniform(-self.translate, self.translate, 2)
        centre = rng.uniform(0.5, 1.5, 2)
        if not wanted:
            return scene
        sides = np.array(scene.canvas[::-1], np.float64)
        view = scale_map(ratio, ratio, *(sides * (shift - ratio)))  # the middle, (1, 1), to `shift`

        def place(corner: int, size: tuple[int, int]) -> np.ndarray:
            """The map of a picture of a size that fits the canvas, to one of the four corners."""
            (height, width), scale = fitted(size, scene.canvas)
            left, top = centre * sides - (width * (corner % 2 == 0), height * (corner < 2))
            return after(view, scale_map(*scale, left, top))

        height, width = scene.canvas
        first = scene.moved(place(0, scene.size), scene.canvas)
        others = tuple(
            Layer.of(other, place(corner, (other.height, other.width))).clipped(
                (0, 0, width, height)
            )
            for corner, other in enumerate(partners, 1)
        )
        return replace(first, layers=first.layers + others)


@dataclass(frozen=True)
class CopyPaste(Transform):
    """With probability p, paste some of another image's objects, cut out along their masks.

    Each object is taken with a chance of one half, at least one. The other image fits the picture,
    resized by a factor drawn from `scale`, and lies anywhere in it. Objects below lose what is
    covered. Simple copy-paste (Ghiasi 2021), without blending, which that paper found needless.
    """

    p: float = 0.5
    scale: tuple[float, ...] = (0.5, 1.5)
    partners: ClassVar = 1
    RANGES: ClassVar = {"p": SHARE, "scale": SCALES}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        wanted, ratio, place = rng.random() < self.p, rng.uniform(*self.scale), rng.random(2)
        (other,) = partners
        masks = other.masks or (None,) * len(other)
        there = np.array([mask is not None for mask in masks], bool)
        usable = np.flatnonzero(there & ~other.crowd & ~other.difficult)
        taken = rng.random(len(usable)) < 0.5
        if not wanted or not len(usable):
            return scene
        taken[rng.integers(len(usable))] = True
        (height, width), scale = fitted((other.height, other.width), scene.size)
        free = np.array(scene.size[::-1]) - (width * ratio, height * ratio)
        map_ = scale_map(scale[0] * ratio, scale[1] * ratio, *(free * place))
        layer = Layer.of(only(other, usable[taken]), map_, cut_out=True)
        layer = layer.clipped((0, 0, scene.size[1], scene.size[0]))
        return replace(scene, layers=(*scene.layers, layer))


def only(record: ImageRecord, objects: np.ndarray) -> ImageRecord:
    """The record with some of its objects: indices (K,)."""
    arrays = {
        field.name: getattr(record, field.name)[objects]
        for field in fields(record)
        if isinstance(getattr(record, field.name), np.ndarray)
    }
    masks = None if record.masks is None else tuple(record.masks[i] for i in objects)
    return replace(record, masks=masks, **arrays)
