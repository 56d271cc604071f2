"""COCO detection JSON: reading it, finding it in the usual layouts, writing a Dataset as COCO.

Letters: N objects of an image. Boxes in the files are xywh and 0-based; here they are xyxy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.images import check_pixels, image_size, opened, path_inside, size_error
from mxrcnn.data.records import (
    DataError,
    DataNotes,
    Dataset,
    ImageId,
    ImageRecord,
    clean_boxes,
)
from mxrcnn.data.voc import PROGRESS_FROM, check_class_names, closest, skipping
from symnet.geometry.masks import check_segmentation, encode

#: square pixels of an object: float32 holds them
MOST_AREA = 3e38
IMAGE_FOLDERS = (".", "images", "JPEGImages", "VOC2007/JPEGImages")


class _Image(NamedTuple):
    image_id: ImageId
    path: Path
    height: int
    width: int


class _Object(NamedTuple):
    """An annotation whose fields are checked; box is xyxy."""

    box: tuple[float, float, float, float]
    category_id: int
    crowd: bool
    difficult: bool
    area: float | None
    mask: Any


def load_coco(
    annotation_file: str | Path,
    image_root: str | Path | None = None,
    class_names: Sequence[str] | str | None = None,
    skip_bad: bool = False,
    exif_orientation: bool = False,
    require_images: bool = True,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Dataset:
    """Read a COCO detection file.

    image_root: where the `file_name`s are; None looks in the file's folder, then in its `images`,
    `JPEGImages` and `VOC2007/JPEGImages`, for the first image.
    class_names: only these categories, in this order, "voc" for the 20 of VOC; None or "auto" for
    all, in order of their ids. Class k has the COCO id `category_ids[k - 1]`.
    skip_bad: leave out bad images and annotations and say why in `notes.skipped`.
    exif_orientation: sizes are those of images turned upright, always read from the files;
    otherwise sizes come from the JSON, and from the files where the JSON has none.
    require_images: with False image files may be missing, for scoring stored detections.
    max_pixels: images of more pixels are refused; 0 is no limit.

    `difficult` is the annotation's `ignore`. `masks` are the `segmentation` entries as they are,
    None for an object without one; records have `masks=None` if no object of the file has one.
    Besides COCO's kinds a segmentation may name a PNG file beside the JSON or in the image folder,
    of the image's size: "masks/1.png", whose pixels other than 0 are the mask, or {"png":
    "masks/1.png", "value": 3}. They become RLE, and `annotation_file` is then None, as COCO's own
    tools cannot read that file. (Pixels of colour pictures count as red + 256 green + 65536 blue.)
    Raises DataError, naming file, entry and field; broken categories raise even with skip_bad.
    """
    path = Path(annotation_file)
    document = _read_json(path)
    categories = _categories(path, document)
    classes = _choose_classes(path, categories, class_names)
    entries = _entries(path, document, "images")
    rules = _ImageRules(
        path, _image_root(path, image_root, entries), exif_orientation, require_images, max_pixels
    )
    return _load(document, categories, classes, rules, skip_bad)


def load_joined(
    files: Sequence[tuple[Path, Path]],
    name: str,
    class_names: Sequence[str] | str = "auto",
    skip_bad: bool = False,
    exif_orientation: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Dataset:
    """Several COCO files, each with its image folder, as one data set called `name`.

    Categories with the same name are one class. The classes are those of all files, in the order in
    which the files name them, or `class_names`; a file need not have all of them, and where files
    differ, `active_classes` of a record are those of its file, with the background. Image ids that
    two files share get their file's number in front, "1:17" and "2:17". Raises DataError as
    `load_coco` does, for a file that is there twice and for one with none of the classes.
    """
    paths = [path for path, _ in files]
    repeated = next((p for i, p in enumerate(paths) if p in paths[:i]), None)
    if repeated is not None:
        raise DataError(repeated, f"is there twice in {name}")
    wanted = None if class_names == "auto" else check_class_names(paths[0], class_names)
    parts = []
    for path, image_root in files:
        document = _read_json(path)
        categories = _categories(path, document)
        rules = _ImageRules(path, image_root, exif_orientation, True, max_pixels)
        classes = _classes_here(path, categories, wanted)
        parts.append(_load(document, categories, classes, rules, skip_bad))
    there = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
    missing = next((k for k in wanted or () if k not in there), None)
    if missing is not None:
        where = " and ".join(path.name for path in paths)
        near = closest(missing, there)
        raise DataError(where, f"no category {missing!r}; the closest there is {near!r}")
    return _joined(name, parts, wanted or there)


def _classes_here(
    path: Path, categories: dict[int, str], wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(class names, category ids) of those wanted classes that a file has; None wants all."""
    if wanted is None:
        return _choose_classes(path, categories, None)
    here = [name for name in wanted if name in categories.values()]
    if not here:
        raise DataError(path, f"has none of the categories {', '.join(wanted)}")
    return _choose_classes(path, categories, here)


