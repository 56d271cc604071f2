"""Pictures of a training run: what the network is given, and what it finds at validations.

They are small and show few images. On one core train_batches.png takes 0.6 s for images of 600 x
800, 2 s with masks and mosaics of 800 x 1088, and a picture of a validation 0.1 to 0.2 s. A failure
is reported but never stops the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mxrcnn import viz
from mxrcnn.config import Config, DataConfig
from mxrcnn.data.batches import Batch, make_training_batch
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import Dataset, Detections, ImageRecord
from mxrcnn.data.transforms import read_pixels
from mxrcnn.data.transforms.scene import move_boxes, move_mask, scale_map
from mxrcnn.files import atomic_write
from symnet.geometry.masks import encode, paste, unpack
from symnet.geometry.targets import REGION

#: the number of images in a picture, and the longer side of each in pixels
IMAGES, SIDE, COLUMNS = 8, 480, 4


def draw_train_batches(
    path: Path, config: Config, plan: TrainingPlan, names: Sequence[str], epoch: int, index: int
) -> str | None:
    """Draw the images of the batches from a place on, as the network gets them, and their objects.

    Ignore regions are dashed. Returns None, or a line that says why it was not drawn.
    """
    try:
        count = -(-IMAGES // config.train.batch_size)
        plans = itertools.islice(plan.stream(epoch, index), min(count, IMAGES))
        panes = []
        for one in plans:
            batch = make_training_batch(config, plan.capacity, one)
            for place in range(len(batch.image_ids)):
                panes.append(_given(batch, place, config.data, names))
        _save(_grid(panes[:IMAGES], COLUMNS), path)
    except Exception as error:  # a bad file, a full disk, fonts: the training itself will say
        return f"{path} was not drawn: {type(error).__name__}: {error}"
    return None


def _given(batch: Batch, place: int, data: DataConfig, names: Sequence[str]) -> Image.Image:
    """An image of a batch, with its padding, and its objects."""
    image = batch.data["data"][place].transpose(1, 2, 0)
    pixels = np.round(image * np.float32(data.std) + np.float32(data.mean)).clip(0, 255)
    height, width = pixels.shape[:2]
    rows = batch.data["gt_boxes"][place]
    there = rows[:, 4] != -1  # -1: rows without an object
    boxes, classes = rows[there, :4], rows[there, 4].astype(np.int64)
    masks = None
    if "gt_masks" in batch.data:
        bits = unpack(batch.data["gt_masks"][place][: len(boxes)], data.mini_mask or width)
        if data.mini_mask:
            bits = [mask >= 0.5 for mask in paste(bits, boxes, height, width)]
        masks = tuple(encode(mask) for mask in bits)
    region = classes == REGION
    never = np.zeros(len(boxes), bool)
    record = ImageRecord(
        *(batch.image_ids[place], Path(), height, width, boxes),
        *(np.where(region, len(names) + 1, classes), never, region, never),
        *(np.zeros(len(boxes), np.float32), masks),
    )
    small = _small(pixels.astype(np.uint8), record)
    return viz.draw_ground_truth(*small, [*names, "ignored"])


def chosen_for_pictures(dataset: Dataset, count: int = IMAGES // 2) -> list[ImageRecord]:
    """The images to show at validations: evenly spread over those with objects, or over all."""
    usable = [record for record in dataset.records if len(record)] or dataset.records
    places = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return [usable[place] for place in places]


def draw_validation(
    path: Path,
    found: Sequence[tuple[ImageRecord, Detections]],
    names: Sequence[str],
    data: DataConfig,
) -> str | None:
    """Draw ground truth and detections of some images side by side.

    Returns None, or a line that says why it was not drawn.
    """
    try:
        panes = []
        for record, detections in found:
            pixels, small = _small(read_pixels(record, data), record)
            moved = _moved(record, detections.boxes, detections.masks, pixels.shape[:2])
            shown = replace(detections, boxes=moved[0], masks=moved[1], size=pixels.shape[:2])
            panes.append(viz.draw_comparison(pixels, small, shown, names))
        _save(_grid(panes, 1), path)
    except Exception as error:
        return f"{path} was not drawn: {type(error).__name__}: {error}"
    return None


def _small(pixels: np.ndarray, record: ImageRecord) -> tuple[np.ndarray, ImageRecord]:
    """Pixels (H, W, 3) uint8 and their record, resized to a side of at most SIDE."""
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    boxes, masks = _moved(record, record.boxes, record.masks, (height, width))
    small = replace(record, height=height, width=width, boxes=boxes, masks=masks)
    return np.asarray(image), small


def _moved(
    record: ImageRecord, boxes: np.ndarray, masks: Sequence | None, size: tuple[int, int]
) -> tuple[np.ndarray, tuple | None]:
    """Boxes (N, 4) and masks of a record's image in its copy of another size."""
    map_ = scale_map(size[1] / record.width, size[0] / record.height)
    stored = record.height, record.width
    if masks is not None:
        masks = tuple(m and encode(move_mask(map_, m, stored, size)) for m in masks)
    return move_boxes(map_, boxes).astype(np.float32), masks


def _grid(panes: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures side by side, in rows."""
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
    return out


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        image.save(file, "PNG" if path.suffix == ".png" else "JPEG")
