"""Plain text: one CSV table, and YOLO's label files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager

from mxrcnn.data.formats.yolo_write import label_line, polygon_places, yolo_places
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
    """yolo/labels/STEM.txt and yolo/classes.txt; the file of an image without objects is empty.

    A line is a box, or, with `output.polygons`, the outline of an object's mask ("segments").
    """
    folder = output.folder / "yolo"
    with atomic_write(folder / "classes.txt") as file:
        file.writelines(f"{name}\n" for name in output.class_names)

    def write(result: Result) -> None:
        found = result.found
        places = yolo_places(found.boxes, *found.size).tolist()
        if output.polygons:
            places = [polygon_places(ring, *found.size) for ring in result.rings]
        with atomic_write(folder / "labels" / f"{result.stem}.txt") as file:
            for k, place, score in zip(found.classes, places, found.scores.tolist()):
                numbers = [*place, score] if output.yolo_scores else place
                file.write(label_line(k, numbers, ".6f"))

    yield write
