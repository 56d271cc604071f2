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

from mxrcnn import viz
from mxrcnn.config import Config, DataConfig
from mxrcnn.data.batches import make_training_batch
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import Detections, ImageRecord
from mxrcnn.data.shown import draw_input, resized_objects, save_grid, shrunk
from mxrcnn.data.transforms import read_pixels

#: the number of images in train_batches.png, and in a row of it
IMAGES, COLUMNS = 8, 4
#: the number of images in a picture of a validation
VALIDATED = 4


def draw_train_batches(
    path: Path, config: Config, plan: TrainingPlan, names: Sequence[str], epoch: int, index: int
) -> str | None:
    """Draw the images of the batches from a place on, as the network gets them, and their objects.

    Images have their padding. Returns None, or a line that says why it was not drawn.
    """
    try:
        panes = []
        for one in itertools.islice(
            plan.stream(epoch, index), -(-IMAGES // config.train.batch_size)
        ):
            batch = make_training_batch(config, plan.capacity, one).data
            masks = batch.get("gt_masks", [None] * len(one.records))
            panes += [
                draw_input(image, rows, packed, config.data, names)
                for image, rows, packed in zip(batch["data"], batch["gt_boxes"], masks)
            ]
        save_grid(panes[:IMAGES], COLUMNS, path)
    except Exception as error:  # a bad file, a full disk, fonts: the training itself will say
        return f"{path} was not drawn: {type(error).__name__}: {error}"
    return None


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
            pixels, small = shrunk(read_pixels(record, data), record)
            size = pixels.shape[:2]
            boxes, masks = resized_objects(record, detections.boxes, detections.masks, size)
            shown = replace(detections, boxes=boxes, masks=masks, size=size)
            panes.append(viz.draw_comparison(pixels, small, shown, names))
        save_grid(panes, 1, path)
    except Exception as error:
        return f"{path} was not drawn: {type(error).__name__}: {error}"
    return None
