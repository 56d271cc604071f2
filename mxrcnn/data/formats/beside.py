"""Data sets with one annotation file for each image: LabelImg's XML, and LabelMe's JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mxrcnn.data.formats.pairs import find_pairs, missing_image, the_folders
from mxrcnn.data.labelled import Labelled, finish
from mxrcnn.data.reading import Reading, progress
from mxrcnn.data.records import Dataset

#: reads an annotation file of an image
ReadOne = Callable[[Path, Path, Reading], Labelled]


def load_beside(
    root: Path,
    imageset: str,
    class_names: Sequence[str] | str,
    reading: Reading,
    ending: str,
    names: Sequence[str],
    read_one: ReadOne,
    metric: str,
) -> Dataset:
    """The images with an annotation file of this ending, for image sets such as train+val.

    Images without one are left out, as they may not be labelled yet, and counted. names: folders of
    annotation files. Classes are sorted by name. Raises DataError, also for an annotation file
    without an image.
    """
    items: list[Labelled] = []
    for part in imageset.split("+"):
        images, labels = the_folders(root, part.strip(), ending, names)
        for pair in progress(find_pairs(images, labels, ending), "reading annotations"):
            with reading.skipping():
                if pair.labels is None:
                    what = f"images have no {ending} file and were left out"
                    reading.notes.counted[what] += 1
                elif pair.image is None:
                    raise missing_image(pair, images)
                else:
                    items.append(read_one(pair.labels, pair.image, reading))
    return finish(root, imageset, class_names, items, reading, metric)
