"""Data: annotations and images on disk, and their way to the arrays of a batch.

`records` holds the core types. `voc`, `coco`, `formats` and `synthetic` read, write or make data
sets; the readers share `reading` and `labelled`. `images` opens image files, `pictures` any image
that a user passes. `split` divides a data set, `validation` opens a run's images to validate on,
`stats` counts. `decodable` finds images that cannot be decoded, `identity` tells whether data have
changed, `check` examines data before training. `transforms`, `plans`, `batches` and `loader` make
network inputs; `shown` draws them, and `trial` tries augmentations.
Anchors, targets and boxes are computed in `symnet.geometry`; metrics live in `mxrcnn.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Union

from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data.coco import load_coco, load_joined, resolve_coco
from mxrcnn.data.decodable import only_decodable
from mxrcnn.data.formats.csv_table import load_csv
from mxrcnn.data.formats.cvat import load_cvat
from mxrcnn.data.formats.labelimg import load_labelimg
from mxrcnn.data.formats.labelme import load_labelme
from mxrcnn.data.formats.yolo import load_yolo
from mxrcnn.data.reading import Reading
from mxrcnn.data.records import DataError, Dataset
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.data.voc import load_voc

ClassNames = Union[str, Sequence[str]]


#: kinds of data set whose files name their images, which may be in any folder: `DataConfig.images`
NAMING = ("coco", "csv", "cvat")


def _how(data: DataConfig) -> dict[str, Any]:
    """The arguments that all readers take."""
    how = {name: getattr(data, name) for name in ("skip_bad", "exif_orientation")}
    return {**how, "max_pixels": data.max_image_pixels}


def _open_voc(data: DataConfig, imageset: str, class_names: ClassNames) -> Dataset:
    return load_voc(data.root, imageset, class_names, **_how(data))


def _open_coco(data: DataConfig, imageset: str, class_names: ClassNames) -> Dataset:
    is_file = any(Path(place, imageset).is_file() for place in (data.root, "."))
    parts = [imageset] if is_file else imageset.split("+")  # a file's own name may have a +
    files = [resolve_coco(data.root, part.strip()) for part in parts]
    if data.images:
        files = [(file, Path(data.images)) for file, _ in files]
    if len(files) > 1:
        return load_joined(files, imageset, class_names, **_how(data))
    return load_coco(*files[0], class_names, **_how(data))


def _open_synthetic(data: DataConfig, imageset: str, class_names: ClassNames) -> Dataset:
    """The VOC files, or, if masks are wanted, the COCO files, where `2007_train` is `train`."""
    data = replace(data, root=str(ensure_synthetic(data.root)))
    if not data.masks:
        return _open_voc(data, imageset, class_names)
    splits = (part.strip().removeprefix("2007_") for part in imageset.split("+"))
    return _open_coco(data, "+".join(splits), class_names)


def _opens(
    load: Callable[[str, str, ClassNames, Reading], Dataset],
) -> Callable[[DataConfig, str, ClassNames], Dataset]:
    """A reader of `formats` as a function of the settings."""

    def opened(data: DataConfig, imageset: str, class_names: ClassNames) -> Dataset:
        images = Path(data.images) if data.images else None
        return load(data.root, imageset, class_names, Reading(**_how(data), images=images))

    return opened


#: kinds of data set, as in `--dataset`, and their readers: functions of the settings, the image
#: set's name, and the class names (a list, "auto" or "voc"). An entry here is all that a new kind
#: of data set needs; all tools then accept it.
DATASETS: dict[str, Callable[[DataConfig, str, ClassNames], Dataset]] = {
    "synthetic": _open_synthetic,
    "voc": _open_voc,
    "coco": _open_coco,
    "labelimg": _opens(load_labelimg),
    "yolo": _opens(load_yolo),
    "labelme": _opens(load_labelme),
    "csv": _opens(load_csv),
    "cvat": _opens(load_cvat),
}


def check_dataset(name: str) -> None:
    """ConfigError for an unknown kind of data set."""
    if name not in DATASETS:
        raise ConfigError(f"no data set {name!r}; there are: {', '.join(DATASETS)}")


def read_annotations(data: DataConfig, imageset: str) -> Dataset:
    """The image set of that name, with the classes that the configuration asks for.

    No image is decoded. Raises as `open_dataset` does.
    """
    check_dataset(data.dataset)
    if data.images and data.dataset not in NAMING:
        raise ConfigError(
            f"--images {data.images}: only for {', '.join(NAMING)}, whose files name their images; "
            f"those of {data.dataset} have a place in its folder"
        )
    if data.images and not Path(data.images).is_dir():
        raise DataError(data.images, "no such folder of images (--images)")
    names = data.class_names[0] if data.class_names in (("auto",), ("voc",)) else data.class_names
    return DATASETS[data.dataset](data, imageset, names)


def open_dataset(
    data: DataConfig, imageset: str, remember: Path | None = None, read: Dataset | None = None
) -> Dataset:
    """The image set of that name, with the classes that the configuration asks for.

    With skip_bad every image is decoded once, so that bad ones are reported at the start.
    remember: a file that stores the results, such as `decodable.FILE_NAME` in a run folder, so that
    unchanged images are not decoded again. read: what `read_annotations` gave, if it was called.
    Raises DataError for bad files, ConfigError for an unknown kind of data set.
    """
    dataset = read_annotations(data, imageset) if read is None else read
    return only_decodable(dataset, data, remember) if data.skip_bad else dataset
