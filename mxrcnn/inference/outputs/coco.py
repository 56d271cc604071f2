"""COCO's results form, and the image ids of a given data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mxrcnn.config import ConfigError
from mxrcnn.data.coco.document import entries_of, read_json
from mxrcnn.data.coco.write import coco_results
from mxrcnn.data.records import DataError, ImageId
from mxrcnn.files import atomic_write
from mxrcnn.inference.outputs.polygons import flat
from mxrcnn.inference.outputs.result import Output, Result, Writer


class JsonList:
    """Writes a JSON list to an open file, one row a line, so that no row stays in memory."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._before = file, "[\n"

    def add(self, row: object) -> None:
        """Write a row; ValueError for numbers that are not finite."""
        self._file.write(self._before + json.dumps(row, ensure_ascii=False, allow_nan=False))
        self._before = ",\n"

    def end(self) -> None:
        """Close the list, which may be empty."""
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")


@contextmanager
def coco_file(output: Output) -> Iterator[Writer]:
    """predictions.json, a list of results that pycocotools' loadRes takes, with masks.

    If the ids are numbers in order, predictions_images.json says which image and category each
    means, in the form of COCO's annotation files, without annotations.
    """
    with atomic_write(output.folder / "predictions.json") as file, _image_file(output) as note:
        found = JsonList(file)

        def write(result: Result) -> None:
            rows = coco_results(result.found, result.image_id, output.ids)
            for row, outline in zip(rows, result.outlines if output.polygons else ()):
                row["segmentation"] = flat(outline)
            for row in rows:
                found.add(row)
            note(result)

        yield write
        found.end()


@contextmanager
def _image_file(output: Output) -> Iterator[Writer]:
    """predictions_images.json, if image ids are numbers in order."""
    if not output.numbered:
        yield lambda result: None
        return
    named = zip(output.ids, output.class_names)
    kinds = json.dumps([{"id": k, "name": name} for k, name in named], ensure_ascii=False)
    with atomic_write(output.folder / "predictions_images.json") as file:
        file.write(f'{{"categories": {kinds},\n"annotations": [],\n"images": ')
        images = JsonList(file)

        def write(result: Result) -> None:
            height, width = result.found.size
            entry = {"id": result.image_id, "file_name": result.name}
            images.add({**entry, "width": width, "height": height})

        yield write
        images.end()
        file.write("}\n")


class Ids:
    """The image ids and category ids of a COCO file, found by file name and class name.

    Raises DataError for a file that is not COCO's, ConfigError if it lacks a class.
    """

    def __init__(self, path: str | Path, class_names: tuple[str, ...]) -> None:
        document = read_json(Path(path))
        images = [e for e in entries_of(Path(path), document, "images") if isinstance(e, dict)]
        kinds = [e for e in entries_of(Path(path), document, "categories") if isinstance(e, dict)]
        self._path = str(path)
        self._by_name = {str(e.get("file_name")): e.get("id") for e in images}
        short = Counter(name.rpartition("/")[2] for name in self._by_name)
        self._by_last = {
            name.rpartition("/")[2]: number
            for name, number in self._by_name.items()
            if short[name.rpartition("/")[2]] == 1
        }
        number_of = {str(e.get("name")): e.get("id") for e in kinds}
        lacking = [name for name in class_names if name not in number_of]
        if lacking:
            raise ConfigError(f"{path}: has no category {lacking[0]!r}, which the model finds")
        self.category_ids = tuple(number_of[name] for name in class_names)

    def image_id(self, name: str) -> ImageId:
        """The id of an image by its name, or by its last part if only one image has that."""
        last = name.rpartition("/")[2]
        found = self._by_name.get(name, self._by_last.get(last))
        if found is None:
            raise DataError(name, f"{self._path} has no image of that name, or several")
        return found
