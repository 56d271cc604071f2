"""Transforms of a picture's colours and sharpness. They change pixels and leave objects alone.

They run after the picture is drawn, on at most as many pixels as the network sees.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFilter

from mxrcnn.data.records import ImageRecord
from mxrcnn.data.transforms.place import SCALES, Transform
from mxrcnn.data.transforms.scene import Edit, Scene
from symnet.config.ranges import SHARE, Range

#: the share of red, green and blue in grey (ITU-R 601), and the axes of colour beside it (YIQ)
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


def _edited(scene: Scene, edit: Edit) -> Scene:
    return replace(scene, edits=(*scene.edits, edit))


@dataclass(frozen=True)
class Photometric(Transform):
    """Change brightness, contrast, saturation and hue by random factors, each with probability p.

    torchvision: RandomPhotometricDistort, without its exchange of colour channels. All four are one
    matrix, which makes them cheap; so nothing is rounded or clipped in between, and hue turns in
    YIQ, as in MXNet's HueJitterAug, not in HSV. A hue of 1 is a full turn.
    """

    p: float = 0.5
    brightness: tuple[float, ...] = (0.875, 1.125)
    contrast: tuple[float, ...] = (0.5, 1.5)
    saturation: tuple[float, ...] = (0.5, 1.5)
    hue: tuple[float, ...] = (-0.05, 0.05)
    RANGES: ClassVar = {
        **dict.fromkeys(("brightness", "contrast", "saturation"), Range(0, 16, count=2)),
        "hue": Range(-0.5, 0.5, count=2),
        "p": SHARE,
    }

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        values = [rng.uniform(*range_) for range_ in ranges]
        on = rng.random(4) < self.p
        brightness, contrast, saturation, hue = np.where(on, values, (1, 1, 1, 0)).tolist()
        first = bool(rng.random() < 0.5)  # contrast before saturation and hue, or after
        if not on.any():
            return scene
        return _edited(
            scene, partial(recoloured, brightness, contrast, saturation, hue, contrast_first=first)
        )


def recoloured(
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    image: Image.Image,
    contrast_first: bool = True,
) -> Image.Image:
    """An image with other colours; see `Photometric`."""
    grey = _YIQ[0]
    turn = np.eye(3)
    cos, sin = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    turn[1:, 1:] = [[cos, -sin], [sin, cos]]
    colours = np.linalg.inv(_YIQ) @ turn @ _YIQ
    colours = colours @ (saturation * np.eye(3) + (1 - saturation) * grey)
    # contrast scales around the mean grey, which saturation and hue do not change
    mean = brightness * (np.asarray(image.reduce(8)).reshape(-1, 3).mean(axis=0) @ grey)
    shift = np.full(3, (1 - contrast) * mean)
    matrix = brightness * contrast * colours
    shift = colours @ shift if contrast_first else shift
    table = np.column_stack([matrix, shift]).ravel().tolist()
    return image.convert("RGB", tuple(table))


@dataclass(frozen=True)
class Blur(Transform):
    """With probability p, blur by a Gaussian whose standard deviation is drawn from sigma, in px.

    torchvision: GaussianBlur.
    """

    p: float = 0.5
    sigma: tuple[float, ...] = (0.1, 2.0)
    RANGES: ClassVar = {"p": SHARE, "sigma": SCALES}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        wanted, sigma = rng.random() < self.p, rng.uniform(*self.sigma)
        return _edited(scene, partial(blurred, sigma)) if wanted else scene


def blurred(sigma: float, image: Image.Image) -> Image.Image:
    """An image, blurred."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


@dataclass(frozen=True)
class Jpeg(Transform):
    """With probability p, store as JPEG with a quality drawn from `quality`. torchvision: JPEG."""

    p: float = 0.5
    quality: tuple[int, ...] = (30, 95)
    RANGES: ClassVar = {"p": SHARE, "quality": Range(1, 95, count=2)}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        low, high = self.quality
        wanted, quality = rng.random() < self.p, int(rng.integers(low, high + 1))
        return _edited(scene, partial(compressed, quality)) if wanted else scene


def compressed(quality: int, image: Image.Image) -> Image.Image:
    """An image after JPEG compression."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
