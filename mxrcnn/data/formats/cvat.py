"""CVAT's XML 1.1 "for images": one file for all images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

import numpy as np

from mxrcnn.data.formats.pairs import IMAGE_FOLDERS, files_of, named_image
from mxrcnn.data.labelled import Labelled, finish
from mxrcnn.data.reading import MOST_CVAT_BYTES, Reading, finite_number, progress, read_xml_root
from mxrcnn.data.records import DataError, Dataset

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CORNERS = ("xtl", "ytl", "xbr", "ybr")


def load_cvat(
    root: str | Path, imageset: str, class_names: Sequence[str] | str, reading: Reading
) -> Dataset:
    """Read CVAT's files: image sets are their names in root, with or without `.xml`, joined by +.

    Boxes and polygons are continuous pixels. Rotated boxes become the upright boxes around them;
    other shapes are left out; both are counted. Images are in `reading.images`, or else beside the
    file, in `images` or another usual folder; or in one of these by subset. Classes have the order
    of the file's labels, else are sorted. Raises DataError, naming file, image, shape and value.
    """
    root, items, declared = Path(root), [], []
    for path in files_of(root, imageset, ".xml"):
        document = _parse(path)
        declared += [(e.findtext("name") or "").strip() for e in document.findall(".//label")]
        items += _read_images(path, document, reading)
    names = list(dict.fromkeys(filter(None, declared)))
    return finish(root, imageset, class_names, items, reading, "coco", names)


def _parse(path: Path) -> Element:
    document = read_xml_root(path, "annotations", MOST_CVAT_BYTES)
    if document.find("track") is not None:
        raise DataError(path, 'CVAT\'s format "for video": export it again as "for images"')
    return document


def _read_images(path: Path, document: Element, reading: Reading) -> list[Labelled]:
    items: list[Labelled] = []
    seen: set[Any] = set()
    images = document.findall("image")
    if not images:
        raise DataError(path, "lists no images")
    for index, element in enumerate(progress(images, "reading images")):
        with reading.skipping():
            where = f"image[{index}]"
            name = element.get("name") or ""
            key = element.get("subset"), name
            if key in seen:
                raise DataError(path, f"{where}: name {short(name)} occurs twice")
            seen.add(key)
            items.append(_read_image(path, where, element, reading))
    return items


def names_of(element: Element) -> list[str]:
    """The names that an image may have in its folder, the likeliest first."""
    name, subset = element.get("name") or "", element.get("subset")
    return [name, f"{subset}/{name}"] if subset else [name]


def _read_image(path: Path, where: str, element: Element, reading: Reading) -> Labelled:
    image = named_image(path, f"{where}: name", names_of(element), IMAGE_FOLDERS, reading)
    sides = [_number(path, where, element, side) for side in ("height", "width")]
    labels, boxes, masks = [], [], []
    for i, shape in enumerate(element):
        read = _read_shape(path, f"{where} {shape.tag}[{i}]", shape, reading)
        if read is None:
            continue
        label = (shape.get("label") or "").strip()
        if not label:
            raise DataError(path, f"{where} {shape.tag}[{i}]: label is missing or empty")
        reading.notes.unread.update(_unread(shape))
        labels.append(label)
        boxes.append(read[0])
        masks.append(read[1])
    array = np.array(boxes, np.float64).reshape(-1, 4)
    size = reading.image_size(image)
    stated = sides[0], sides[1]
    return Labelled(path, "", image, size, tuple(labels), array, stated=stated, masks=tuple(masks))


def _unread(shape: Element) -> list[str]:
    """The fields of a shape that are not read and say something."""
    attributes = [part for part in shape.iter("attribute") if (part.text or "").strip()]
    flags = [flag for flag in ("occluded", "outside") if shape.get(flag) == "1"]
    return [*flags, *(f"attribute {part.get('name') or ''}"[:40] for part in attributes)]


def _read_shape(
    path: Path, where: str, shape: Element, reading: Reading
) -> tuple[list[float], list[list[float]] | None] | None:
    """(box, polygons or None) of a shape; None for one that is left out."""
    if shape.tag == "box":
        box = [_number(path, where, shape, corner) for corner in CORNERS]
        angle = _number(path, where, shape, "rotation") if shape.get("rotation") else 0
        if angle:
            reading.notes.counted["rotated boxes became the upright boxes around them"] += 1
        return (_turned(box, angle) if angle else box), None
    if shape.tag == "polygon":
        corners = _points(path, where, shape.get("points") or "")
        return [*corners.min(axis=0), *corners.max(axis=0)], [corners.ravel().tolist()]
    reading.notes.counted[f"shapes <{shape.tag[:40]}> were left out"] += 1
    return None


def _turned(box: list[float], angle: float) -> list[float]:
    """The upright box around a box that is turned by an angle in degrees about its centre."""
    x1, y1, x2, y2 = box
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    width, height = (x2 - x1) * cos + (y2 - y1) * sin, (x2 - x1) * sin + (y2 - y1) * cos
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _points(path: Path, where: str, text: str) -> np.ndarray:
    """The corners (n, 2) of `x,y;x,y;...`"""
    try:
        corners = np.array([[float(v) for v in pair.split(",")] for pair in text.split(";")])
    except ValueError:
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise DataError(path, f"{where}: points are not 3 corners x,y or more: {short(text)}")
    if not np.isfinite(corners).all():
        raise DataError(path, f"{where}: points are not finite: {short(text)}")
    return corners


def _number(path: Path, where: str, element: Element, name: str) -> float:
    text = element.get(name)
    if text is None:
        raise DataError(path, f"{where}: {name} is missing")
    return finite_number(path, f"{where}: {name}", text)
