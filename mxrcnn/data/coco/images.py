"""The images of a COCO file: their ids, files and sizes."""

from __future__ import annotations

from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from typing import Any, NamedTuple

from mxrcnn.data.coco.document import Entry, is_id
from mxrcnn.data.images import check_pixels, path_inside, size_error
from mxrcnn.data.reading import Reading, progress
from mxrcnn.data.records import DataError, ImageId


class CocoImage(NamedTuple):
    """An entry of "images" that is checked."""

    image_id: ImageId
    path: Path
    height: int
    width: int


def read_images(
    path: Path, entries: list[Any], root: Path, reading: Reading, require_images: bool
) -> dict[ImageId, CocoImage | None]:
    """Image id -> image, in the file's order; None for an image that was skipped."""
    images: dict[ImageId, CocoImage | None] = {}
    for index, values in enumerate(progress(entries, "finding images")):
        entry = Entry(path, f"images[{index}]", values)
        with reading.skipping():
            image_id = entry.required("id")
            if not is_id(image_id):
                raise entry.error("id", "is neither an integer nor a string")
            if image_id in images:
                raise entry.error("id", "occurs twice")
            images[image_id] = None
            images[image_id] = _read_image(entry, root, reading, require_images)
    return images


def _read_image(entry: Entry, root: Path, reading: Reading, require_images: bool) -> CocoImage:
    path, where, values = entry
    name = entry.required("file_name")
    if not isinstance(name, str):
        raise entry.error("file_name", "is not a string")
    try:
        file = path_inside(root, name)
    except ValueError as error:
        raise DataError(path, f"{where}.file_name: {error}") from error
    exists = isfile(file)
    if require_images and not exists:
        advice = "; --images DIR says where the images are"
        raise DataError(file, f"no such image ({path.name}, {where}){advice}")
    stated = entry.side("height"), entry.side("width")
    if not exists and None in stated:
        raise DataError(path, f"{where} has no height and width, and there is no image file")
    if exists and (reading.exif_orientation or None in stated):
        size = reading.image_size(file)
        if stated == size[::-1] != size:
            raise size_error(file, size, stated, reading.exif_orientation)
        if None not in stated and stated != size:
            reading.notes.note_size(file, stated, size)
    else:
        size = stated
        try:
            check_pixels(path, *size, reading.max_pixels)
        except DataError as error:
            raise DataError(path, f"{where}: {error.problem}") from None
    return CocoImage(values["id"], file, *size)
