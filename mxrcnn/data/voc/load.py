"""Pascal VOC's image sets and annotations as a Dataset.

Letters: N objects of an image. Boxes in the files are 1-based and inclusive; here they become
continuous: (xmin - 1, ymin - 1, xmax, ymax).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.images import size_error
from mxrcnn.data.reading import VOC_CLASSES, Reading, check_class_names, closest, progress
from mxrcnn.data.records import DataError, Dataset, ImageRecord, clean_boxes
from mxrcnn.data.voc.annotations import Annotation, read_annotation
from mxrcnn.data.voc.image_sets import Listed, list_images
from symnet.geometry.boxes import areas


class _Read(NamedTuple):
    """An image and its annotation, before classes are known; size (height, width) of the file."""

    listed: Listed
    image: Path
    size: tuple[int, int]
    annotation: Annotation


def load_voc(
    root: str | Path,
    imageset: str,
    class_names: Sequence[str] | str | None = "auto",
    skip_bad: bool = False,
    exif_orientation: bool = False,
    require_annotations: bool = True,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> Dataset:
    """Read image sets such as `2007_trainval+2012_trainval` from a devkit folder.

    root holds `VOC{year}/`, or a folder `VOCdevkit/` that does. Image ids are the file names'
    stems. If years are joined and share a stem, every id gets its year in front (2007_000012).
    Names may have spaces. If all lines of a list end in -1, 0 or 1, it is the list of a class
    (`000012 -1`), and images marked -1 are left out. But if one of its whole lines names an image
    or an annotation (`photo -1.jpg`), all lines are names.

    class_names: names in order; "voc" for the 20 standard ones; "auto" or None for the names in the
    files, sorted, or the 20 standard ones if the files have no objects.
    skip_bad: leave out bad images and say why in `notes.skipped`, instead of raising.
    exif_orientation: sizes are those of images turned upright by their EXIF orientation.
    require_annotations: with False, an image without an XML file has no objects.
    max_pixels: images of more pixels are refused; 0 is no limit.

    The size of the image file is used; an annotation with another size is noted. It is an error if
    the annotation has height and width exchanged: its boxes belong to the turned image.
    A box with xmax <= xmin or ymax <= ymin in the file is dropped and counted. With VOC's inclusive
    corners xmin == xmax could mean one pixel, but in practice it is a stray click.
    Raises DataError, naming file and field.
    """
    listed = list_images(Path(root), imageset)
    reading = Reading(skip_bad, exif_orientation, max_pixels)
    read = []
    for image in progress(listed, "reading annotations"):
        with reading.skipping():
            annotation = read_annotation(image, require_annotations)
            path = image.image()
            read.append(_Read(image, path, reading.image_size(path), annotation))
    names = _choose_classes(Path(root), class_names, read)
    class_of = {name: k for k, name in enumerate(names, start=1)}
    with_year = len({image.stem for image in listed}) < len(listed)
    records = []
    for item in read:
        with reading.skipping():
            records.append(_record(item, class_of, with_year, reading))
    notes = reading.notes
    if not records:
        raise DataError(root, f"{imageset} has no usable image; first: {notes.skipped[0]}")
    return Dataset(imageset, names, tuple(records), notes)


def _choose_classes(
    root: Path, class_names: Sequence[str] | str | None, read: list[_Read]
) -> tuple[str, ...]:
    if class_names is not None and class_names != "auto":
        return check_class_names(root, class_names)
    found = {name for item in read for name in item.annotation.names}
    return tuple(sorted(found)) or VOC_CLASSES


def _record(
    item: _Read, class_of: dict[str, int], with_year: bool, reading: Reading
) -> ImageRecord:
    listed, image, size, annotation = item
    for name in annotation.names:
        if name not in class_of:
            nearest = closest(name, class_of)
            standard = "; class_names=voc would be the 20 of VOC" * (name in VOC_CLASSES)
            raise DataError(
                annotation.path,
                f"unknown class {name!r}; the closest known is {nearest!r}{standard}",
            )
    if annotation.size == size[::-1] != size:
        raise size_error(image, size, annotation.size, reading.exif_orientation)
    stray = (annotation.boxes[:, 2:] <= annotation.boxes[:, :2]).any(axis=1)
    boxes, keep = clean_boxes(annotation.boxes - (1, 1, 0, 0), *size, reading.notes, image, stray)
    if annotation.size not in (None, size):
        reading.notes.note_size(image, annotation.size, size)
    classes = np.array([class_of[name] for name in annotation.names], np.int64)
    return ImageRecord(
        f"{listed.year}_{listed.stem}" if with_year else listed.stem,
        image,
        *size,
        boxes=boxes[keep],
        classes=classes[keep],
        crowd=np.zeros(keep.sum(), bool),
        difficult=annotation.difficult[keep],
        truncated=annotation.truncated[keep],
        areas=areas(boxes[keep]),
    )
