"""YOLO's labels: a text file for each image, a line for each object, a box or a polygon."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import repr as short
from typing import Any

import numpy as np

from mxrcnn.data.formats.pairs import (
    ALL,
    Pair,
    find_pairs,
    folders_inside,
    missing_image,
    the_folders,
)
from mxrcnn.data.formats.yolo_names import names_of, read_classes, read_data_yaml
from mxrcnn.data.labelled import Labelled, finish
from mxrcnn.data.reading import Reading, finite_number, progress, read_text
from mxrcnn.data.records import DataError, Dataset

FOLDERS = ("labels",)
#: the image sets of a data.yaml
SETS = ("train", "val", "test")
YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
NO_LABELS = ("classes.txt", "readme.txt", "readme.roboflow.txt", "readme.dataset.txt")
#: characters of a path in a list of images, at most
LONGEST_PATH = 4096
#: how far a share of the image's side may be outside 0..1, by rounding
SLACK = 0.01
#: an edge this little outside, by the files' six decimals, is on the image's edge, without a note
ROUNDING = 1e-5


def load_yolo(
    root: str | Path, imageset: str, class_names: Sequence[str] | str, reading: Reading
) -> Dataset:
    """Read image sets such as train+val of a folder with a data.yaml, or with a classes.txt.

    A data.yaml says where an image set's images are, by folders or by text files that list them, a
    path a line; otherwise they are in images/NAME, NAME/images
    or NAME ("all": in images, or root itself). Labels are in a folder `labels` in place of
    `images`, or beside the images. Only folders inside root are read: of a path that leads
    elsewhere (`../train/images`), the longest end that is there is used, and counted in the notes.
    Folders inside that of a data.yaml's image set belong to it, unless they are another image set.
    A line is `class x y width height` (centre and sides) or `class x1 y1 x2 y2 x3 y3 ...`, in
    shares of the image's sides. An image without a label file has no objects, which is counted.
    Classes are in the file's order. Raises DataError, naming file, line and value.
    """
    root = Path(root)
    source, names, values = _names(root)
    items: list[Labelled] = []
    for part in imageset.split("+"):
        for found in _found(root, source, values, part.strip(), reading):
            items += _read_pairs(found, names, reading)
    return finish(root, imageset, class_names, items, reading, "coco", names)


def _names(root: Path) -> tuple[Path, tuple[str, ...], dict[str, Any]]:
    """(file, class names, values of data.yaml) of the first file that is there."""
    for name in YAMLS:
        if (root / name).is_file():
            values = read_data_yaml(root / name)
            return root / name, names_of(root / name, values), values
    for name in LISTS:
        if (root / name).is_file():
            return root / name, read_classes(root / name), {}
    raise DataError(root, f"no class names: there is no {', '.join((*YAMLS, *LISTS))}")


def _found(
    root: Path, source: Path, values: dict[str, Any], split: str, reading: Reading
) -> list[list[tuple[Pair, Path]]]:
    """The images of each folder or list of an image set, and the folders they are in."""
    key = "val" if split == "valid" and split not in values else split
    places = values.get(key)
    if not places:
        if key in values:
            raise DataError(source, f"{key} is empty")
        known = [name for name in SETS if values.get(name)]
        if known and split != ALL:
            raise DataError(source, f"no image set {split!r}; there is: {', '.join(known)}")
        return [_in_folders([the_folders(root, split, ".txt", FOLDERS)])]
    base = values.get("path", "")
    out = []
    for place in places if isinstance(places, list) else [places]:
        if not isinstance(place, str) or not isinstance(base, str):
            raise DataError(source, f"{split} is not a folder, a list of images, or several")
        place = f"{base}/{place}" if base else place
        images = _found_inside(root, source, split, place, reading)
        if place.endswith(".txt"):
            out.append(_listed(root, images, reading))
            continue
        others = {path for k in SETS if k != key for path in _meant(root, values.get(k))}
        inside = [folder for folder in folders_inside(images) if folder not in others]
        out.append(
            _in_folders([(folder, _labels_of(root, folder)) for folder in (images, *inside)])
        )
    return out


def _in_folders(folders: list[tuple[Path, Path]]) -> list[tuple[Pair, Path]]:
    """The images and label files of (images, labels) folders; DataError if there are no labels."""
    pairs = [(pair, f[0]) for f in folders for pair in find_pairs(*f, ".txt", NO_LABELS)]
    if not any(pair.labels for pair, _ in pairs):
        images, labels = folders[0]
        raise DataError(labels, f"no label file, for the images in {images}")
    return pairs


def _listed(root: Path, path: Path, reading: Reading) -> list[tuple[Pair, Path]]:
    """The images that a file lists, one a line, and their label files.

    Paths are relative to the list, or have an end that is one inside root, which is counted.
    """
    pairs, moved = [], f"paths in {path.name} were read as others inside the folder"
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        with reading.skipping():
            if len(line) > LONGEST_PATH:
                raise DataError(path, f"line {number} is too long for a path: {short(line)}")
            places = _meant(root, line.strip())
            beside = [path.parent / place.relative_to(root) for place in places[:1]]
            image = next((place for place in (*beside, *places) if isfile(place)), None)
            if image is None:
                raise DataError(path, f"line {number}: there is no image {short(line)} in {root}")
            if image not in (*beside, *places[:1]):
                reading.notes.counted[moved] += 1
            labels = _labels_of(root, image.parent) / f"{image.stem}.txt"
            pairs.append((Pair(image, labels if isfile(labels) else None), image.parent))
    if not any(pair.labels for pair, _ in pairs):
        raise DataError(path, "no image that it lists has a label file")
    return pairs


def _meant(root: Path, places: Any) -> list[Path]:
    """The folders in root that paths of data.yaml can mean, the longest paths first."""
    out = []
    for place in places if isinstance(places, list) else [places]:
        if isinstance(place, str) and "\0" not in place:
            kept = [p for p in _parts(place) if p not in ("..", "/", "\\") and ":" not in p]
            fits = max(map(len, kept), default=0) < 256
            out += [root.joinpath(*kept[start:]) for start in range(len(kept)) if fits]
    return out


def _parts(place: str) -> tuple[str, ...]:
    return PureWindowsPath(place).parts if "\\" in place else PurePosixPath(place).parts


def _found_inside(root: Path, source: Path, key: str, place: str, reading: Reading) -> Path:
    """The folder in root that a path of data.yaml means, or the file, if it ends in .txt."""
    for folder in _meant(root, place):
        if isfile(folder) if place.endswith(".txt") else folder.is_dir():
            if folder != root.joinpath(*_parts(place)):
                shown = folder.relative_to(root).as_posix()
                reading.notes.counted[f"path of {source.name} was read as {shown} here"] += 1
            return folder
    what = "list" if place.endswith(".txt") else "folder"
    raise DataError(source, f"{key}: there is no {what} {short(place)} in {root}")


def _labels_of(root: Path, images: Path) -> Path:
    """The folder `labels` in place of the last `images` of a path; else the images' own."""
    parts = list(images.relative_to(root).parts)
    for k in range(len(parts) - 1, -1, -1):
        if parts[k] == "images":
            labels = root.joinpath(*parts[:k], "labels", *parts[k + 1 :])
            return labels if labels.is_dir() else images
    return images


