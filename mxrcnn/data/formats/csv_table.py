"""CSV tables of boxes, one object a row: TensorFlow's with a header, and keras-retinanet's."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import NamedTuple

import numpy as np

from mxrcnn.data.formats.pairs import IMAGE_FOLDERS, files_of, named_image
from mxrcnn.data.labelled import Labelled, finish
from mxrcnn.data.reading import MOST_SET_BYTES, Reading, check_bytes, finite_number, progress
from mxrcnn.data.records import DataError, Dataset

#: characters of a line, at most
LONGEST_LINE = 1 << 16
CORNERS = ("xmin", "ymin", "xmax", "ymax")
#: the columns of a table without a header
RETINANET = ("filename", *CORNERS, "class")
NEEDED = ("filename", "class", *CORNERS)
READ = (*NEEDED, "width", "height")
SAME = {"file_name": "filename", "path": "filename", "image": "filename", "label": "class"}
SAME |= {"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}


class Row(NamedTuple):
    """A row of the table: box and name are None for an image without objects."""

    where: str
    file: str
    name: str | None
    box: tuple[float, ...] | None
    stated: tuple[float, float] | None


def load_csv(
    root: str | Path, imageset: str, class_names: Sequence[str] | str, reading: Reading
) -> Dataset:
    """Read tables: image sets are their names in root, with or without `.csv`, joined by +.

    With a header: the columns filename, class, xmin, ymin, xmax, ymax, in any order, and perhaps
    width and height. Without: path, x1, y1, x2, y2, class. Boxes are continuous, as written. A row
    with a file name and nothing else is an image without objects. Images are in
    `reading.images`, or else beside the table, in `images` or another usual folder, or in a folder
    with the table's name. Classes are sorted.
    Raises DataError, naming file, line and value; with skip_bad a bad row is left out.
    """
    root, items = Path(root), []
    for path in files_of(root, imageset, ".csv"):
        items += _read_table(path, reading)
    return finish(root, imageset, class_names, items, reading)


def looks_like_table(path: Path) -> bool:
    """True if the first line is a header or a row that `load_csv` reads."""
    try:
        first = next(_lines(path), (1, []))[1]
        return bool(first) and (
            _columns(path, first) is not None or _row(path, 1, first) is not None
        )
    except DataError:
        return False


def read_rows(path: Path) -> tuple[list[list[str]], list[tuple[str, list[str]]]]:
    """(the header or nothing, the file name and fields of each row); DataError for a bad row."""
    head, rows, columns = [], [], None
    for number, fields in _lines(path):
        if number == 1:
            columns = _columns(path, fields)
            if columns:
                head = [fields]
                continue
        rows.append((_row(path, number, fields, columns or RETINANET).file, fields))
    return head, rows


def _read_table(path: Path, reading: Reading) -> list[Labelled]:
    of_file: dict[str, list[Row]] = {}
    columns = None
    for number, fields in _lines(path):
        if number == 1:
            columns = _columns(path, fields)
            if columns:
                continue
        with reading.skipping():
            row = _row(path, number, fields, columns or RETINANET)
            of_file.setdefault(row.file, []).append(row)
    for name in columns or ():
        if name not in READ:
            reading.notes.unread[f"column {name[:40]}"] += sum(map(len, of_file.values()))
    if not of_file and not reading.notes.skipped:
        raise DataError(path, "lists no images")
    items = []
    for rows in progress(list(of_file.values()), "finding images"):
        with reading.skipping():
            items.append(_item(path, rows, reading))
    return items


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line that is not blank; a field cannot hold a line break."""
    try:
        check_bytes(path, path.stat().st_size, MOST_SET_BYTES)
        with path.open(encoding="utf-8-sig", newline=None) as file:
            for number in range(1, 1 << 62):
                line = file.readline(LONGEST_LINE)
                if not line:
                    return
                if len(line) == LONGEST_LINE:
                    raise DataError(path, f"line {number} has over {LONGEST_LINE} characters")
                if "\0" in line:
                    raise DataError(path, f"line {number} has a NUL character")
                if line.strip():
                    fields = next(csv.reader([line], strict=True), [])
                    yield number, [field.strip() for field in fields]
    except OSError as error:
        raise DataError(path, f"unreadable: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise DataError(path, f"line {number} is not CSV: {error}") from error


def _columns(path: Path, fields: list[str]) -> tuple[str, ...] | None:
    """The columns that a header names; None if the line is not a header."""
    names = tuple(SAME.get(field.lower(), field.lower()) for field in fields)
    if len(set(NEEDED) & set(names)) < 3:
        return None
    missing = [name for name in NEEDED if name not in names]
    twice = [name for name in (*NEEDED, "width", "height") if names.count(name) > 1]
    if missing or twice:
        what = f"has no column {', '.join(missing)}" if missing else f"has two {twice[0]} columns"
        raise DataError(path, f"the header {what}: {short(','.join(fields))}")
    return names


def _row(path: Path, number: int, fields: list[str], columns: Sequence[str] = RETINANET) -> Row:
    where = f"line {number}"
    if len(fields) != len(columns):
        raise DataError(
            path,
            f"{where} has {len(fields)} fields, not the {len(columns)} of {','.join(columns)}: "
            f"{short(','.join(fields))}",
        )
    values = dict(zip(columns, fields))
    if not values["filename"]:
        raise DataError(path, f"{where}: filename is empty")
    stated = None
    if values.get("width") and values.get("height"):
        width, height = (_number(path, where, side, values) for side in ("width", "height"))
        stated = height, width
    if not any(values[name] for name in NEEDED[1:]):
        return Row(where, values["filename"], None, None, stated)
    if not values["class"]:
        raise DataError(path, f"{where}: class is empty, but the box is not")
    box = tuple(_number(path, where, corner, values) for corner in CORNERS)
    return Row(where, values["filename"], values["class"], box, stated)


def _number(path: Path, where: str, name: str, values: dict[str, str]) -> float:
    return finite_number(path, f"{where}: {name}", values[name])


def _item(path: Path, rows: list[Row], reading: Reading) -> Labelled:
    """An image and its objects; DataError if there is no such image, or its rows disagree."""
    name, where = rows[0].file, rows[0].where
    image = named_image(path, f"{where}: filename", [name], (path.stem, *IMAGE_FOLDERS), reading)
    sizes = {row.stated for row in rows if row.stated}
    if len(sizes) > 1:
        raise DataError(path, f"{where}: the rows of {short(name)} give different sizes")
    objects = [row for row in rows if row.box is not None]
    return Labelled(
        path,
        name,
        image,
        reading.image_size(image),
        tuple(row.name for row in objects),
        np.array([row.box for row in objects], np.float64).reshape(-1, 4),
        stated=next(iter(sizes), None),
    )
