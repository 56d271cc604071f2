"""The annotations of a COCO file: each object's box, category, flags and mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mxrcnn.data.coco.document import Entry, are_numbers, entries_of, is_id
from mxrcnn.data.coco.images import CocoImage
from mxrcnn.data.coco.masks import MaskPictures, read_mask
from mxrcnn.data.reading import Reading
from mxrcnn.data.records import ImageId

#: fields of annotations that are read
READ = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation"}
#: square pixels of an object, at most: float32 holds them
MOST_AREA = 3e38


class CocoObject(NamedTuple):
    """An entry of "annotations" that is checked; box is xyxy."""

    box: tuple[float, float, float, float]
    category_id: int
    crowd: bool
    difficult: bool
    area: float | None
    mask: Any


def read_objects(
    path: Path,
    document: dict[str, Any],
    images: dict[ImageId, CocoImage | None],
    categories: dict[int, str],
    pictures: MaskPictures,
    reading: Reading,
) -> dict[ImageId, list[CocoObject]]:
    """Image id -> its objects, in the file's order. Those of skipped images are left out."""
    objects: dict[ImageId, list[CocoObject]] = {}
    seen: set[ImageId] = set()
    for index, values in enumerate(entries_of(path, document, "annotations")):
        entry = Entry(path, f"annotations[{index}]", values)
        with reading.skipping():
            image_id = entry.known("image_id", images)
            image = images[image_id]
            if image is None:
                continue
            _check_new_id(entry, seen)
            read = _read_object(entry, categories)
            mask = pictures.fold(entry, read.mask, image)
            objects.setdefault(image_id, []).append(read._replace(mask=mask))
            if not READ.issuperset(values):
                unread = (key[:40] for key in values.keys() - READ if values[key])
                reading.notes.unread.update(unread)
    return objects


def _check_new_id(entry: Entry, seen: set[ImageId]) -> None:
    """An annotation needs no id, but two with the same id would hide each other in pycocotools."""
    annotation_id = entry.values.get("id")
    if annotation_id is None:
        return
    if not is_id(annotation_id) or annotation_id in seen:
        raise entry.error("id", "is not a unique id")
    seen.add(annotation_id)


def _read_object(entry: Entry, categories: dict[int, str]) -> CocoObject:
    category_id = entry.known("category_id", categories)
    bbox = entry.required("bbox")
    if not are_numbers(bbox) or len(bbox) != 4:
        raise entry.error("bbox", "is not 4 finite numbers")
    area = entry.values.get("area")
    if area is not None and not (are_numbers([area]) and 0 <= area <= MOST_AREA):
        raise entry.error("area", "is not a finite number from 0")
    x, y, width, height = bbox
    box = (x, y, x + width, y + height)
    flags = entry.flag("iscrowd"), entry.flag("ignore")
    return CocoObject(box, category_id, *flags, area, read_mask(entry))
