"""What the readers share: settings, skipped entries, texts, class names."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from defusedxml import ElementTree
from tqdm import tqdm

from mxrcnn.data.images import image_size
from mxrcnn.data.records import DataError, DataNotes

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
#: lists of more entries show a progress bar
PROGRESS_FROM = 2000
#: bytes of a file, at most: of one image's annotation, which in LabelMe may hold the image itself;
#: of a CVAT file, whose XML takes about ten times that in memory; of COCO's JSON and of a CSV table
MOST_BYTES, MOST_CVAT_BYTES, MOST_SET_BYTES = 256 << 20, 1 << 30, 8 << 30


@dataclass(frozen=True)
class Reading:
    """How annotations are read, and the notes of one reading.

    skip_bad: leave out bad entries and say why in `notes.skipped`, instead of raising.
    exif_orientation: image sizes are those of images turned upright by their EXIF orientation.
    max_pixels: images of more pixels are refused; 0 is no limit.
    images: the folder of the images that a file names; None: the usual places near the file.
    """

    skip_bad: bool
    exif_orientation: bool
    max_pixels: int
    images: Path | None = None
    notes: DataNotes = field(default_factory=DataNotes)

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """With skip_bad, a DataError raised inside becomes a note."""
        try:
            yield
        except DataError as error:
            if not self.skip_bad:
                raise
            self.notes.skipped.append(str(error))

    def image_size(self, path: Path) -> tuple[int, int]:
        """(height, width) of an image file; DataError if it cannot be read or is too large."""
        return image_size(path, self.exif_orientation, self.max_pixels)


def check_bytes(path: Path, size: int, limit: int) -> None:
    """DataError for a file of more bytes than the limit."""
    if size > limit:
        raise DataError(
            path, f"{size >> 20} MiB: over the limit of {limit >> 20} MiB for this file"
        )


def read_bytes(path: Path, limit: int = MOST_BYTES) -> bytes:
    """The content of a file of at most `limit` bytes; else DataError, before it is read."""
    try:
        with path.open("rb") as file:
            check_bytes(path, os.fstat(file.fileno()).st_size, limit)
            return file.read()
    except OSError as error:
        raise DataError(path, f"unreadable: {error}") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file of at most MOST_BYTES, with or without a BOM; else DataError."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 text: {error}") from error


def read_xml_root(path: Path, tag: str, limit: int = MOST_BYTES) -> Element:
    """The root element of an XML file; DataError if it is too large, broken or has another tag."""
    data = read_bytes(path, limit)
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(path, f"broken XML: {error}") from error
    except (ValueError, LookupError) as error:  # ValueError: what defusedxml forbids
        raise DataError(path, f"unreadable XML: {error!r}") from error
    if root.tag != tag:
        raise DataError(path, f"the root element is <{root.tag}>, not <{tag}>")
    return root


def finite_number(path: Path, what: str, text: str) -> float:
    """The finite number that a text says; DataError, naming file, `what` and text, if none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(path, f"{what} is not a finite number: {short(text)}")
    return value


def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    """The items, with a progress bar if they are many."""
    return tqdm(items, what, leave=False, disable=None if len(items) > PROGRESS_FROM else True)


def closest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`; an empty string when none is known."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.0)), "")


def check_class_names(path: str | Path, class_names: Sequence[str] | str) -> tuple[str, ...]:
    """Given class names as a tuple, "voc" spelt out; DataError if empty, repeated or not names."""
    if isinstance(class_names, str):
        if class_names != "voc":
            raise DataError(path, f"classes {class_names!r}: give a list of names, 'voc' or 'auto'")
        return VOC_CLASSES
    names = tuple(class_names)
    if not names or len(set(names)) < len(names):
        raise DataError(path, f"class names are missing or repeated: {', '.join(names) or 'none'}")
    return names
