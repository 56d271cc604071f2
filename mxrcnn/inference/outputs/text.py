"""Plain text: one CSV table, and YOLO's label files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mxrcnn.files import atomic_write
from mxrcnn.inference.outputs.result import Output, Result, Writer

COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "score")


@contextmanager
def csv_file(output: Output) -> Iterator[Writer]:
    """predictions.csv: a line an object, corners in continuous pixels from 0.

    An image without objects has no line.
    """
    with atomic_write(output.folder / "predictions.csv") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)

        def write(result: Result) -> None:
            found = result.found
            height, width = found.size
            for name, box, score in zip(found.names, found.boxes.tolist(), found.scores.tolist()):
                corners = [f"{side:.3f}" for side in box]
                table.writerow([result.name, width, height, name, *corners, f"{score:.6f}"])

        yield write


@contextmanager
def yolo_files(output: Output) -> Iterator[Writer]:
    """yolo/labels/STEM.txt and yolo/classes.txt; the file of an image without objects is empty."""
    folder = output.folder / "yolo"
    with atomic_write(folder / "classes.txt") as file:
        file.writelines(f"{name}\n" for name in output.class_names)

    def write(result: Result) -> None:
        found = result.found
        places = yolo_places(found.boxes, *found.size)
        with atomic_write(folder / "labels" / f"{result.stem}.txt") as file:
            for k, place, score in zip(found.classes, places.tolist(), found.scores.tolist()):
                numbers = [*place, score] if output.yolo_scores else place
                file.write(" ".join([str(k - 1), *(f"{x:.6f}" for x in numbers)]) + "\n")

    yield write


def yolo_places(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (D, 4) xyxy as YOLO's centre and size (D, 4), in shares of the image's sides."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([centres, sides], axis=1) / (width, height, width, height)
