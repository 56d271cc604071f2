"""Try augmentations on a data set: a picture of each, and the time that it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mxrcnn.config import DataConfig
from mxrcnn.data.records import Dataset, ImageRecord
from mxrcnn.data.shown import draw_input, representative, save_grid
from mxrcnn.data.transforms import Augmentation, Sample, augmented_sample, expand
from mxrcnn.data.transforms.augment import PRESETS, TRANSFORMS
from mxrcnn.tables import aligned

#: the images that costs are measured on, and how often; the least time of each counts
IMAGES, REPEATS = 12, 3
#: variants in a picture, and the longer side of each
VARIANTS, SIDE = 3, 260


def all_items(masks: bool) -> tuple[str, ...]:
    """Each transform alone, always applied, and the presets."""
    items = []
    for name, kind in TRANSFORMS.items():
        always = ":p=1" if "p" in kind.__dataclass_fields__ else ""
        if name != "short_sides" and (masks or name != "copy_paste"):  # the plan draws short sides
            items.append(name + always)
    return (*items, *PRESETS)


def _sample(
    augmentation: Augmentation, data: DataConfig, dataset: Dataset, record: ImageRecord, seed: int
) -> Sample:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(dataset), augmentation.partners)
    partners = [dataset[i] for i in chosen]
    return augmented_sample(augmentation, data, record, False, partners, rng)[0]


def _each(items: Iterable[str], data: DataConfig) -> dict[str, tuple[Augmentation, DataConfig]]:
    """Item -> its augmentation, and the settings with it. Raises ConfigError for bad items."""
    found = {}
    for item in items:
        one = replace(data, augment=expand((item,), data.masks))
        found[item] = Augmentation.of(one), one
    return found


def draw_each(items: Sequence[str], data: DataConfig, dataset: Dataset, folder: Path) -> list[Path]:
    """Write FOLDER/NAME.jpg for each item: an image of the data set in three random variants."""
    record = representative(dataset, 1)[0]
    paths = []
    for item, (augmentation, one) in _each(items, data).items():
        samples = [_sample(augmentation, one, dataset, record, seed) for seed in range(VARIANTS)]
        panes = [
            draw_input(s.image, s.gt_boxes, s.gt_masks, one, dataset.class_names, 2 * SIDE).reduce(
                2
            )
            for s in samples
        ]
        paths.append(folder / f"{item.partition(':')[0]}.jpg")
        save_grid(panes, VARIANTS, paths[-1])
    return paths


def measure(items: Sequence[str], data: DataConfig, dataset: Dataset) -> dict[str, float]:
    """CPU seconds an image of each item, and of "none": decoding, transforms, normalising, masks.

    The items take turns, and the least of several times counts, so that other work on the machine
    disturbs little. Shows a progress bar.
    """
    records = representative(dataset, IMAGES)
    each = _each(dict.fromkeys(["none", *items]), data)
    least = dict.fromkeys(each, 0.0)
    for seed, record in enumerate(tqdm(records, desc="measuring", unit="image")):
        for item, (augmentation, one) in each.items():
            times = []
            for _ in range(REPEATS):
                start = time.process_time()
                _sample(augmentation, one, dataset, record, seed)
                times.append(time.process_time() - start)
            least[item] += min(times) / len(records)
    return least


def table(seconds: Mapping[str, float]) -> str:
    """The times of `measure` in milliseconds, and how much more each takes than "none"."""
    rows = [("", "ms an image", "more than none")]
    for item, value in seconds.items():
        rows.append((item, f"{1000 * value:.1f}", f"{1000 * (value - seconds['none']):+.1f}"))
    return aligned(rows, rule=True)
