"""Batches: the arrays that a plan's images become, by the names of the graph's inputs.

Letters: B images of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mxrcnn.config import Config, DataConfig
from mxrcnn.data.plans import AUGMENT, BatchPlan, with_regions
from mxrcnn.data.records import ImageId, ImageRecord
from mxrcnn.data.transforms import (
    Augmentation,
    Sample,
    augmented_sample,
    load_sample,
    stack_images,
    stack_masks,
)
from symnet import get_detector
from symnet.detector import ImageTargetsInput
from symnet.geometry.targets import pad_objects


@dataclass(frozen=True)
class Batch:
    """Arrays by the graph's input names, and the batch's identity, which stays on the host.

    left_out: how many objects the augmentation left out, by reason.
    """

    epoch: int
    index: int
    image_ids: tuple[ImageId, ...]
    data: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    left_out: Counter[str] = field(default_factory=Counter)


def make_training_batch(config: Config, capacity: int, plan: BatchPlan) -> Batch:
    """Decode, augment and transform the images of one batch, and assign targets.

    capacity: rows of gt_boxes. With data.masks there are also `gt_masks`, see `stack_masks`, and
    `active_classes` (B, num_classes) float32: 1 for the classes that an image is annotated for.
    Raises DataError as `load_sample` does.
    """
    detector = get_detector(config.network)
    samples, left_out = _training_samples(config, capacity, plan)
    targets = [
        detector.assign_targets(
            config.model,
            ImageTargetsInput(sample.gt_boxes, sample.size, plan.size),
            np.random.default_rng(seed),
        )
        for sample, seed in zip(samples, plan.seeds)
    ]
    objects = {"gt_boxes": pad_objects([sample.gt_boxes for sample in samples], capacity)}
    if config.data.masks:
        size = (config.data.mini_mask,) * 2 if config.data.mini_mask else plan.size
        objects["gt_masks"] = stack_masks(samples, capacity, size)
        objects["active_classes"] = _active_classes(plan.records, config.model.num_classes)
    labels = {name: np.stack([target[name] for target in targets]) for name in detector.label_names}
    return replace(_batch(plan, samples, objects, labels), left_out=left_out)


def _training_samples(
    config: Config, capacity: int, plan: BatchPlan
) -> tuple[list[Sample], Counter[str]]:
    """The images of a batch, augmented, and how many objects were left out, by reason."""
    data = config.data
    augmentation = Augmentation.of(data)
    if plan.short_side:
        data = replace(data, short_side=plan.short_side)
    samples, left_out = [], Counter()
    partners = plan.partners or ((),) * len(plan.records)
    for record, flip, seed, others in zip(plan.records, plan.flips, plan.seeds, partners):
        rng = np.random.default_rng((*seed, *AUGMENT))
        sample, out = augmented_sample(
            augmentation, data, record, flip, others, rng, with_regions(config), capacity
        )
        samples.append(sample)
        left_out += out
    return samples, left_out


def training_shapes(
    config: Config, capacity: int, size: tuple[int, int]
) -> dict[str, tuple[tuple[int, ...], type]]:
    """Name -> (shape, type) of the data arrays of one pass, of images of that padded size."""
    images = config.train.batch_size
    height, width = (config.data.mini_mask,) * 2 if config.data.mini_mask else size
    return {
        "data": ((images, 3, *size), np.float32),
        "im_info": ((images, 3), np.float32),
        "gt_boxes": ((images, capacity, 5), np.float32),
        "gt_masks": ((images, capacity, height, -(-width // 8)), np.uint8),
        "active_classes": ((images, config.model.num_classes), np.float32),
    }


def _active_classes(records: Sequence[ImageRecord], num_classes: int) -> np.ndarray:
    """(B, num_classes) float32: 1 for each record's active classes."""
    active = np.ones((len(records), num_classes), np.float32)
    for row, record in zip(active, records):
        if record.active_classes is not None:
            row[:] = 0
            row[list(record.active_classes)] = 1
    return active


def make_test_batch(data: DataConfig, plan: BatchPlan) -> Batch:
    """Decode and transform the images of one batch. No masks are loaded; see `load_sample`.

    Large JPEGs are decoded at reduced size, as when images are predicted.

    Raises DataError as `load_sample` does.
    """
    data = replace(data, masks=False)
    return _batch(
        plan, [load_sample(record, data, reduced=True) for record in plan.records], {}, {}
    )


def _batch(
    plan: BatchPlan,
    samples: list[Sample],
    more_data: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
) -> Batch:
    images = {
        "data": stack_images(samples, plan.size),
        "im_info": np.stack([sample.im_info for sample in samples]),
    }
    ids = tuple(record.image_id for record in plan.records)
    return Batch(plan.epoch, plan.index, ids, {**images, **more_data}, labels)