def _joined(name: str, parts: Sequence[Dataset], class_names: tuple[str, ...]) -> Dataset:
    ids = [record.image_id for part in parts for record in part.records]
    shared = len(set(ids)) < len(ids)
    differ = len({frozenset(part.class_names) for part in parts}) > 1
    records: list[ImageRecord] = []
    notes = DataNotes()
    for number, part in enumerate(parts, start=1):
        own = np.array([0, *(class_names.index(k) + 1 for k in part.class_names)], np.int64)
        active = tuple(sorted(own.tolist())) if differ else None
        for record in part.records:
            image_id = f"{number}:{record.image_id}" if shared else record.image_id
            records.append(
                replace(
                    record,
                    image_id=image_id,
                    classes=own[record.classes],
                    active_classes=active,
                )
            )
        notes.add(part.notes)
    return Dataset(name, class_names, tuple(records), notes, metric="coco")


def _load(
    document: dict[str, Any],
    categories: dict[int, str],
    classes: tuple[tuple[str, ...], tuple[int, ...]],
    rules: _ImageRules,
    skip_bad: bool,
) -> Dataset:
    """The Dataset of a document; classes are names and category ids."""
    path, notes = rules.annotation_file, DataNotes()
    names, ids = classes
    images = _read_images(rules, _entries(path, document, "images"), notes, skip_bad)
    pictures = _MaskPictures((path.parent, rules.root), rules.max_pixels)
    objects = _read_objects(path, document, images, categories, pictures, notes, skip_bad)
    with_masks = any(o.mask is not None for group in objects.values() for o in group)
    class_of = {category_id: k for k, category_id in enumerate(ids, start=1)}
    records = tuple(
        _record(image, objects.get(image.image_id, []), class_of, with_masks, notes)
        for image in images.values()
        if image is not None
    )
    if not records:
        reason = notes.skipped[0] if notes.skipped else "images is empty"
        raise DataError(path, f"has no usable image; {reason}")
    return Dataset(
        name=path.stem,
        class_names=names,
        records=records,
        notes=notes,
        category_ids=ids,
        # who scores with COCO's own tools would meet there again what was skipped here
        annotation_file=None if pictures.used or notes.skipped else path,
        metric="coco",
    )


