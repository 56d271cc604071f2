"""Images with their annotations, as read from files, made into a Dataset.

Shared by VOC and by the readers in `mxrcnn.data.formats`. Letters: N objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mxrcnn.data.images import size_error
from mxrcnn.data.reading import VOC_CLASSES, Reading, check_class_names, closest
from mxrcnn.data.records import DataError, Dataset, ImageId, ImageRecord, clean_boxes
from symnet.geometry.boxes import areas as box_areas
from symnet.geometry.masks import check_segmentation


class Labelled(NamedTuple):
    """An image and its objects, before classes are known.

    source: the annotation file; size: (height, width) of the image file; names: N class names;
    boxes (N, 4) xyxy float64, continuous; stated: (height, width) as annotated, None if it is not;
    difficult, truncated, stray: (N,) bool, or None for none. stray marks boxes to drop. masks: N
    COCO segmentations or None each.
    """

    source: Path
    image_id: ImageId
    image: Path
    size: tuple[int, int]
    names: tuple[str, ...]
    boxes: np.ndarray
    stated: tuple[float, float] | None = None
    difficult: np.ndarray | None = None
    truncated: np.ndarray | None = None
    stray: np.ndarray | None = None
    masks: tuple[Any, ...] | None = None


def choose_classes(
    path: Path,
    class_names: Sequence[str] | str | None,
    items: Sequence[Labelled],
    declared: Sequence[str] = (),
    otherwise: Sequence[str] = (),
) -> tuple[str, ...]:
    """The class names that were asked for, or those declared by the data, or those used, sorted.

    otherwise: the names if there are no objects. Raises DataError if there are no names at all.
    """
    if class_names is not None and class_names != "auto":
        return check_class_names(path, class_names)
    used = sorted({name for item in items for name in item.names})
    names = tuple(declared or used or otherwise)
    if not names:
        raise DataError(path, "no objects, so no class names: give them by --set class_names=a,b")
    return names


def finish(
    root: Path,
    imageset: str,
    class_names: Sequence[str] | str,
    items: Sequence[Labelled],
    reading: Reading,
    metric: str = "voc07",
    declared: Sequence[str] = (),
) -> Dataset:
    """Give images their ids, choose the classes and make the Dataset; DataError for no image."""
    _some(items, root, imageset, reading)
    items = with_ids(items, reading.images or root)
    chosen = choose_classes(root, class_names, items, declared)
    return assemble(root, imageset, chosen, items, reading, metric)


def _some(found: Sequence[Any], root: Path, name: str, reading: Reading) -> None:
    if not found:
        skipped = reading.notes.skipped
        first = f"; first: {skipped[0]}" if skipped else ""
        raise DataError(root, f"{name} has no usable image{first}")


def with_ids(items: Sequence[Labelled], root: Path) -> list[Labelled]:
    """The items with their images' stems as ids; if some share one, with paths inside root."""
    stems = [item.image.stem for item in items]
    if len(set(stems)) == len(stems):
        return [item._replace(image_id=stem) for item, stem in zip(items, stems)]
    seen: set[Path] = set()
    for item in items:
        if item.image in seen:
            raise DataError(item.source, f"annotates {item.image} a second time")
        seen.add(item.image)
    return [item._replace(image_id=_inside(item.image, root)) for item in items]


def _inside(path: Path, root: Path) -> str:
    return (path.relative_to(root) if root in path.parents else path).as_posix()


def assemble(
    root: Path,
    name: str,
    class_names: tuple[str, ...],
    items: Sequence[Labelled],
    reading: Reading,
    metric: str = "voc07",
) -> Dataset:
    """The Dataset of these images; repairs and skipped images are in its notes.

    Raises DataError for an unknown class, for an image whose annotation has height and width
    exchanged, for a mask that does not fit, and if no image is left.
    """
    class_of = {name: k for k, name in enumerate(class_names, start=1)}
    if not any(mask is not None for item in items for mask in item.masks or ()):
        items = [item._replace(masks=None) for item in items]
    records = []
    for item in items:
        with reading.skipping():
            records.append(_record(item, class_of, reading))
    _some(records, root, name, reading)
    return Dataset(name, class_names, tuple(records), reading.notes, metric=metric)


def _record(item: Labelled, class_of: dict[str, int], reading: Reading) -> ImageRecord:
    for name in item.names:
        if name not in class_of:
            nearest = closest(name, class_of)
            standard = "; class_names=voc would be the 20 of VOC" * (name in VOC_CLASSES)
            raise DataError(
                item.source,
                f"unknown class {name!r}; the closest known is {nearest!r}{standard}",
            )
    size, count = item.size, len(item.names)
    if item.stated == size[::-1] != size:
        raise size_error(item.image, size, item.stated, reading.exif_orientation)
    _check_masks(item)
    stray = False if item.stray is None else item.stray
    boxes, keep = clean_boxes(item.boxes, *size, reading.notes, item.image, stray)
    if item.stated not in (None, size):
        reading.notes.note_size(item.image, item.stated, size)
    boxes, kept = boxes[keep], np.flatnonzero(keep)
    none = np.zeros(count, bool)
    masks = None if item.masks is None else tuple(item.masks[i] for i in kept)
    return ImageRecord(
        item.image_id,
        item.image,
        *size,
        boxes=boxes,
        classes=np.array([class_of[item.names[i]] for i in kept], np.int64),
        crowd=none[keep],
        difficult=(none if item.difficult is None else item.difficult)[keep],
        truncated=(none if item.truncated is None else item.truncated)[keep],
        areas=_areas(boxes, masks),
        masks=masks,
    )


def _check_masks(item: Labelled) -> None:
    for i, mask in enumerate(item.masks or (), start=1):
        try:
            if mask is not None:
                check_segmentation(mask, *item.size)
        except ValueError as error:
            raise DataError(item.source, f"{item.image.name}, object {i}: {error}") from None


def _areas(boxes: np.ndarray, masks: Sequence[Any] | None) -> np.ndarray:
    """The areas (N,) of polygons by the shoelace formula, at most their boxes'; else of boxes."""
    areas = box_areas(boxes)
    for i, mask in enumerate(masks or ()):
        if isinstance(mask, list):
            areas[i] = min(areas[i], sum(map(_polygon_area, mask)))
    return areas


def _polygon_area(corners: Sequence[float]) -> float:
    x, y = np.reshape(np.asarray(corners, np.float64), (-1, 2)).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
