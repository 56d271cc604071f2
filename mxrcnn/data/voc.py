"""Pascal VOC on disk: `VOC{year}/{Annotations,ImageSets/Main,JPEGImages}`.

Letters: N objects of an image. Boxes in the files are 1-based and inclusive; here they become
continuous: (xmin - 1, ymin - 1, xmax, ymax).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from defusedxml import ElementTree
from tqdm import tqdm

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.images import image_size, path_inside, size_error
from mxrcnn.data.records import DataError, DataNotes, Dataset, ImageRecord, clean_boxes

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP")
PROGRESS_FROM = 2000
CLASS_LIST_LINE = re.compile(r"(\S.*?)\s+(-1|0|1)")


class _Entry(NamedTuple):
    """One image that an image set lists."""

    folder: Path  # VOC{year}
    year: str
    stem: str
    listing: Path


class _Rules(NamedTuple):
    """How files are read, as in `load_voc`."""

    exif_orientation: bool
    require_annotations: bool
    max_pixels: int


class _Annotation(NamedTuple):
    """What an XML file says: boxes (N, 4) as written; size (height, width), None when not given."""

    path: Path
    names: tuple[str, ...]
    boxes: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray
    size: tuple[float, float] | None


class _Read(NamedTuple):
    """An image and its annotation, before classes are known."""

    entry: _Entry
    image: Path
    height: int
    width: int
    annotation: _Annotation


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

    root holds `VOC{year}/`, itself or in its `VOCdevkit/`. Image ids are the stems; where years are
    joined and a stem occurs twice, every id gets its year in front (2007_000012).
    Names may have spaces. A list whose lines all end in -1, 0 or 1 is a class's own (`000012 -1`),
    whose images marked -1 are left out, unless one of its lines, as a whole, names an image or an
    annotation (`photo -1.jpg`): then all lines are names.

    class_names: names in order; "voc" for the 20 standard ones; "auto" or None for the names in the
    files, sorted (if there is no object at all, the 20 standard ones).
    skip_bad: leave out bad images and say why in `notes.skipped`, instead of raising.
    exif_orientation: sizes are those of images turned upright by their EXIF orientation.
    require_annotations: with False, an image without an XML file has no objects.
    max_pixels: images of more pixels are refused; 0 is no limit.

    The image file's own size counts; an annotation that states another one is noted. If it states
    height and width exchanged, its boxes are of the image turned the other way: an error.
    A box with xmax <= xmin or ymax <= ymin in the file is dropped and counted, though by VOC's
    inclusive corners xmin == xmax could be one pixel: in practice it is a stray click.
    Raises DataError, naming file and field.
    """
    entries = _list_entries(Path(root), imageset)
    notes = DataNotes()
    rules = _Rules(exif_orientation, require_annotations, max_pixels)
    read = _read_all(entries, notes, skip_bad, rules)
    names = _choose_classes(Path(root), class_names, read)
    class_of = {name: k for k, name in enumerate(names, start=1)}
    prefix = len({entry.stem for entry in entries}) < len(entries)
    records = []
    for item in read:
        with skipping(notes, skip_bad):
            records.append(_record(item, class_of, prefix, notes, exif_orientation))
    if not records:
        raise DataError(root, f"{imageset} has no usable image; first: {notes.skipped[0]}")
    return Dataset(name=imageset, class_names=names, records=tuple(records), notes=notes)


class skipping:
    """`with skipping(notes, skip_bad):` turns a DataError inside into a note, if skip_bad."""

    def __init__(self, notes: DataNotes, skip_bad: bool) -> None:
        self.notes = notes
        self.skip_bad = skip_bad

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not (self.skip_bad and isinstance(error, DataError)):
            return False
        self.notes.skipped.append(str(error))
        return True