def resolve_coco(root: str | Path, imageset: str) -> tuple[Path, Path]:
    """Find (annotation file, image folder) of an image set such as `val2017` in the usual layouts.

    The file: `annotations/instances_{imageset}.json`, `annotations/{imageset}.json`,
    `{imageset}.json`, `instances_{imageset}.json`, `{imageset}/_annotations.coco.json`, or
    imageset as a path to a .json, from here or from root.
    The images: `{imageset}`, `images/{imageset}`, `images`, `JPEGImages` or `VOC2007/JPEGImages` of
    root; where none of them exists, the folder of the annotation file.
    Raises DataError, listing what was tried and what is there, unless exactly one file fits.
    """
    root = Path(root)
    if imageset.endswith(".json"):
        tried = [root / imageset, Path(imageset)]
    else:
        tried = [
            root / "annotations" / f"instances_{imageset}.json",
            root / "annotations" / f"{imageset}.json",
            root / f"{imageset}.json",
            root / f"instances_{imageset}.json",
            root / imageset / "_annotations.coco.json",
        ]
    found = {path.resolve(): path for path in tried if path.is_file()}
    if len(found) != 1:
        there = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
        raise DataError(
            root,
            f"{len(found) or 'no'} annotation files fit image set {imageset!r}; "
            f"tried: {', '.join(map(str, tried))}; "
            f"JSON files there: {', '.join(map(str, there)) or 'none'}",
        )
    annotation_file = next(iter(found.values()))
    split = annotation_file.stem.replace("instances_", "", 1)
    if annotation_file.name.startswith("_annotations."):
        return annotation_file, annotation_file.parent
    folders = (split, f"images/{split}", *IMAGE_FOLDERS[1:])
    images = next((root / f for f in folders if (root / f).is_dir()), annotation_file.parent)
    return annotation_file, images


def dataset_to_coco(dataset: Dataset) -> dict[str, Any]:
    """Any Dataset as a COCO dictionary that `json.dump` takes, to score it with COCO's metrics.

    Annotation ids count from 1; category ids are `dataset.category_ids`, or 1..C-1.
    A difficult object has `"ignore": 1` and `"iscrowd": 0`. Beware: pycocotools' own COCOeval
    overwrites `ignore` by `iscrowd`, so it counts difficult objects like any other;
    `mxrcnn.evaluation.coco.evaluate_coco` ignores them.
    """
    ids = dataset.category_ids or tuple(range(1, dataset.num_classes))
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        for i in range(len(record)):
            entry = _annotation(record, i, ids[record.classes[i] - 1])
            annotations.append({"id": len(annotations) + 1, **entry})
    return {
        "info": {"description": dataset.name},
        "licenses": [],
        "images": [
            {"id": r.image_id, "file_name": r.path.name, "height": r.height, "width": r.width}
            for r in dataset.records
        ],
        "categories": [
            {"id": category_id, "name": name, "supercategory": "none"}
            for category_id, name in zip(ids, dataset.class_names)
        ],
        "annotations": annotations,
    }


def _annotation(record: ImageRecord, i: int, category_id: int) -> dict[str, Any]:
    """Object i of a record as a COCO annotation without its id."""
    x1, y1, x2, y2 = record.boxes[i].tolist()
    entry = {
        "image_id": record.image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(record.areas[i]),
        "iscrowd": int(record.crowd[i]),
        "ignore": int(record.difficult[i]),
    }
    mask = record.masks[i] if record.masks is not None else None
    if mask is not None:
        entry["segmentation"] = _json_mask(mask)
    return entry


