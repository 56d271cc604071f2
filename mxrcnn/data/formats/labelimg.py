"""LabelImg's layout: images with VOC's XML files beside them or in a folder of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mxrcnn.data.formats.beside import load_beside
from mxrcnn.data.labelled import Labelled
from mxrcnn.data.reading import Reading
from mxrcnn.data.records import Dataset
from mxrcnn.data.voc.annotations import read_xml
from mxrcnn.data.voc.load import labelled_by_voc

FOLDERS = ("annotations", "Annotations", "xml", "xmls", "labels", "Labels")


def load_labelimg(
    root: str | Path, imageset: str, class_names: Sequence[str] | str, reading: Reading
) -> Dataset:
    """Read images with XML files of the same stems.

    The XML's own <filename> is not used, as with VOC: renamed images often keep an old one. Boxes
    are VOC's, 1-based and inclusive. Raises DataError, naming file and field.
    """
    how = (reading, ".xml", FOLDERS, _read, "voc07")
    return load_beside(Path(root), imageset, class_names, *how)


def _read(path: Path, image: Path, reading: Reading) -> Labelled:
    return labelled_by_voc(image.stem, image, read_xml(path), reading)
