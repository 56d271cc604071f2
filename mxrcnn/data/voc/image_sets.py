"""The images that VOC's image sets list, and where their files are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from typing import NamedTuple

from mxrcnn.data.images import path_inside
from mxrcnn.data.reading import VOC_CLASSES, read_text
from mxrcnn.data.records import DataError

#: declares the classes of a devkit's year
LABEL_MAP = "labelmap.txt"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP")
CLASS_LIST_LINE = re.compile(r"(\S.*?)\s+(-1|0|1)")


class Listed(NamedTuple):
    """An image that an image set lists; folder: `VOC{year}`."""

    folder: Path
    year: str
    stem: str
    listing: Path

    def path(self, folder: str, ending: str) -> Path:
        """Its file in a folder of VOC{year}; DataError for a name that leads elsewhere."""
        try:
            return path_inside(self.folder / folder, self.stem + ending)
        except ValueError as error:
            raise DataError(self.listing, f"bad image id: {error}") from error

    def image(self) -> Path:
        """Its image file, whatever its ending; DataError if there is none."""
        for ending in ENDINGS:
            path = self.path("JPEGImages", ending)
            if isfile(path):
                return path
        raise DataError(
            self.path("JPEGImages", ".jpg"),
            f"no such image (nor .jpeg .png .bmp), though {self.listing} lists it",
        )


def list_images(root: Path, imageset: str) -> list[Listed]:
    """The images of all joined image sets, in the order of their lists."""
    devkit = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    images: list[Listed] = []
    for part in imageset.split("+"):
        year, _, split = part.strip().partition("_")
        folder = devkit / f"VOC{year}"
        if (devkit / "ImageSets" / "Main").is_dir():  # the folder of one year, with any name
            folder, year, split = devkit, "", part.strip()
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not (split and isfile(listing)):
            there = ", ".join(image_sets(devkit)) or "no VOC{year}/ImageSets/Main/*.txt at all"
            raise DataError(root, f"no image set {part!r}; there is: {there}")
        images += [Listed(folder, year, stem, listing) for stem in _read_stems(folder, listing)]
    times = Counter((image.year, image.stem) for image in images)
    repeated = [image for image in images if times[image.year, image.stem] > 1]
    if repeated:
        stems = ", ".join(dict.fromkeys(image.stem for image in repeated))
        raise DataError(repeated[0].listing, f"{imageset} lists images more than once: {stems}")
    return images


def image_sets(devkit: Path) -> list[str]:
    """The image sets of a devkit or of one year's folder, such as `2007_train`, `2007_val`.

    Lists of VOC's classes, such as cat_train.txt, are left out.
    """
    found = [listing.stem for listing in sorted(devkit.glob("ImageSets/Main/*.txt"))]
    for listing in sorted(devkit.glob("VOC*/ImageSets/Main/*.txt")):
        if listing.stem.partition("_")[0] not in VOC_CLASSES or "_" not in listing.stem:
            found.append(f"{listing.parts[-4][len('VOC') :]}_{listing.stem}")
    return found


def declared_classes(images: Iterable[Listed]) -> tuple[str, ...]:
    """The class names of the images' labelmap.txt, in its order; () if there is none.

    The form of CVAT and datumaro: a line `name:colour:parts:actions` a class, comments with #; the
    class `background` is none. Raises DataError for a line without a name, and for a name twice.
    """
    names: dict[str, None] = {}
    for folder in dict.fromkeys(image.folder for image in images):
        path = folder / LABEL_MAP
        lines = read_text(path).splitlines() if isfile(path) else []
        here = [line.partition(":")[0].strip() for line in lines if not _is_comment(line)]
        for number, name in enumerate(here):
            if not name or name in here[:number]:
                raise DataError(path, f"class {name!r} is empty or occurs twice")
        names |= dict.fromkeys(here)
    return tuple(name for name in names if name != "background")


def _is_comment(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _read_stems(folder: Path, listing: Path) -> list[str]:
    stems = list(filter(None, map(str.strip, read_text(listing).splitlines())))
    marked = [CLASS_LIST_LINE.fullmatch(line) for line in stems]
    if all(marked) and not any(_is_there(folder, line) for line in stems):
        stems = [line[1] for line in marked if line[2] != "-1"]
    if not stems:
        raise DataError(listing, "lists no images")
    return stems


def _is_there(folder: Path, stem: str) -> bool:
    """True if VOC{year} has an annotation or an image of that name."""
    names = ("Annotations/{}.xml", *("JPEGImages/{}" + ending for ending in ENDINGS))
    return any(isfile(f"{folder}/{name.format(stem)}") for name in names)
