"""The data set to convert: all of its image sets, read with one list of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.detect import Found
from mxrcnn.data.records import DataError, DataNotes, Dataset, ImageRecord

#: kinds whose files declare no classes: their names are sorted
SORTED = ("voc", "labelimg", "labelme", "csv")


@dataclass(frozen=True)
class Source:
    """A data set as read. sets: image set -> its records, whose classes are those of class_names.

    category_ids: COCO's, if all image sets have the same. notes: of all image sets.
    """

    data: DataConfig
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    sets: dict[str, tuple[ImageRecord, ...]]
    notes: DataNotes


def read_source(found: Found, data: DataConfig, imagesets: Sequence[str] = ()) -> Source:
    """Read image sets (default: all) of a data set; their names lose year, folder and ending.

    data: how to read; its kind and root are those of `found`. Raises DataError, also for two image
    sets of one name.
    """
    data = replace(data, dataset=found.kind, root=str(found.root))
    names = _short_names(found, imagesets or found.imagesets)
    parts = {}
    for imageset, name in names.items():
        try:
            parts[name] = open_dataset(data, imageset)
        except DataError as error:
            others = "; --imageset A,B chooses image sets" * (len(names) > 1)
            raise DataError(error.path, f"{error.problem}{others}") from error
    classes = _classes(found.kind, list(parts.values()))
    ids = {(part.class_names, part.category_ids) for part in parts.values()}
    return Source(
        data,
        classes,
        next(iter(ids))[1] if len(ids) == 1 else None,
        {name: _records(part, classes) for name, part in parts.items()},
        _notes(list(parts.values())),
    )


def _notes(parts: Sequence[Dataset]) -> DataNotes:
    """The notes of all parts; what several have, as trainval and train do, counts once."""
    notes, mended, skipped = DataNotes(), Counter(), Counter()
    for part in parts:
        notes.counted += part.notes.counted
        notes.unread += part.notes.unread
        mended |= Counter(part.notes.mended)
        skipped |= Counter(part.notes.skipped)
    notes.mended, notes.skipped = list(mended.elements()), list(skipped.elements())
    return notes


def _short_names(found: Found, imagesets: Sequence[str]) -> dict[str, str]:
    """Image set -> its name in the new data set, such as train for 2007_train."""
    plain = {name: _without_ending(name) for name in imagesets}
    short = {name: _without_year(value) for name, value in plain.items()}
    names = short if found.kind == "voc" and len({*short.values()}) == len(short) else plain
    for name, times in Counter(names.values()).items():
        if times > 1:
            same = " and ".join(imageset for imageset in names if names[imageset] == name)
            raise DataError(found.root, f"image sets {same} would both be {name}: choose one")
    return names


def _without_ending(imageset: str) -> str:
    """train for train, annotations/instances_train.json, train/_annotations.coco.json, train.csv"""
    path = PurePosixPath(imageset)
    if path.name.startswith("_annotations."):
        return path.parent.name
    is_file = path.suffix.lower() in (".json", ".csv", ".xml")
    return path.stem.removeprefix("instances_") if is_file else imageset.replace("/", "_")


def _without_year(name: str) -> str:
    year, _, rest = name.partition("_")
    return rest if year.isdecimal() and rest else name


def _classes(kind: str, parts: Sequence[Dataset]) -> tuple[str, ...]:
    """The class names of all parts: in their order, or sorted where files declare none."""
    if kind in SORTED:  # the names of a part without objects are made up
        parts = [part for part in parts if any(map(len, part.records))] or parts
    names = dict.fromkeys(name for part in parts for name in part.class_names)
    differ = len({part.class_names for part in parts}) > 1
    return tuple(sorted(names) if kind in SORTED and differ else names)


def _records(part: Dataset, classes: tuple[str, ...]) -> tuple[ImageRecord, ...]:
    """The records of a part with its classes numbered as in `classes`."""
    if part.class_names == classes:
        return part.records
    number = {name: k for k, name in enumerate(classes, start=1)}
    own = np.array([0, *(number.get(name, 0) for name in part.class_names)], np.int64)
    return tuple(replace(record, classes=own[record.classes]) for record in part.records)
