"""VOC's annotation files: the XML of one image, its fields checked. Letters: N objects."""

from __future__ import annotations

from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mxrcnn.data.reading import finite_number, read_xml_root
from mxrcnn.data.records import DataError
from mxrcnn.data.voc.image_sets import Listed

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CORNERS = ("xmin", "ymin", "xmax", "ymax")
#: elements of an object that are read, and texts of others that say nothing
READ, NOTHING = ("name", "bndbox", "difficult", "truncated"), ("", "0", "unspecified")


class Annotation(NamedTuple):
    """What an XML file says: boxes (N, 4) as written; size (height, width), None when not given.

    unread: elements of objects that are not read and say something, such as "occluded".
    """

    path: Path
    names: tuple[str, ...]
    boxes: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray
    size: tuple[float, float] | None
    unread: tuple[str, ...] = ()


def read_annotation(image: Listed, required: bool) -> Annotation:
    """The annotation of an image; if none is required, a missing file has no objects."""
    path = image.path("Annotations", ".xml")
    if not isfile(path):
        if required:
            raise DataError(path, f"no such annotation file, though {image.listing} lists it")
        none = np.zeros(0, bool)
        return Annotation(path, (), np.zeros((0, 4)), none, none, None)
    return read_xml(path)


def read_xml(path: Path) -> Annotation:
    """The annotation in an XML file; DataError, naming file and field, if it is broken."""
    root = read_xml_root(path, "annotation")
    objects = root.findall("object")
    where = [f"object {i}: " for i in range(1, len(objects) + 1)]
    flags = {
        flag: np.array([_flag(path, o, flag, w) for o, w in zip(objects, where)], bool)
        for flag in ("difficult", "truncated")
    }
    boxes = [[_number(path, o, f"bndbox/{c}", w) for c in CORNERS] for o, w in zip(objects, where)]
    return Annotation(
        path=path,
        names=tuple(_text(path, o, "name", w) for o, w in zip(objects, where)),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        size=_stated_size(path, root),
        unread=tuple(part.tag[:40] for o in objects for part in o if _says_more(part)),
        **flags,
    )


def _says_more(part: Element) -> bool:
    text = "".join(part.itertext()).strip().lower()
    return part.tag not in READ and text not in NOTHING


def _text(path: Path, parent: Element, field: str, where: str) -> str:
    text = (parent.findtext(field) or "").strip()
    if not text:
        raise DataError(path, f"{where}{field} is missing or empty")
    return text


def _number(path: Path, parent: Element, field: str, where: str) -> float:
    return finite_number(path, f"{where}{field}", _text(path, parent, field, where))


def _flag(path: Path, parent: Element, field: str, where: str) -> bool:
    """True if a number is not 0; a missing or empty element is 0."""
    if not (parent.findtext(field) or "").strip():
        return False
    return _number(path, parent, field, where) != 0


def _stated_size(path: Path, root: Element) -> tuple[float, float] | None:
    size = root.find("size")
    if size is None:
        return None
    height, width = (_number(path, size, side, "size/") for side in ("height", "width"))
    return (height, width) if height and width else None