def _read_pairs(
    pairs: list[tuple[Pair, Path]], names: tuple[str, ...], reading: Reading
) -> list[Labelled]:
    items = []
    for pair, images in progress(pairs, "reading labels"):
        with reading.skipping():
            if pair.image is None:
                raise missing_image(pair, images)
            if pair.labels is None:
                what = "images have no label file, and so no objects"
                reading.notes.counted[what] += 1
            size = reading.image_size(pair.image)
            items.append(_read_labels(pair.labels, pair.image, size, names))
    return items


def _read_labels(
    path: Path | None, image: Path, size: tuple[int, int], names: tuple[str, ...]
) -> Labelled:
    found, boxes, masks = [], [], []
    for number, line in enumerate(read_text(path).splitlines() if path else (), start=1):
        if not line.strip():
            continue
        words, where = line.split(), f"line {number}"
        if len(words) != 5 and (len(words) < 7 or not len(words) % 2):
            raise DataError(
                path,
                f"{where} has {len(words)} values, neither the 5 of a box nor those of a polygon: "
                f"{short(line)}",
            )
        values = [finite_number(path, f"{where}: a value", word) for word in words]
        if values[0] % 1 or not 0 <= values[0] < len(names):
            raise DataError(path, f"{where}: class {words[0][:20]} is not in 0..{len(names) - 1}")
        outside = [w for w, v in zip(words[1:], values[1:]) if not -SLACK <= v <= 1 + SLACK]
        if outside or (len(words) == 5 and min(values[3:]) < 0):
            word = outside[0] if outside else " ".join(words[3:])
            raise DataError(path, f"{where}: not a share of the image's side: {word[:40]}")
        shape = np.reshape(values[1:], (-1, 2))
        if len(words) == 5:
            shape = np.stack([shape[0] - shape[1] / 2, shape[0] + shape[1] / 2])
            inside = np.clip(shape, 0, 1)
            shape = np.where(abs(shape - inside) <= ROUNDING, inside, shape)
        shape = shape * size[::-1]
        boxes.append([*shape.min(axis=0), *shape.max(axis=0)])
        masks.append([shape.ravel().tolist()] if len(words) > 5 else None)
        found.append(names[int(values[0])])
    array = np.array(boxes, np.float64).reshape(-1, 4)
    return Labelled(path or image, "", image, size, tuple(found), array, masks=tuple(masks))
