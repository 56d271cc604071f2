"""The images that a run validates on: a side of its split, another data set, or an image set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.records import DataError, Dataset
from mxrcnn.data.split import Split, make_split, read_split, shares_of

#: the file of a run's split in its folder
FILE_NAME = "split.json"


@dataclass(frozen=True)
class Divided:
    """The images of a run whose training images are split, and their split.

    made: True if the split is new and not stored yet.
    """

    whole: Dataset
    split: Split
    made: bool

    def side(self, name: str) -> Dataset:
        """The images of one side."""
        return self.split.take(self.whole, name)


def divide(
    data: DataConfig,
    run: Path,
    stored: bool,
    progress: bool = True,
    read: Dataset | None = None,
) -> Divided:
    """Open the images that `data.val_share` divides. read: as in `open_dataset`.

    stored: take the split in the run folder. If a run was stopped before it wrote one, the split is
    made again, which gives the same. Raises DataError, also if the stored split does not fit the
    images, and ConfigError if a side would be empty.
    """
    whole = open_dataset(data, data.imageset, run / DECODED, read)
    if stored and (run / FILE_NAME).exists():
        return Divided(whole, read_split(run / FILE_NAME), False)
    split = make_split(whole, data, shares_of(data.val_share), data.split_seed, progress)
    return Divided(whole, split, True)


def training_images(data: DataConfig, run: Path) -> Dataset:
    """The images that a run was trained on; raises as `open_dataset` and `Split.take` do."""
    if data.val_share:
        return divide(data, run, stored=True).side("train")
    return open_dataset(data, data.imageset, run / DECODED)


def has_validation(data: DataConfig) -> bool:
    """True if there are images to validate on."""
    return bool(data.val_share or data.val_imageset)


def validation_name(data: DataConfig) -> str:
    """A short name of the images to validate on: `val`, or the image set's."""
    return "val" if data.val_share or data.val_dataset else data.val_imageset


def validation_images(data: DataConfig, run: Path) -> Dataset:
    """The images that a run validates on, with the run's classes.

    data: a run's settings, with class names. Raises as `open_dataset` and `Split.take` do, and
    DataError if another data set has objects of other classes.
    """
    if data.val_share:
        return divide(data, run, stored=True).side("val")
    if not data.val_dataset:
        return open_dataset(data, data.val_imageset, run / DECODED)
    where = {"dataset": data.val_dataset, "root": data.val_root, "images": data.val_images}
    other = replace(data, **where, class_names=("auto",))
    dataset = open_dataset(other, data.val_imageset, run / f"val_{DECODED}")
    return with_classes_of(dataset, data.class_names, Path(data.val_root))


def with_classes_of(dataset: Dataset, class_names: tuple[str, ...], where: Path) -> Dataset:
    """The data set with other class names: classes are matched by name.

    Classes without objects may be missing on either side. Raises DataError, with both lists, for
    objects of a class that has no equal name. where: the data set's folder, for the error.
    """
    own = dataset.class_names
    used = {k for record in dataset.records for k in record.classes.tolist()}
    strange = [name for k, name in enumerate(own, 1) if k in used and name not in class_names]
    if strange:
        raise DataError(
            where,
            f"{dataset.name} has objects of {', '.join(strange)}, which is not trained on.\n"
            f"  classes to train on: {', '.join(class_names)}\n  its classes: {', '.join(own)}\n"
            "Classes must have equal names",
        )
    if own == class_names:
        return dataset
    number = {name: k for k, name in enumerate(class_names, 1)}
    index = np.array([0, *(number.get(name, 0) for name in own)], np.int64)
    records = []
    for record in dataset.records:
        active = record.active_classes
        if active is not None:
            active = tuple(sorted({0, *index[list(active)].tolist()}))
        records.append(replace(record, classes=index[record.classes], active_classes=active))
    changed = {"class_names": class_names, "records": tuple(records)}
    return replace(dataset, **changed, category_ids=None, annotation_file=None)
