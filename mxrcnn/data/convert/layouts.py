"""The layouts that data sets are converted to: COCO, Pascal VOC, YOLO. Letters: N objects."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mxrcnn.data.coco import dataset_to_coco
from mxrcnn.data.convert.source import Source
from mxrcnn.data.detect import TESTING, TRAINING, VALIDATION, of_purpose
from mxrcnn.data.formats.pairs import ENDINGS
from mxrcnn.data.formats.yolo_write import data_yaml, label_line, polygon_places, yolo_places
from mxrcnn.data.reading import progress
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.voc.image_sets import ENDINGS as VOC_ENDINGS
from mxrcnn.data.voc.image_sets import LABEL_MAP
from mxrcnn.data.voc.write import FORBIDDEN, annotation_xml, label_map, voc_corners


@dataclass(frozen=True)
class Plan:
    """What to write. sets: image set -> records, whose paths are those of the source.

    names: image set -> path in the source -> file name in the new data set. said: what is known to
    be left out.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    sets: dict[str, tuple[ImageRecord, ...]]
    names: dict[str, dict[Path, str]]
    said: tuple[str, ...] = ()


class Images:
    """Copies images, or links them: by hard links, or symbolic ones to another disk."""

    def __init__(self, link: bool) -> None:
        self._link = link
        self._ways: Counter[str] = Counter()

    def put(self, source: Path, target: Path) -> None:
        """Put an image there; one that is there already stays."""
        if target.exists():
            return
        real, way = os.path.realpath(source), "copies"
        if not self._link:
            shutil.copyfile(real, target)
        else:
            try:
                os.link(real, target)
                way = "hard links"
            except OSError:
                os.symlink(real, target)
                way = "symbolic links"
        self._ways[way] += 1

    def __str__(self) -> str:
        return ", ".join(f"{count} {way}" for way, count in self._ways.items())


class Layout(NamedTuple):
    """A form of data set.

    plan: chooses names and image sets. write: writes a plan into a folder; returns image set -> its
    name there, as in --imageset. kept: (N,) bool, the objects of a record that are read back.
    left_out: what becomes of the others.
    """

    plan: Callable[[Source], Plan]
    write: Callable[[Plan, Path, Images, bool], dict[str, str]]
    kept: Callable[[ImageRecord], np.ndarray]
    left_out: str


# --- COCO -----------------------------------------------------------------------------------------


def _plan_coco(source: Source) -> Plan:
    ids = source.category_ids  # readers put classes in the order of their ids
    kept = ids if ids is None or list(ids) == sorted(ids) else None
    return Plan(source.class_names, kept, source.sets, _shared_names(source))


def _write_coco(plan: Plan, root: Path, images: Images, polygons: bool) -> dict[str, str]:
    """annotations/instances_SET.json and images/"""
    for place in ("annotations", "images"):
        (root / place).mkdir()
    ids = _image_ids(plan)
    files = {}
    for name, records in plan.sets.items():
        files[name] = f"annotations/instances_{name}.json"
        renamed = []
        for record in progress(records, f"writing {name}"):
            path = root / "images" / plan.names[name][record.path]
            images.put(record.path, path)
            renamed.append(replace(record, image_id=ids[record.path], path=path))
        dataset = Dataset(name, plan.class_names, tuple(renamed), category_ids=plan.category_ids)
        with open(root / files[name], "w", encoding="utf-8") as file:
            json.dump(dataset_to_coco(dataset), file)
    return files


def _image_ids(plan: Plan) -> dict[Path, int]:
    """Path -> the image's id: the source's if they are COCO's numbers, else 1, 2, ..."""
    records = [record for records in plan.sets.values() for record in records]
    ids = {record.path: record.image_id for record in records}
    same = all(ids[record.path] == record.image_id for record in records)
    numbers = all(isinstance(image_id, int) for image_id in ids.values())
    if same and numbers and len({*ids.values()}) == len(ids):
        return ids
    return {path: number for number, path in enumerate(ids, start=1)}


