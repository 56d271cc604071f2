"""LabelMe's JSON files, one for each image: polygons, rectangles and circles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.data.coco.document import Entry, are_numbers
from mxrcnn.data.formats.beside import load_beside
from mxrcnn.data.labelled import Labelled
from mxrcnn.data.reading import Reading, read_text
from mxrcnn.data.records import DataError, Dataset

FOLDERS = ("annotations", "json", "jsons", "labels", "labelme")
#: fields of a shape that are read
READ = {"label", "points", "group_id", "shape_type"}
#: kinds of shape -> corners of one at least, at most
SHAPES = {"polygon": (3, 10**6), "rectangle": (2, 2), "circle": (2, 2)}


def load_labelme(
    root: str | Path, imageset: str, class_names: Sequence[str] | str, reading: Reading
) -> Dataset:
    """Read images with LabelMe's JSON files of the same stems; `imagePath` is not used.

    Coordinates are continuous pixels. Polygons have masks; a circle becomes its box. Polygons of
    one label and group_id are one object. Other shapes are left out and counted, as are circles'
    round outlines. Raises DataError, naming file, shape and value.
    """
    how = (reading, ".json", FOLDERS, _read, "coco")
    return load_beside(Path(root), imageset, class_names, *how)


def _read(path: Path, image: Path, reading: Reading) -> Labelled:
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise DataError(path, "not LabelMe's JSON: shapes is missing or not a list")
    whole = Entry(path, "file", document)
    sides = whole.side("imageHeight"), whole.side("imageWidth")
    groups: dict[Any, tuple[str, list[np.ndarray], list[Any]]] = {}
    for index, values in enumerate(document["shapes"]):
        entry = Entry(path, f"shapes[{index}]", values)
        shape = _read_shape(entry, reading)
        if shape is None:
            continue
        label, corners, polygon = shape
        group = values.get("group_id")
        if group is not None and not isinstance(group, (int, str)):
            raise entry.error("group_id", "is not a number")
        key = index if group is None or polygon is None else (label, group)
        _, boxes, polygons = groups.setdefault(key, (label, [], []))
        boxes.append(corners)
        polygons += [polygon] if polygon else []
    joined = [np.concatenate(corners) for _, corners, _ in groups.values()]
    boxes = [[*corners.min(axis=0), *corners.max(axis=0)] for corners in joined]
    return Labelled(
        path,
        "",
        image,
        reading.image_size(image),
        tuple(label for label, _, _ in groups.values()),
        np.array(boxes, np.float64).reshape(-1, 4),
        stated=None if None in sides else sides,
        masks=tuple(polygons or None for _, _, polygons in groups.values()),
    )


def _read_shape(
    entry: Entry, reading: Reading
) -> tuple[str, np.ndarray, list[float] | None] | None:
    """(label, corners (n, 2), polygon or None) of a shape; None for a kind that is no region."""
    label, points = entry.required("label"), entry.required("points")
    if not isinstance(label, str) or not label.strip() or not label.isprintable():
        raise entry.error("label", "is not a name")
    kind = entry.values.get("shape_type") or "polygon"
    if not isinstance(kind, str):
        raise entry.error("shape_type", "is not a text")
    if kind not in SHAPES:
        reading.notes.counted[f"shapes that are a {kind[:40]} were left out"] += 1
        return None
    least, most = SHAPES[kind]
    good = isinstance(points, list) and least <= len(points) <= most
    if not good or not all(are_numbers(point) and len(point) == 2 for point in points):
        raise entry.error("points", f"are not the corners x, y of a {kind}")
    reading.notes.unread.update(key[:40] for key in entry.values.keys() - READ if entry.values[key])
    corners = np.array(points, np.float64)
    if kind == "polygon":
        return label.strip(), corners, corners.ravel().tolist()
    if kind == "circle":
        reading.notes.counted["circles were read as their boxes"] += 1
        radius = np.hypot(*(corners[1] - corners[0]))
        corners = np.stack([corners[0] - radius, corners[0] + radius])
    return label.strip(), corners, None
