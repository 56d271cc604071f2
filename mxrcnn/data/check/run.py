"""The check of a data set: faults, numbers, and what the anchors reach.

Annotations are read by the loaders themselves, as with --skip-bad: what they skip, drop, clip or
find inconsistent is reported. Each image is decoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mxrcnn.config import Config
from mxrcnn.data import read_annotations
from mxrcnn.data.check.faults import KINDS, Fault, alike_images, dataset_faults, empty_classes
from mxrcnn.data.check.objects import Objects, Split, count_objects, join_objects, network_objects
from mxrcnn.data.check.reach import Reach, find_reach


@dataclass(frozen=True)
class DataCheck:
    """What a check found. counts: split -> its numbers, by name."""

    config: Config
    splits: list[Split]
    faults: list[Fault]
    class_names: tuple[str, ...]
    objects: Objects
    reach: Reach
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def passed(self, strict: bool = False) -> bool:
        """True if training can start on these data; strict: only without warnings."""
        return not any(strict or fault.level == "error" for fault in self.faults)


def check_data(config: Config, imagesets: Sequence[str], progress: bool = True) -> DataCheck:
    """Check every annotation and image of some image sets, as a training with `config` uses them.

    imagesets: the one to train on comes first. Raises DataError if an image set is missing, its
    JSON is broken or no image is usable, and ConfigError for an unknown kind of data set.
    """
    data = replace(config.data, skip_bad=True)
    datasets = [read_annotations(data, name) for name in imagesets]
    class_names = tuple(dict.fromkeys(n for dataset in datasets for n in dataset.class_names))
    splits, faults = [], []
    for name, dataset in zip(imagesets, datasets):
        dataset = replace(dataset, name=name)
        prints, found = dataset_faults(dataset, config, progress)
        objects = network_objects(dataset.records, class_names, dataset.class_names, config)
        splits.append(Split(dataset, prints, objects))
        faults += found
    faults += [*empty_classes(splits, class_names), *alike_images(splits, progress)]
    every = join_objects([split.objects for split in splits])
    order = list(KINDS)
    faults.sort(key=lambda fault: order.index(fault.kind))
    counts = {split.name: count_objects(split) for split in splits}
    for split in splits if data.tile else ():
        counts[split.name]["objects in tiles, cut ones in each"] = len(split.objects)
    reach = find_reach(config, every, splits[0].objects)
    return DataCheck(config, splits, faults, class_names, every, reach, counts)