# --- VOC ------------------------------------------------------------------------------------------


def _plan_voc(source: Source) -> Plan:
    for name in source.class_names:
        if name != name.strip() or "\r" in name or FORBIDDEN.search(name):
            raise _bad_class(source, name, "VOC's XML")
    first: dict[Path, tuple[str, ImageRecord]] = {}
    for imageset, records in source.sets.items():
        for record in records:
            other, known = first.setdefault(record.path, (imageset, record))
            if other != imageset and not _same(record, known):
                raise DataError(
                    record.path,
                    f"has other objects in image set {imageset} than in {other}: VOC's form holds "
                    "one annotation an image; choose one by --imageset",
                )
    names = _shared_names(source, VOC_ENDINGS)
    return Plan(source.class_names, None, source.sets, names)


def _same(one: ImageRecord, other: ImageRecord) -> bool:
    fields = ("boxes", "classes", "difficult", "truncated", "crowd")
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in fields)


def _write_voc(plan: Plan, root: Path, images: Images, polygons: bool) -> dict[str, str]:
    """The folder of one year: Annotations/, ImageSets/Main/SET.txt, JPEGImages/, labelmap.txt"""
    for place in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / place).mkdir(parents=True)
    text = label_map(plan.class_names)
    if text is not None:
        _write(root / LABEL_MAP, text)
    for imageset, records in plan.sets.items():
        names = [plan.names[imageset][record.path] for record in records]
        stems = [Path(name).stem for name in names]
        _write(root / "ImageSets" / "Main" / f"{imageset}.txt", "".join(f"{s}\n" for s in stems))
        for record, name, stem in zip(progress(records, f"writing {imageset}"), names, stems):
            images.put(record.path, root / "JPEGImages" / name)
            text = annotation_xml(
                name,
                (record.height, record.width),
                [plan.class_names[k - 1] for k in record.classes],
                record.boxes,
                record.difficult | record.crowd,
                record.truncated,
            )
            _write(root / "Annotations" / f"{stem}.xml", text)
    return {name: name for name in plan.sets}


def _wider_than_a_pixel(record: ImageRecord) -> np.ndarray:
    corners = voc_corners(record.boxes, record.height, record.width)
    return (corners[:, 2:] > corners[:, :2]).all(axis=1)


# --- YOLO -----------------------------------------------------------------------------------------


def _plan_yolo(source: Source) -> Plan:
    for name in source.class_names:
        if name != name.strip() or not name.isprintable():
            raise _bad_class(source, name, "YOLO's data.yaml")
    fitting = {
        "train": of_purpose(source.sets, TRAINING),
        "val": of_purpose(source.sets, VALIDATION),
        "test": of_purpose(source.sets, TESTING[:1]),
    }
    if len(source.sets) == 1 and not any(fitting.values()):
        fitting["train"] = list(source.sets)
    sets, said = {}, []
    for key, imagesets in fitting.items():
        records = {r.path: r for imageset in imagesets for r in source.sets[imageset]}
        if records:
            sets[key] = tuple(records.values())
        if imagesets and imagesets != [key]:
            said.append(f"{key} is image set {' and '.join(imagesets)}")
    there = {record.path for records in sets.values() for record in records}
    used = {name for names in fitting.values() for name in names}
    for imageset in [name for name in source.sets if name not in used]:
        if not {record.path for record in source.sets[imageset]} <= there:
            raise DataError(
                source.data.root,
                f"image set {imageset} is neither train, val nor test, which are all that YOLO "
                "has; choose by --imageset, one at a time if need be",
            )
        said.append(f"image set {imageset} is not written: its images are in {', '.join(sets)}")
    names = {key: _names(source, records, ENDINGS) for key, records in sets.items()}
    return Plan(source.class_names, None, sets, names, tuple(said))


