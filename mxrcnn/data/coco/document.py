"""The JSON of a COCO file: its lists, their entries, and checks of fields that name the entry."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from mxrcnn.data.reading import MOST_SET_BYTES, read_bytes
from mxrcnn.data.records import DataError


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; DataError if it holds none."""
    data = read_bytes(path, MOST_SET_BYTES)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(path, f"holds a JSON {type(document).__name__}, not a COCO object")
    return document


def entries_of(path: Path, document: dict[str, Any], key: str) -> list[Any]:
    """A list of the document, such as "images"; DataError if there is none."""
    if not isinstance(document.get(key), list):
        raise DataError(path, f"{key} is missing or not a list")
    return document[key]


class Entry(NamedTuple):
    """An entry of a list: its file, its place, such as "images[3]", and its values.

    The methods return a checked field, or raise a DataError that names file, entry and value.
    """

    path: Path
    where: str
    values: Any

    def error(self, key: str, problem: str) -> DataError:
        """The error for a field, with its value."""
        return DataError(self.path, f"{self.where}.{key} {problem}: {short(self.values[key])}")

    def required(self, key: str) -> Any:
        """A field that must be there."""
        if not isinstance(self.values, dict):
            raise DataError(self.path, f"{self.where} is not an object: {short(self.values)}")
        if key not in self.values:
            raise DataError(self.path, f"{self.where}.{key} is missing")
        return self.values[key]

    def known(self, key: str, known: Container[Any]) -> Any:
        """An id that must be one of `known`."""
        value = self.required(key)
        if not is_id(value) or value not in known:
            raise self.error(key, "is unknown")
        return value

    def flag(self, key: str) -> bool:
        """0 or 1; a missing field is 0."""
        value = self.values.get(key) or 0
        if value not in (0, 1):
            raise self.error(key, "is not 0 or 1")
        return bool(value)

    def side(self, key: str) -> int | None:
        """A number of pixels; None for one that is missing, null or 0."""
        value = self.values.get(key)
        if value is None or value == 0:
            return None
        if not is_int(value) or value < 0:
            raise self.error(key, "is not a number of pixels")
        return value


def read_categories(path: Path, document: dict[str, Any]) -> dict[int, str]:
    """Category id -> name, in order of the ids."""
    categories: dict[int, str] = {}
    for index, values in enumerate(entries_of(path, document, "categories")):
        entry = Entry(path, f"categories[{index}]", values)
        category_id, name = entry.required("id"), entry.required("name")
        if not is_int(category_id) or category_id in categories:
            raise entry.error("id", "is not a unique integer")
        if not _is_text(name) or name in categories.values():
            raise entry.error("name", "is not a unique name")
        categories[category_id] = name
    if not categories:
        raise DataError(path, "categories is empty")
    return dict(sorted(categories.items()))


def is_int(value: Any) -> bool:
    """True if value is an integer, not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """True if value is an integer or a string."""
    return is_int(value) or isinstance(value, str)


def are_numbers(values: Any) -> bool:
    """True if values is a list of finite numbers."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return False
    try:
        return math.isfinite(sum(map(abs, values)))
    except OverflowError:
        return False


def _is_text(value: Any) -> bool:
    """True if value is a string that can be printed: JSON may hold halves of characters."""
    return isinstance(value, str) and value != "" and not re.search("[\ud800-\udfff]", value)
