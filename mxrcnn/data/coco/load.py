"""COCO detection files as a Dataset: one file, or several joined.

Letters: N objects of an image. Boxes in the files are xywh and 0-based; here they are xyxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.coco.document import entries_of, read_categories, read_json
from mxrcnn.data.coco.files import image_root as find_root
from mxrcnn.data.coco.images import CocoImage, read_images
from mxrcnn.data.coco.masks import MaskPictures
from mxrcnn.data.coco.objects import CocoObject, read_objects
from mxrcnn.data.reading import Reading, check_class_names, closest
from mxrcnn.data.records import DataError, DataNotes, Dataset, ImageRecord, clean_boxes
from symnet.geometry.boxes import areas as box_areas


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

    image_root: the folder that `file_name`s are relative to. None: the first that has the first
    image, of the file's folder and its `images`, `JPEGImages` and `VOC2007/JPEGImages`.
    class_names: only these categories, in this order; "voc" for the 20 of VOC; None or "auto" for
    all, in order of their ids. Class k has the COCO id `category_ids[k - 1]`.
    skip_bad: leave out bad images and annotations and say why in `notes.skipped`.
    exif_orientation: sizes are those of images turned upright, always read from the files.
    Otherwise sizes come from the JSON, or from the files if the JSON has none.
    require_images: False allows missing image files, to score stored detections.
    max_pixels: images of more pixels are refused; 0 is no limit.

    `difficult` is the annotation's `ignore`. `masks` are the `segmentation` entries unchanged, None
    for an object without one; records have `masks=None` if no object of the file has one.
    A segmentation may also name a PNG file of the image's size, beside the JSON or in the image
    folder: "masks/1.png", whose pixels other than 0 are the mask, or {"png": "masks/1.png",
    "value": 3}. It becomes RLE, and `annotation_file` is then None, as COCO's own tools cannot read
    that file. (The value of a colour pixel is red + 256 green + 65536 blue.)
    Raises DataError, naming file, entry and field; broken categories raise even with skip_bad.
    """
    path = Path(annotation_file)
    document = read_json(path)
    categories = read_categories(path, document)
    classes = _choose_classes(path, categories, class_names)
    root = find_root(path, image_root, entries_of(path, document, "images"))
    reading = Reading(skip_bad, exif_orientation, max_pixels)
    return _load(path, document, root, categories, classes, reading, require_images)


def load_joined(
    files: Sequence[tuple[Path, Path]],
    name: str,
    class_names: Sequence[str] | str = "auto",
    skip_bad: bool = False,
    exif_orientation: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Dataset:
    """Read several COCO files, each with its image folder, as one data set called `name`.

    Categories with the same name are one class. The classes are `class_names`, or those of all
    files in their order. A file need not have all of them: if files differ, `active_classes` of a
    record are the classes of its file, and the background. If files share image ids, all ids get
    their file's number in front: "1:17" and "2:17". Raises DataError as `load_coco` does, for a
    file that is given twice, and for a file with none of the classes.
    """
    paths = [path for path, _ in files]
    repeated = next((p for i, p in enumerate(paths) if p in paths[:i]), None)
    if repeated is not None:
        raise DataError(repeated, f"occurs twice in {name}")
    wanted = None if class_names == "auto" else check_class_names(paths[0], class_names)
    parts = []
    for path, root in files:
        document = read_json(path)
        categories = read_categories(path, document)
        here = None
        if wanted is not None:
            here = [name for name in wanted if name in categories.values()]
            if not here:
                raise DataError(path, f"has none of the categories {', '.join(wanted)}")
        classes = _choose_classes(path, categories, here)
        reading = Reading(skip_bad, exif_orientation, max_pixels)
        parts.append(_load(path, document, root, categories, classes, reading))
    there = tuple(dict.fromkeys(name for part in parts for name in part.class_names))
    _check_there(" and ".join(path.name for path in paths), wanted or (), there)
    return _joined(name, parts, wanted or there)


def _check_there(where: str | Path, names: Sequence[str], there: Sequence[str]) -> None:
    """DataError if one of the names is missing in `there`; it names the closest."""
    missing = next((name for name in names if name not in there), None)
    if missing is not None:
        near = closest(missing, there)
        raise DataError(where, f"no category {missing!r}; the closest there is {near!r}")


def _choose_classes(
    path: Path, categories: dict[int, str], class_names: Sequence[str] | str | None
) -> dict[str, int]:
    """Class name -> category id, in the order of the classes."""
    id_of = {name: category_id for category_id, name in categories.items()}
    if class_names is None or class_names == "auto":
        return id_of
    names = check_class_names(path, class_names)
    _check_there(path, names, list(id_of))
    return {name: id_of[name] for name in names}


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
            more = {"classes": own[record.classes], "active_classes": active}
            records.append(replace(record, image_id=image_id, **more))
        notes.add(part.notes)
    return Dataset(name, class_names, tuple(records), notes, metric="coco")


def _load(
    path: Path,
    document: dict[str, Any],
    root: Path,
    categories: dict[int, str],
    classes: dict[str, int],
    reading: Reading,
    require_images: bool = True,
) -> Dataset:
    """The Dataset of a document; classes: name -> category id."""
    notes = reading.notes
    entries = entries_of(path, document, "images")
    images = read_images(path, entries, root, reading, require_images)
    pictures = MaskPictures((path.parent, root), reading.max_pixels)
    objects = read_objects(path, document, images, categories, pictures, reading)
    with_masks = any(o.mask is not None for group in objects.values() for o in group)
    class_of = {category_id: k for k, category_id in enumerate(classes.values(), start=1)}
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
        class_names=tuple(classes),
        records=records,
        notes=notes,
        category_ids=tuple(classes.values()),
        # None where COCO's own tools would fail on the file, or read entries that were skipped
        annotation_file=None if pictures.used or notes.skipped else path,
        metric="coco",
    )


def _record(
    image: CocoImage,
    objects: list[CocoObject],
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
    areas = [box if o.area is None else o.area for o, box in zip(objects, box_areas(boxes))]
    return ImageRecord(
        *image,
        boxes=boxes,
        classes=np.array([class_of[o.category_id] for o in objects], np.int64),
        crowd=np.array([o.crowd for o in objects], bool),
        difficult=np.array([o.difficult for o in objects], bool),
        truncated=np.zeros(len(objects), bool),
        areas=np.array(areas, np.float32),
        masks=tuple(o.mask for o in objects) if with_masks else None,
    )