def _write_yolo(plan: Plan, root: Path, images: Images, polygons: bool) -> dict[str, str]:
    """data.yaml, images/SET/ and labels/SET/; a label file for each image, perhaps empty"""
    for imageset, records in plan.sets.items():
        for place in ("images", "labels"):
            (root / place / imageset).mkdir(parents=True)
        for record in progress(records, f"writing {imageset}"):
            name = plan.names[imageset][record.path]
            images.put(record.path, root / "images" / imageset / name)
            lines = _label_lines(record, polygons)
            _write(root / "labels" / imageset / f"{Path(name).stem}.txt", "".join(lines))
    folders = {imageset: f"images/{imageset}" for imageset in plan.sets}
    _write(root / "data.yaml", data_yaml(plan.class_names, folders))
    return {name: name for name in plan.sets}


def _label_lines(record: ImageRecord, polygons: bool) -> Iterable[str]:
    size = record.height, record.width
    places = yolo_places(record.boxes, *size).tolist()
    masks = record.masks or [None] * len(record)
    for k, crowd, box, place, mask in zip(
        record.classes, record.crowd, record.boxes.tolist(), places, masks
    ):
        if crowd:
            continue
        if polygons:
            x1, y1, x2, y2 = box
            one = isinstance(mask, list) and len(mask) == 1
            place = polygon_places(mask[0] if one else [x1, y1, x2, y1, x2, y2, x1, y2], *size)
        yield label_line(k, place)


# --- all ------------------------------------------------------------------------------------------


def _shared_names(source: Source, endings: Sequence[str] = ()) -> dict[str, dict[Path, str]]:
    """`_names` for a form that has all images in one folder."""
    names = _names(source, [r for records in source.sets.values() for r in records], endings)
    return dict.fromkeys(source.sets, names)


def _names(
    source: Source, records: Iterable[ImageRecord], endings: Sequence[str] = ()
) -> dict[Path, str]:
    """Path -> file name: its own, with its folders in front if images share one.

    endings: those that the form knows; empty: any. Raises DataError for names that are the same
    even then, for other endings, and for names that cannot be a line of a list.
    """
    paths = list(dict.fromkeys(record.path for record in records))
    root, times = Path(source.data.root), Counter(path.stem for path in paths)
    taken: dict[str, Path] = {}
    names: dict[Path, str] = {}
    for path in paths:
        stem, ending = path.stem, path.suffix.lower()
        if times[stem] > 1:
            folders = path.parent.relative_to(root) if root in path.parents else path.parent
            stem = "_".join([*(part for part in folders.parts if part != path.anchor), stem])
        if stem in taken:
            raise DataError(
                path, f"would get the same name as {taken[stem]}: {stem}; rename one of them"
            )
        if endings and ending not in endings:
            known = ", ".join(dict.fromkeys(map(str.lower, endings)))
            raise DataError(path, f"its ending is none of {known}: convert the image first")
        if stem.splitlines() != [stem.strip()] or stem.encode("utf-8", "replace").decode() != stem:
            raise DataError(path, "blanks at an end, a line break or no Unicode: rename the image")
        taken[stem] = path
        names[path] = stem + ending
    return names


def _bad_class(source: Source, name: str, where: str) -> DataError:
    return DataError(
        source.data.root,
        f"class {name!r} cannot be a name in {where}: it has blanks at an end, or characters that "
        "cannot be printed; rename it",
    )


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _all(record: ImageRecord) -> np.ndarray:
    return np.ones(len(record), bool)


LAYOUTS = {
    "coco": Layout(_plan_coco, _write_coco, _all, ""),
    "voc": Layout(
        _plan_voc,
        _write_voc,
        _wider_than_a_pixel,
        "boxes a pixel wide or high are written, but dropped by mxrcnn as stray clicks",
    ),
    "yolo": Layout(_plan_yolo, _write_yolo, lambda r: ~r.crowd, "crowd regions were left out"),
}
