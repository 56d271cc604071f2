"""Transforms that move a picture: mirror, rotation, scale jitter, zoom-out, IoU crop.

Each is a frozen dataclass whose fields are its parameters, and a function of a scene and a
generator. The scene that it returns fits the same canvas, so batches keep their few shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mxrcnn.data.records import ImageRecord
from mxrcnn.data.transforms.scene import Scene, fitted, scale_map
from symnet.config.ranges import SHARE, Range
from symnet.geometry.boxes import iou

#: two scales, the smaller first
SCALES = Range(0, 16, above=True, count=2)


@dataclass(frozen=True)
class Transform:
    """The base of all transforms.

    partners: other images that it needs. RANGES: the allowed values of its parameters.
    """

    partners: ClassVar[int] = 0
    RANGES: ClassVar[Mapping[str, Range]] = {}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        """The scene, changed. partners: as many records as the class asks for."""
        raise NotImplementedError


def mirrored(scene: Scene, across: bool = True) -> Scene:
    """The scene's mirror image: left and right exchanged, or, if not `across`, top and bottom."""
    height, width = scene.size
    map_ = scale_map(-1, 1, width) if across else scale_map(1, -1, 0, height)
    return scene.moved(map_, scene.size)


@dataclass(frozen=True)
class Mirror(Transform):
    """Mirror with probability p, and top to bottom with probability `vertical`.

    torchvision: RandomHorizontalFlip, RandomVerticalFlip.
    """

    p: float = 0.5
    vertical: float = 0.0
    RANGES: ClassVar = {"p": SHARE, "vertical": SHARE}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        across, upside = rng.random(2) < (self.p, self.vertical)
        scene = mirrored(scene) if across else scene
        return mirrored(scene, across=False) if upside else scene


@dataclass(frozen=True)
class Rotate90(Transform):
    """Turn by 90, 180 or 270 degrees with probability p, and fit the canvas again.

    With the default all four ways up are equally likely.
    """

    p: float = 0.75
    RANGES: ClassVar = {"p": SHARE}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        wanted, quarters = rng.random() < self.p, rng.integers(1, 4)
        for _ in range(quarters if wanted else 0):
            height, width = scene.size
            scene = scene.moved(np.array([[0, -1, height], [1, 0, 0]], np.float64), (width, height))
        height, width = scene.size
        return scene.cropped((0, 0, width, height)) if wanted else scene


@dataclass(frozen=True)
class ScaleJitter(Transform):
    """Resize by a factor drawn from `scale`, then crop what is outside the canvas.

    torchvision: ScaleJitter and FixedSizeCrop, large-scale jitter (Ghiasi 2021). A smaller picture
    is at the top left, and not filled up: the batch pads it.
    """

    scale: tuple[float, ...] = (0.1, 2.0)
    RANGES: ClassVar = {"scale": SCALES}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        ratio = rng.uniform(*self.scale)
        (height, width), _ = fitted(scene.size, scene.canvas)
        wanted = max(1, round(height * ratio)), max(1, round(width * ratio))
        scale = wanted[1] / scene.size[1], wanted[0] / scene.size[0]
        size = min(wanted[0], scene.canvas[0]), min(wanted[1], scene.canvas[1])
        top, left = (int(rng.integers(0, w - s + 1)) for w, s in zip(wanted, size))
        return scene.moved(scale_map(*scale, -left, -top), size)


@dataclass(frozen=True)
class ZoomOut(Transform):
    """With probability p, put the picture somewhere into a larger one of the mean colour.

    side_range: how much larger its sides are. torchvision: RandomZoomOut.
    """

    p: float = 0.5
    side_range: tuple[float, ...] = (1.0, 4.0)
    RANGES: ClassVar = {"p": SHARE, "side_range": Range(1, 16, count=2)}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        wanted, ratio, place = rng.random(), rng.uniform(*self.side_range), rng.random(2)
        if wanted >= self.p:
            return scene
        size, _ = fitted(scene.size, scene.canvas)
        inner = [max(1, round(side / ratio)) for side in size]
        top, left = (int((s - i) * p) for s, i, p in zip(size, inner, place))
        scale = inner[1] / scene.size[1], inner[0] / scene.size[0]
        return scene.moved(scale_map(*scale, left, top), size)


@dataclass(frozen=True)
class IouCrop(Transform):
    """With probability p, crop a part in which some object's IoU with the crop is large enough.

    The least IoU is drawn from sampler_options; 1 or more keeps the whole picture. Objects whose
    centre is outside the crop are left out. torchvision: RandomIoUCrop; SSD (Liu 2016), 2.2.
    """

    p: float = 1.0
    min_scale: float = 0.3
    max_scale: float = 1.0
    min_aspect_ratio: float = 0.5
    max_aspect_ratio: float = 2.0
    sampler_options: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    trials: int = 40
    RANGES: ClassVar = {
        **dict.fromkeys(("p", "sampler_options"), SHARE),
        **dict.fromkeys(("min_scale", "max_scale"), Range(0.05, 1)),
        **dict.fromkeys(("min_aspect_ratio", "max_aspect_ratio"), Range(0, 20, above=True)),
        "trials": Range(1, 1000),
    }

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        boxes = np.concatenate([layer.visible[layer.keep] for layer in scene.layers])
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        if rng.random() >= self.p or not len(boxes):
            return scene
        while True:
            least = self.sampler_options[rng.integers(len(self.sampler_options))]
            if least >= 1:
                return scene
            crop = self._crop(scene.size, boxes, least, rng)
            if crop is not None:
                layers = tuple(
                    replace(layer, keep=layer.keep & _centred(layer.visible, crop))
                    for layer in scene.layers
                )
                return replace(scene, layers=layers).cropped(crop)
            if 1 not in self.sampler_options:
                return scene  # torchvision would try for ever

    def _crop(
        self, size: tuple[int, int], boxes: np.ndarray, least: float, rng: np.random.Generator
    ) -> np.ndarray | None:
        """The first of some random crops (4,) that fits, or None."""
        height, width = size
        sides = rng.uniform(self.min_scale, self.max_scale, (self.trials, 2)) * (width, height)
        sides = np.maximum(np.floor(sides), 1)
        corner = np.floor(rng.random((self.trials, 2)) * ((width, height) - sides))
        crops = np.concatenate([corner, corner + sides], axis=1)
        aspect = sides[:, 0] / sides[:, 1]
        fits = (aspect >= self.min_aspect_ratio) & (aspect <= self.max_aspect_ratio)
        inside = np.stack([_centred(boxes, crop) for crop in crops])
        overlap = np.where(inside, iou(crops, boxes), -1).max(axis=1)
        found = np.flatnonzero(fits & inside.any(axis=1) & (overlap >= least))
        return crops[found[0]] if len(found) else None


def _centred(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) have their centre inside the crop: (N,) bool."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > crop[:2]) & (centres < crop[2:])).all(axis=1)