def closest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`; an empty string when none is known."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.0)), "")


def check_class_names(path: str | Path, class_names: Sequence[str] | str) -> tuple:
    """Given class names as a tuple, "voc" spelt out; DataError if empty, repeated or not names."""
    if isinstance(class_names, str):
        if class_names != "voc":
            raise DataError(path, f"classes {class_names!r}: give a list of names, 'voc' or 'auto'")
        return VOC_CLASSES
    names = tuple(class_names)
    if not names or len(set(names)) < len(names):
        raise DataError(path, f"class names are missing or repeated: {', '.join(names) or 'none'}")
    return names


def _list_entries(root: Path, imageset: str) -> list[_Entry]:
    """The images of all joined image sets, in the order of their lists."""
    devkit = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    entries: list[_Entry] = []
    for part in imageset.split("+"):
        year, _, split = part.strip().partition("_")
        folder = devkit / f"VOC{year}"
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not (year and split and listing.is_file()):
            raise DataError(root, f"no image set {part!r}; there is: {_what_is_there(devkit)}")
        entries += [_Entry(folder, year, stem, listing) for stem in _read_stems(folder, listing)]
    times = Counter((entry.year, entry.stem) for entry in entries)
    repeated = [entry for entry in entries if times[entry.year, entry.stem] > 1]
    if repeated:
        stems = dict.fromkeys(entry.stem for entry in repeated)
        raise DataError(
            repeated[0].listing, f"{imageset} lists images more than once: {', '.join(stems)}"
        )
    return entries


def _what_is_there(devkit: Path) -> str:
    """`2007_train, 2007_val`: the image sets of a devkit, but for the lists of a VOC class."""
    found = []
    for listing in sorted(devkit.glob("VOC*/ImageSets/Main/*.txt")):
        if listing.stem.partition("_")[0] not in VOC_CLASSES or "_" not in listing.stem:
            found.append(f"{listing.parts[-4][len('VOC') :]}_{listing.stem}")
    return ", ".join(found) or "no VOC{year}/ImageSets/Main/*.txt at all"


def _read_stems(folder: Path, listing: Path) -> list[str]:
    try:
        lines = [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(listing, f"unreadable list: {error}") from error
    stems = list(filter(None, lines))
    marked = [CLASS_LIST_LINE.fullmatch(line) for line in stems]
    if all(marked) and not any(_is_there(folder, line) for line in stems):
        stems = [line[1] for line in marked if line[2] != "-1"]
    if not stems:
        raise DataError(listing, "lists no images")
    return stems


def _is_there(folder: Path, stem: str) -> bool:
    """Whether VOC{year} has an annotation or an image of that name."""
    names = ("Annotations/{}.xml", *("JPEGImages/{}" + ending for ending in ENDINGS))
    return any(isfile(f"{folder}/{name.format(stem)}") for name in names)


def _read_all(
    entries: list[_Entry], notes: DataNotes, skip_bad: bool, rules: _Rules
) -> list[_Read]:
    """Annotations and image headers of all entries; bad ones raise or go into the notes."""
    read = []
    quiet = None if len(entries) > PROGRESS_FROM else True
    for entry in tqdm(entries, "reading annotations", leave=False, disable=quiet):
        with skipping(notes, skip_bad):
            annotation = _read_annotation(entry, rules.require_annotations)
            image = _find_image(entry)
            height, width = image_size(image, rules.exif_orientation, rules.max_pixels)
            read.append(_Read(entry, image, height, width, annotation))
    return read


def _entry_path(entry: _Entry, folder: str, ending: str) -> Path:
    try:
        return path_inside(entry.folder / folder, entry.stem + ending)
    except ValueError as error:
        raise DataError(entry.listing, f"bad image id: {error}") from error


def _find_image(entry: _Entry) -> Path:
    for ending in ENDINGS:
        path = _entry_path(entry, "JPEGImages", ending)
        if isfile(path):
            return path
    raise DataError(
        _entry_path(entry, "JPEGImages", ".jpg"),
        f"no such image (nor .jpeg .png .bmp), though {entry.listing} lists it",
    )


def _read_annotation(entry: _Entry, required: bool) -> _Annotation:
    path = _entry_path(entry, "Annotations", ".xml")
    if not isfile(path):
        if required:
            raise DataError(path, f"no such annotation file, though {entry.listing} lists it")
        none = np.zeros(0, bool)
        return _Annotation(path, (), np.zeros((0, 4)), none, none, None)
    root = _parse(path)
    objects = root.findall("object")
    where = [f"object {i}: " for i in range(1, len(objects) + 1)]
    flags = {
        flag: np.array([_flag(path, o, flag, w) for o, w in zip(objects, where)], bool)
        for flag in ("difficult", "truncated")
    }
    boxes = [[_number(path, o, f"bndbox/{c}", w) for c in CORNERS] for o, w in zip(objects, where)]
    return _Annotation(
        path=path,
        names=tuple(_text(path, o, "name", w) for o, w in zip(objects, where)),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        size=_stated_size(path, root),
        **flags,
    )


def _parse(path: Path) -> Element:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(path, f"broken XML: {error}") from error
    except (OSError, ValueError, LookupError) as error:  # ValueError: what defusedxml forbids
        raise DataError(path, f"unreadable XML: {error!r}") from error
    if root.tag != "annotation":
        raise DataError(path, f"the root element is <{root.tag}>, not <annotation>")
    return root


def _text(path: Path, parent: Element, field: str, where: str) -> str:
    text = (parent.findtext(field) or "").strip()
    if not text:
        raise DataError(path, f"{where}{field} is missing or empty")
    return text


def _number(path: Path, parent: Element, field: str, where: str) -> float:
    text = _text(path, parent, field, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(path, f"{where}{field} is not a finite number: {text!r}")
    return value


def _flag(path: Path, parent: Element, field: str, where: str) -> bool:
    """A 0 or 1; a missing or empty element is 0."""
    if not (parent.findtext(field) or "").strip():
        return False
    return _number(path, parent, field, where) != 0


def _stated_size(path: Path, root: Element) -> tuple[float, float] | None:
    size = root.find("size")
    if size is None:
        return None
    height, width = (_number(path, size, side, "size/") for side in ("height", "width"))
    return (height, width) if height and width else None


def _choose_classes(
    root: Path, class_names: Sequence[str] | str | None, read: list[_Read]
) -> tuple[str, ...]:
    if class_names is not None and class_names != "auto":
        return check_class_names(root, class_names)
    found = {name for item in read for name in item.annotation.names}
    return tuple(sorted(found)) or VOC_CLASSES


def _record(
    item: _Read, class_of: dict[str, int], prefix: bool, notes: DataNotes, upright: bool
) -> ImageRecord:
    annotation, entry = item.annotation, item.entry
    for name in annotation.names:
        if name not in class_of:
            nearest = closest(name, class_of)
            standard = "; class_names=voc would be the 20 of VOC" * (name in VOC_CLASSES)
            raise DataError(
                annotation.path,
                f"unknown class {name!r}; the closest known is {nearest!r}{standard}",
            )
    size = item.height, item.width
    if annotation.size == size[::-1] != size:
        raise size_error(item.image, size, annotation.size, upright)
    boxes = annotation.boxes - (1, 1, 0, 0)
    stray = (annotation.boxes[:, 2:] <= annotation.boxes[:, :2]).any(axis=1)
    boxes, keep = clean_boxes(boxes, *size, notes, item.image, stray)
    boxes = boxes[keep]
    if annotation.size not in (None, size):
        notes.note_size(item.image, annotation.size, size)
    classes = np.array([class_of[name] for name in annotation.names], np.int64)
    return ImageRecord(
        image_id=f"{entry.year}_{entry.stem}" if prefix else entry.stem,
        path=item.image,
        height=item.height,
        width=item.width,
        boxes=boxes,
        classes=classes[keep],
        crowd=np.zeros(len(boxes), bool),
        difficult=annotation.difficult[keep],
        truncated=annotation.truncated[keep],
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )
