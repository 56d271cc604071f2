"""Data sets in another form: COCO's, Pascal VOC's or YOLO's, with what that form cannot hold.

`source` reads all image sets of a data set, `layouts` writes them, `losses` compares what was
written, read back by our own readers, with what was to be written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mxrcnn.data import read_annotations
from mxrcnn.data.convert.layouts import LAYOUTS, Images
from mxrcnn.data.convert.losses import compare
from mxrcnn.data.convert.source import Source, read_source
from mxrcnn.data.records import DataError
from mxrcnn.files import atomic_folder

__all__ = ["LAYOUTS", "Conversion", "Source", "convert", "read_source"]


@dataclass(frozen=True)
class Conversion:
    """A new data set. sets: image set -> (images, objects); lost: what it does not hold, counted.

    images: how many image files there are, and whether they are copies or links.
    """

    folder: Path
    sets: dict[str, tuple[int, int]]
    images: str
    lost: tuple[str, ...]


def convert(
    source: Source, folder: str | Path, to: str, link: bool = False, polygons: bool = False
) -> Conversion:
    """Write a data set into a new folder, in the form `to`: coco, voc or yolo.

    link: link images instead of copying them. polygons: in YOLO's form, write polygons instead of
    boxes. The folder is whole or not there. What was written is read back and compared, which takes
    about as long as reading the source. Raises DataError if the folder is not empty, if two images
    would get the same name, and for names that the form cannot hold; OSError for a full disk.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(folder, "is there already: give a new or an empty folder, or remove it")
    layout = LAYOUTS[to]
    plan = layout.plan(source)
    images = Images(link)
    with atomic_folder(folder) as partial:
        written = layout.write(plan, partial, images, polygons)
        lost = [*plan.said, *compare(plan, layout, _read_back(written, partial, source, to))]
    sets = {name: (len(found), sum(map(len, found))) for name, found in plan.sets.items()}
    return Conversion(folder, sets, str(images), tuple(lost))


def _read_back(written: dict[str, str], folder: Path, source: Source, to: str) -> dict:
    """Image set -> its Dataset as read from the folder. written: image set -> its name in there."""
    data = replace(source.data, dataset=to, root=str(folder), images="", class_names=("auto",))
    data = replace(data, skip_bad=False)
    try:
        return {name: read_annotations(data, where) for name, where in written.items()}
    except DataError as error:
        raise DataError(
            source.data.root, f"its {to} form cannot be read back, so it was removed: {error}"
        ) from error
