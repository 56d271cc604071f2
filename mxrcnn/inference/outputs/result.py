"""What a writer gets: the detections of one image, and where and how to write them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_masks

from mxrcnn.data.records import Detections, ImageId
from mxrcnn.files import safe_name
from mxrcnn.inference.outputs.polygons import join_rings, outlines


@dataclass(frozen=True)
class Result:
    """The detections of one image.

    name: of the image, as in Source. stem: a path for its files, without suffix, unlike that of any
    other image. image_id: its id in COCO's form. found: with class_names and size. pixels
    (H, W, 3) uint8 RGB: the image of `found`; only pictures and crops need it.
    """

    name: str
    stem: str
    image_id: ImageId
    found: Detections
    pixels: np.ndarray | None = None

    @cached_property
    def outlines(self) -> list[list[np.ndarray]]:
        """The polygons of each object's mask, a ring (K, 2) for each part; see `outlines`."""
        return outlines(self.found)

    @cached_property
    def rings(self) -> list[np.ndarray]:
        """Each object's mask as one ring (K, 2), for formats without parts; see `join_rings`."""
        return list(map(join_rings, self.outlines))

    @property
    def empty_masks(self) -> int:
        """The number of objects whose mask is empty; formats with outlines have their boxes."""
        masks = self.found.masks or ()
        return sum(int(coco_masks.area(mask)) == 0 for mask in masks)


@dataclass(frozen=True)
class Output:
    """Where and how to write.

    category_ids: of classes 1, 2, ..., in COCO's form; None: 1, 2, ... numbered: whether image ids
    count from 1, so that a file must say which is which. yolo_scores: a sixth number in YOLO's
    lines. image_url: what Label Studio puts before an image's name. model: its name in there.
    polygons: masks as polygons in all formats that have them; else as RLE in COCO's and CVAT's.
    """

    folder: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None = None
    numbered: bool = True
    yolo_scores: bool = False
    image_url: str = "/data/local-files/?d="
    model: str = "mxrcnn"
    polygons: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """The category id of each class."""
        return self.category_ids or tuple(range(1, len(self.class_names) + 1))


Writer = Callable[[Result], None]


class Names:
    """Makes paths for the files of images: safe, without suffix, and each only once.

    A second image of the same stem gets `~2`. Names that differ only in case count as the same.
    `renamed` counts them.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self.renamed = 0

    def stem(self, name: str) -> str:
        """The path for an image's files, such as `day1/a` for `day1/a.jpg`."""
        *folders, last = name.split("/")
        parts = [*folders, os.path.splitext(last)[0]]
        plain = "/".join(safe_name(part) if part.strip(".") else f"%{part}" for part in parts)
        stem, count = plain, 1
        while stem.casefold() in self._taken:
            count += 1
            stem = f"{plain}~{count}"
        self.renamed += stem != plain
        self._taken.add(stem.casefold())
        return stem
