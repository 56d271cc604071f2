"""Pictures of network inputs and of data sets, drawn small: photos, their objects, and grids.

Letters: N objects, H, W an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mxrcnn import viz
from mxrcnn.config import DataConfig
from mxrcnn.data.records import Dataset, ImageRecord
from mxrcnn.data.transforms.scene import move_boxes, move_mask, scale_map
from mxrcnn.files import atomic_write
from symnet.geometry.masks import encode, paste, unpack
from symnet.geometry.targets import REGION

#: the longer side of an image in a picture, in pixels
SIDE = 480


def draw_input(
    image: np.ndarray,
    rows: np.ndarray,
    packed: np.ndarray | None,
    data: DataConfig,
    names: Sequence[str],
    side: int = SIDE,
) -> Image.Image:
    """A network image (3, H, W) float32 as a photo with its objects; ignore regions are dashed.

    rows (N, 5): xyxy and class, as in `Sample.gt_boxes`; -1 is no object. packed: their masks, as
    in `Sample.gt_masks`, or None.
    """
    pixels = image.transpose(1, 2, 0) * np.float32(data.std) + np.float32(data.mean)
    height, width = pixels.shape[:2]
    there = np.flatnonzero(rows[:, 4] != -1)
    boxes, classes = rows[there, :4], rows[there, 4].astype(np.int64)
    masks = None
    if packed is not None:
        bits = unpack(packed[there], data.mini_mask or width)
        if data.mini_mask:
            bits = [mask >= 0.5 for mask in paste(bits, boxes, height, width)]
        masks = tuple(encode(mask) for mask in bits)
    region, never = classes == REGION, np.zeros(len(boxes), bool)
    record = ImageRecord(
        *("", Path(), height, width, boxes, np.where(region, len(names) + 1, classes)),
        *(never, region, never, np.zeros(len(boxes), np.float32), masks),
    )
    pixels = np.round(pixels).clip(0, 255).astype(np.uint8)
    return viz.draw_ground_truth(*shrunk(pixels, record, side), [*names, "ignored"])


def representative(dataset: Dataset, count: int) -> list[ImageRecord]:
    """Some images, evenly spread over those with objects, or over all if none has any."""
    usable = [record for record in dataset.records if len(record)] or dataset.records
    places = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return [usable[place] for place in places]


def shrunk(
    pixels: np.ndarray, record: ImageRecord, side: int = SIDE
) -> tuple[np.ndarray, ImageRecord]:
    """Pixels (H, W, 3) uint8 and their record, resized to a longer side of at most `side`."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    boxes, masks = resized_objects(record, record.boxes, record.masks, (height, width))
    small = replace(record, height=height, width=width, boxes=boxes, masks=masks)
    return np.asarray(image), small


def resized_objects(
    record: ImageRecord, boxes: np.ndarray, masks: Sequence | None, size: tuple[int, int]
) -> tuple[np.ndarray, tuple | None]:
    """Boxes (N, 4) and masks of a record's image in its copy of another (height, width)."""
    map_ = scale_map(size[1] / record.width, size[0] / record.height)
    stored = record.height, record.width
    if masks is not None:
        masks = tuple(m and encode(move_mask(map_, m, stored, size)) for m in masks)
    return move_boxes(map_, boxes).astype(np.float32), masks


def save_grid(panes: Sequence[Image.Image], columns: int, path: Path) -> None:
    """Write pictures side by side, in rows, as PNG or JPEG by the path's ending."""
    rows = [panes[start : start + columns] for start in range(0, len(panes), columns)]
    heights = [max(pane.height for pane in row) for row in rows]
    out = Image.new("RGB", (max(sum(p.width for p in row) for row in rows), sum(heights)))
    top = 0
    for row, height in zip(rows, heights):
        left = 0
        for pane in row:
            out.paste(pane, (left, top))
            left += pane.width
        top += height
    with atomic_write(path, "wb") as file:
        out.save(file, "PNG" if path.suffix == ".png" else "JPEG", quality=85)