def _json_mask(mask: Any) -> Any:
    """A segmentation without bytes: pycocotools encodes RLE counts to bytes."""
    if isinstance(mask, dict) and isinstance(mask["counts"], bytes):
        return {**mask, "counts": mask["counts"].decode("ascii")}
    return mask


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(path, f"unreadable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(path, f"holds a JSON {type(document).__name__}, not a COCO object")
    return document


def _entries(path: Path, document: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(document.get(key), list):
        raise DataError(path, f"{key} is missing or not a list")
    return document[key]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    """Whether value is a string that can be printed: JSON may hold halves of characters."""
    return isinstance(value, str) and value != "" and not re.search("[\ud800-\udfff]", value)


def _numbers(values: Any) -> bool:
    """Whether values is a list of finite numbers."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return False
    try:
        return math.isfinite(sum(map(abs, values)))
    except OverflowError:
        return False


def _object_field(path: Path, where: str, entry: Any, key: str) -> Any:
    """entry[key] of an entry that must be an object that has the key."""
    if not isinstance(entry, dict):
        raise DataError(path, f"{where} is not an object: {short(entry)}")
    if key not in entry:
        raise DataError(path, f"{where}.{key} is missing")
    return entry[key]


def _categories(path: Path, document: dict[str, Any]) -> dict[int, str]:
    """Category id -> name, in order of the ids."""
    categories: dict[int, str] = {}
    for index, entry in enumerate(_entries(path, document, "categories")):
        where = f"categories[{index}]"
        category_id = _object_field(path, where, entry, "id")
        name = _object_field(path, where, entry, "name")
        if not _is_int(category_id) or category_id in categories:
            raise DataError(path, f"{where}.id is not a new integer: {short(category_id)}")
        if not _is_text(name) or name in categories.values():
            raise DataError(path, f"{where}.name is not a new name: {short(name)}")
        categories[category_id] = name
    if not categories:
        raise DataError(path, "categories is empty")
    return dict(sorted(categories.items()))


def _choose_classes(
    path: Path, categories: dict[int, str], class_names: Sequence[str] | str | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(class names, their category ids), in the order of the classes."""
    if class_names is None or class_names == "auto":
        return tuple(categories.values()), tuple(categories)
    names = check_class_names(path, class_names)
    id_of = {name: category_id for category_id, name in categories.items()}
    for name in names:
        if name not in id_of:
            raise DataError(
                path, f"no category {name!r}; the closest there is {closest(name, id_of)!r}"
            )
    return names, tuple(id_of[name] for name in names)


class _ImageRules(NamedTuple):
    """Where image files are and how their sizes are found."""

    annotation_file: Path
    root: Path
    exif_orientation: bool
    require_images: bool
    max_pixels: int


def _image_root(path: Path, image_root: str | Path | None, entries: list[Any]) -> Path:
    """The given folder, or the first of the usual ones that has the first named image."""
    if image_root is not None:
        return Path(image_root)
    names = (e["file_name"] for e in entries if isinstance(e, dict) and "file_name" in e)
    name = next((n for n in names if isinstance(n, str)), None)
    folders = [path.parent / folder for folder in IMAGE_FOLDERS]
    if name is None:
        return folders[0]
    return next((f for f in folders if isfile(f / name)), folders[0])


def _read_images(
    rules: _ImageRules, entries: list[Any], notes: DataNotes, skip_bad: bool
) -> dict[ImageId, _Image | None]:
    """Image id -> image, in the file's order; None for an image that was skipped."""
    images: dict[ImageId, _Image | None] = {}
    path = rules.annotation_file
    quiet = None if len(entries) > PROGRESS_FROM else True
    for index, entry in enumerate(tqdm(entries, "finding images", leave=False, disable=quiet)):
        where = f"images[{index}]"
        with skipping(notes, skip_bad):
            image_id = _object_field(path, where, entry, "id")
            if not (_is_int(image_id) or isinstance(image_id, str)):
                raise DataError(path, f"{where}.id is no integer or string: {short(image_id)}")
            if image_id in images:
                raise DataError(path, f"{where}.id is there twice: {short(image_id)}")
            images[image_id] = None
            images[image_id] = _read_image_entry(rules, where, entry, notes)
    return images


def _read_image_entry(
    rules: _ImageRules, where: str, entry: dict[str, Any], notes: DataNotes
) -> _Image:
    path = rules.annotation_file
    name = _object_field(path, where, entry, "file_name")
    if not isinstance(name, str):
        raise DataError(path, f"{where}.file_name is not a string: {short(name)}")
    try:
        file = path_inside(rules.root, name)
    except ValueError as error:
        raise DataError(path, f"{where}.file_name: {error}") from error
    exists = isfile(file)
    if rules.require_images and not exists:
        raise DataError(file, f"no such image ({path.name}, {where})")
    stated = tuple(_side(path, where, entry, side) for side in ("height", "width"))
    if exists and (rules.exif_orientation or None in stated):
        height, width = image_size(file, rules.exif_orientation, rules.max_pixels)
        if stated == (width, height) != (height, width):
            raise size_error(file, (height, width), stated, rules.exif_orientation)
        if None not in stated and stated != (height, width):
            notes.note_size(file, stated, (height, width))
    elif None in stated:
        raise DataError(path, f"{where} has no height and width, and there is no image file")
    else:
        height, width = stated
        try:
            check_pixels(path, height, width, rules.max_pixels)
        except DataError as error:
            raise DataError(path, f"{where}: {error.problem}") from None
    return _Image(entry["id"], file, height, width)


def _side(path: Path, where: str, entry: dict[str, Any], side: str) -> int | None:
    """height or width as stated; None for one that is missing, null or 0."""
    value = entry.get(side)
    if value is None or value == 0:
        return None
    if not _is_int(value) or value < 0:
        raise DataError(path, f"{where}.{side} is not a number of pixels: {short(value)}")
    return value


def _read_objects(
    path: Path,
    document: dict[str, Any],
    images: dict[ImageId, _Image | None],
    categories: dict[int, str],
    pictures: _MaskPictures,
    notes: DataNotes,
    skip_bad: bool,
) -> dict[ImageId, list[_Object]]:
    """Image id -> its objects, in the file's order. Those of skipped images are left out."""
    objects: dict[ImageId, list[_Object]] = {}
    seen: set[ImageId] = set()
    for index, entry in enumerate(_entries(path, document, "annotations")):
        where = f"annotations[{index}]"
        with skipping(notes, skip_bad):
            image_id = _known(path, where, entry, "image_id", images)
            image = images[image_id]
            if image is None:
                continue
            _check_new_id(path, where, entry, seen)
            read = _read_object(path, where, entry, categories)
            mask = pictures.fold(path, where, read.mask, image)
            objects.setdefault(image_id, []).append(read._replace(mask=mask))
    return objects


def _known(path: Path, where: str, entry: Any, key: str, known: Any) -> Any:
    """entry[key], which must be one of `known`."""
    value = _object_field(path, where, entry, key)
    if not (_is_int(value) or isinstance(value, str)) or value not in known:
        raise DataError(path, f"{where}.{key} is unknown: {short(value)}")
    return value


def _check_new_id(path: Path, where: str, entry: dict[str, Any], seen: set[ImageId]) -> None:
    """An annotation needs no id, but two with the same id would hide each other in pycocotools."""
    annotation_id = entry.get("id")
    if annotation_id is None:
        return
    if not (_is_int(annotation_id) or isinstance(annotation_id, str)) or annotation_id in seen:
        raise DataError(path, f"{where}.id is not a new id: {short(annotation_id)}")
    seen.add(annotation_id)


def _read_object(
    path: Path, where: str, entry: dict[str, Any], categories: dict[int, str]
) -> _Object:
    category_id = _known(path, where, entry, "category_id", categories)
    bbox = _object_field(path, where, entry, "bbox")
    if not _numbers(bbox) or len(bbox) != 4:
        raise DataError(path, f"{where}.bbox is not 4 finite numbers: {short(bbox)}")
    area = entry.get("area")
    if area is not None and not (_numbers([area]) and 0 <= area <= MOST_AREA):
        raise DataError(path, f"{where}.area is not a finite number from 0: {short(area)}")
    x, y, width, height = bbox
    return _Object(
        box=(x, y, x + width, y + height),
        category_id=category_id,
        crowd=_flag(path, where, entry, "iscrowd"),
        difficult=_flag(path, where, entry, "ignore"),
        area=area,
        mask=_mask(path, where, entry.get("segmentation")),
    )


def _flag(path: Path, where: str, entry: dict[str, Any], key: str) -> bool:
    value = entry.get(key) or 0
    if value not in (0, 1):
        raise DataError(path, f"{where}.{key} is not 0 or 1: {short(value)}")
    return bool(value)


def _mask(path: Path, where: str, mask: Any) -> Any:
    """The segmentation as it is, or None for none; what it holds is checked for its form."""
    if mask is None or mask == []:
        return None
    if isinstance(mask, str):
        good = True
    elif isinstance(mask, dict) and "png" in mask:
        good = isinstance(mask["png"], str) and _is_int(mask.get("value"))
    elif isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        good = _numbers(size) and len(size) == 2 and (isinstance(counts, str) or _numbers(counts))
    else:
        good = isinstance(mask, list) and all(
            _numbers(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask
        )
    if not good:
        raise DataError(
            path,
            f"{where}.segmentation is neither polygons of x, y nor RLE nor a PNG: {short(mask)}",
        )
    return mask


class _MaskPictures:
    """Turns segmentations that name PNG files into RLE; other ones stay. Keeps the last picture."""

    def __init__(self, folders: Sequence[Path], max_pixels: int) -> None:
        self.used = False
        self._folders = folders
        self._max_pixels = max_pixels
        self._last: tuple[Path | None, Any] = None, None

    def fold(self, path: Path, where: str, mask: Any, image: _Image) -> Any:
        """The segmentation, as RLE if it was a picture; DataError for bad names and pictures."""
        if isinstance(mask, str):
            name, value = mask, None
        elif isinstance(mask, dict) and "png" in mask:
            name, value = mask["png"], mask["value"]
        else:
            if mask is not None:
                try:
                    check_segmentation(mask, image.height, image.width)
                except ValueError as error:
                    raise DataError(path, f"{where}.segmentation: {error}") from None
            return mask
        try:
            places = [path_inside(folder, name) for folder in self._folders]
        except ValueError as error:
            raise DataError(path, f"{where}.segmentation: {error}") from error
        file = next((place for place in places if isfile(place)), None)
        if file is None:
            raise DataError(path, f"{where}.segmentation: there is no {short(name)}")
        if self._last[0] != file:
            size = image.height, image.width
            self._last = file, _picture_values(file, size, self._max_pixels)
        values = self._last[1]
        if values.shape != (image.height, image.width):
            raise _wrong_size(file, values.shape, (image.height, image.width))
        bits = values != 0 if value is None else values == value
        if not bits.any():
            raise DataError(path, f"{where}.segmentation: no pixel of {file} is the object's")
        self.used = True
        return encode(bits)


def _picture_values(file: Path, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """The values (h, w) of a PNG's pixels, palette indices as they are, colours as one number."""
    with opened(file, max_pixels, ("PNG",)) as picture:
        if picture.size != size[::-1]:  # before its pixels, which may be many, are read
            raise _wrong_size(file, picture.size[::-1], size)
        values = np.asarray(picture)
    if values.ndim == 2:
        return values
    if values.shape[2] == 2:  # with an alpha channel, which says nothing
        return values[:, :, 0]
    red, green, blue = (values[:, :, k].astype(np.int32) for k in range(3))
    return red + 256 * green + 65536 * blue


def _wrong_size(file: Path, found: tuple[int, int], wanted: tuple[int, int]) -> DataError:
    sides = " and the image ".join(f"{width} x {height}" for height, width in (found, wanted))
    return DataError(file, f"the mask is {sides} pixels")


def _record(
    image: _Image,
    objects: list[_Object],
    class_of: dict[int, int],
    with_masks: bool,
    notes: DataNotes,
) -> ImageRecord:
    """The record of an image with those objects whose category is a class."""
    objects = [o for o in objects if o.category_id in class_of]
    boxes = np.array([o.box for o in objects], np.float64).reshape(-1, 4)
    boxes, keep = clean_boxes(boxes, image.height, image.width, notes, image.path)
    boxes = boxes[keep]
    objects = [o for o, kept in zip(objects, keep) if kept]
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = [box if o.area is None else o.area for o, box in zip(objects, box_areas)]
    return ImageRecord(
        image_id=image.image_id,
        path=image.path,
        height=image.height,
        width=image.width,
        boxes=boxes,
        classes=np.array([class_of[o.category_id] for o in objects], np.int64),
        crowd=np.array([o.crowd for o in objects], bool),
        difficult=np.array([o.difficult for o in objects], bool),
        truncated=np.zeros(len(objects), bool),
        areas=np.array(areas, np.float32),
        masks=tuple(o.mask for o in objects) if with_masks else None,
    )
