"""Pascal VOC's image sets and annotations as a Dataset.

Letters: N objects of an image. Boxes in the files are 1-based and inclusive; here they become
continuous: (xmin - 1, ymin - 1, xmax, ymax).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.labelled import Labelled, assemble, choose_classes
from mxrcnn.data.reading import VOC_CLASSES, Reading, progress
from mxrcnn.data.records import Dataset
from mxrcnn.data.voc.annotations import Annotation, read_annotation
from mxrcnn.data.voc.image_sets import declared_classes, list_images


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

    root holds `VOC{year}/`, or a folder `VOCdevkit/` that does. Image ids are the file names'
    stems. If years are joined and share a stem, every id gets its year in front (2007_000012).
    Names may have spaces. If all lines of a list end in -1, 0 or 1, it is the list of a class
    (`000012 -1`), and images marked -1 are left out. But if one of its whole lines names an image
    or an annotation (`photo -1.jpg`), all lines are names.

    class_names: names in order; "voc" for the 20 standard ones; "auto" or None for the names of
    labelmap.txt in its order, then other names in the files, sorted, or the 20 standard ones if
    there are none.
    skip_bad: leave out bad images and say why in `notes.skipped`, instead of raising.
    exif_orientation: sizes are those of images turned upright by their EXIF orientation.
    require_annotations: with False, an image without an XML file has no objects.
    max_pixels: images of more pixels are refused; 0 is no limit.

    The size of the image file is used; an annotation with another size is noted. It is an error if
    the annotation has height and width exchanged: its boxes belong to the turned image.
    A box with xmax <= xmin or ymax <= ymin in the file is dropped and counted. With VOC's inclusive
    corners xmin == xmax could mean one pixel, but in practice it is a stray click.
    Raises DataError, naming file and field.
    """
    listed = list_images(Path(root), imageset)
    reading = Reading(skip_bad, exif_orientation, max_pixels)
    with_year = len({image.stem for image in listed}) < len(listed)
    read = []
    for image in progress(listed, "reading annotations"):
        with reading.skipping():
            annotation = read_annotation(image, require_annotations)
            path = image.image()
            image_id = f"{image.year}_{image.stem}" if with_year else image.stem
            read.append(labelled_by_voc(image_id, path, annotation, reading))
    declared = declared_classes(listed)
    if declared:
        others = {name for item in read for name in item.names}.difference(declared)
        declared = (*declared, *sorted(others))
    names = choose_classes(Path(root), class_names, read, declared, VOC_CLASSES)
    return assemble(Path(root), imageset, names, read, reading)


def labelled_by_voc(
    image_id: str, image: Path, annotation: Annotation, reading: Reading
) -> Labelled:
    """An image with VOC's 1-based inclusive boxes made continuous."""
    size = reading.image_size(image)
    reading.notes.unread.update(annotation.unread)
    return Labelled(
        annotation.path,
        image_id,
        image,
        size,
        annotation.names,
        annotation.boxes - (1, 1, 0, 0),
        stated=annotation.size,
        difficult=annotation.difficult,
        truncated=annotation.truncated,
        stray=(annotation.boxes[:, 2:] <= annotation.boxes[:, :2]).any(axis=1),
    )
