"""YOLO's label files and data.yaml as text. Letters: N objects of an image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def yolo_places(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (N, 4) xyxy as YOLO's centre and size (N, 4), in shares of the image's sides."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([centres, sides], axis=1) / (width, height, width, height)


def polygon_places(polygon: Sequence[float], height: int, width: int) -> list[float]:
    """The corners x1, y1, x2, ... of a polygon in shares of the image's sides."""
    return (np.asarray(polygon, np.float64).reshape(-1, 2) / (width, height)).ravel().tolist()


def label_line(k: int, numbers: Iterable[float], form: str = "") -> str:
    """The line of an object of class k (1, 2, ...), which YOLO counts from 0.

    form: how numbers are written, such as ".6f"; "" writes all of their digits, so that float32
    boxes are the same to the bit when they are read back.
    """
    return " ".join([str(k - 1), *(format(number, form) for number in numbers)]) + "\n"


def data_yaml(class_names: Sequence[str], folders: Mapping[str, str]) -> str:
    """A data.yaml; folders: image set (train, val, test) -> its folder of images, from the file's.

    There is no `path`, as Ultralytics looks for a relative one in its own data folder, and, without
    any, beside data.yaml. Names are quoted, so that `no` and `1` stay names.
    """
    names = (f"  {k}: {json.dumps(name, ensure_ascii=False)}" for k, name in enumerate(class_names))
    sets = (f"{name}: {folder}" for name, folder in folders.items())
    return "\n".join([*sets, "names:", *names, ""])
