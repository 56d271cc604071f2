"""Images and their annotation files, one for each image, in the usual layouts of folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path
from reprlib import repr as short
from typing import NamedTuple

from mxrcnn.data.images import path_inside
from mxrcnn.data.reading import Reading
from mxrcnn.data.records import DataError

#: endings of image files, in small letters
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "photos")
#: the image set that is the whole folder
ALL = "all"


def files_of(root: Path, imageset: str, ending: str) -> list[Path]:
    """The files of image sets that are each one file: their names, with or without the ending."""
    names = [part.strip() for part in imageset.split("+")]
    files = [root / (n if n.lower().endswith(ending) else f"{n}{ending}") for n in names]
    for path in files:
        if not isfile(path):
            there = (
                ", ".join(sorted(p.name for p in root.glob(f"*{ending}"))) or f"no {ending} file"
            )
            raise DataError(path, f"no such file; there is: {there}")
    return files


def named_image(
    path: Path, where: str, names: Sequence[str], folders: Sequence[str], reading: Reading
) -> Path:
    """The image that a file names: in `reading.images`, else beside the file or in its `folders`.

    names: how the file's entry may mean it, the likeliest first. where: the entry, for the
    DataError if there is no such image, or if the name leads out of the folder.
    """
    places = [path.parent, *(path.parent / folder for folder in folders)]
    places = [reading.images] if reading.images else places
    try:
        tried = [path_inside(place, name) for name in names for place in places]
    except ValueError as error:
        raise DataError(path, f"{where}: {error}") from None
    image = next((place for place in tried if isfile(place)), None)
    if image is None:
        usual = f"beside it or in {', '.join(folders)}; --images DIR takes another folder"
        looked = f"in {reading.images}" if reading.images else usual
        raise DataError(path, f"{where}: there is no image {short(names[0])} {looked}")
    return image


class Pair(NamedTuple):
    """An image and its annotation file; one of them may be None."""

    image: Path | None
    labels: Path | None


def find_folders(
    root: Path, imageset: str, ending: str, names: Sequence[str]
) -> list[tuple[Path, Path]]:
    """(image folder, annotation folder) of each layout in which an image set is there.

    The image set is a folder of root, or of root's folder of images (`images/train`, and
    `labels/train` for its annotations); "all" is root. Annotations are beside the images or in a
    folder with one of these names: in the images' folder, or beside it if that is named `images`
    or so. Files are direct children of both.
    """
    split = "" if imageset == ALL and not (root / ALL).is_dir() else imageset
    bases = [root / split, *(root / name / split for name in IMAGE_FOLDERS)]
    bases += [root / split / name for name in IMAGE_FOLDERS] if split else []
    found: dict[tuple[Path, Path], None] = {}
    for images in bases:
        if not _has(images, ENDINGS):
            continue
        places = [images, *(images / name for name in names)]
        beside = images.name.lower() in map(str.lower, IMAGE_FOLDERS)
        for name in names:
            places += [images.parent / name] if beside else []
            places += [root / name / split, root / split / name]
        for labels in dict.fromkeys(places):
            if _has(labels, (ending,)):
                found[images, labels] = None
    return list(found)


def the_folders(root: Path, imageset: str, ending: str, names: Sequence[str]) -> tuple[Path, Path]:
    """The one result of `find_folders`; DataError if there is none or more than one."""
    found = find_folders(root, imageset, ending, names)
    if len(found) == 1:
        return found[0]
    if found:
        places = "; ".join(f"{images} with {labels}" for images, labels in found)
        raise DataError(root, f"image set {imageset!r} could be any of: {places}")
    raise DataError(
        root,
        f"image set {imageset!r} has no images with *{ending} files beside them or in a folder "
        f"{', '.join(names)}; looked in it and in {', '.join(IMAGE_FOLDERS)}",
    )


def find_pairs(
    images: Path, labels: Path, ending: str, no_labels: Sequence[str] = ()
) -> list[Pair]:
    """The images of a folder with the annotation files of the same stems, sorted by stem.

    no_labels: names of files, in small letters, that have the ending but are no annotations.
    Raises DataError for an annotation of two images, and for a folder that cannot be read.
    """
    of_image: dict[str, Path] = {}
    twice: dict[str, Path] = {}
    for path in filter(isfile, _files(images, ENDINGS)):
        if path.stem in of_image:
            twice[path.stem] = path
        of_image.setdefault(path.stem, path)
    of_label = {p.stem: p for p in _files(labels, (ending,)) if p.name.lower() not in no_labels}
    for stem, path in twice.items():
        if stem in of_label:
            raise DataError(
                of_label[stem], f"belongs to two images: {of_image[stem].name} and {path.name}"
            )
    stems = sorted(of_image.keys() | of_label.keys())
    return [Pair(of_image.get(stem), of_label.get(stem)) for stem in stems]


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(folder, f"unreadable folder: {error}") from error
    return [folder / name for name in names if _ends(name, endings)]


def _has(folder: Path, endings: Sequence[str]) -> bool:
    return folder.is_dir() and any(_ends(name, endings) for name in os.listdir(folder))


def _ends(name: str, endings: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(endings)) and not name.startswith(".")


def folders_inside(folder: Path) -> list[Path]:
    """The folders in a folder, at any depth, that have images; not hidden ones, and not links."""
    found = []
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if Path(place) != folder and any(_ends(name, ENDINGS) for name in files):
            found.append(Path(place))
    return found


def missing_image(pair: Pair, images: Path) -> DataError:
    """The error for an annotation file without its image."""
    return DataError(
        pair.labels, f"there is no image {pair.labels.stem}.jpg (.png ...) in {images}"
    )
