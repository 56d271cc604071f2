"""YOLO's data.yaml and classes.txt: where a data set's images are, and its class names.

The core has no YAML parser, so data.yaml is read here: top-level keys whose values are plain or
quoted texts, lists, or mappings from number to name. Any other form of a needed key is an error.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from reprlib import repr as short
from typing import Union

from mxrcnn.data.reading import read_text
from mxrcnn.data.records import DataError

#: the keys that are read; other keys are not about images and class names
KEYS = ("path", "train", "val", "test", "names", "nc")
Value = Union[str, list, dict]
#: a quoted text (group 1), or a comment
_COMMENT = re.compile(r"""((?<!\w)'(?:[^']|'')*'|"(?:[^"\\]|\\.)*")|(?:^|(?<=\s))#.*$""")
_FLOW = re.compile(r"""\s*('(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|[^,'"\[\]{}]+?)\s*(?=,|$)""")
_PAIR = re.compile(r"""('(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|[^\s:'"]+)\s*:(?:\s+(.*))?$""", re.S)


def read_data_yaml(path: Path) -> dict[str, Value]:
    """The values of KEYS in a data.yaml; DataError, naming line and text, for what is not read."""
    blocks: dict[str, tuple[int, list[str]]] = {}
    key = None
    for number, raw in enumerate(read_text(path).splitlines(), start=1):
        line = _COMMENT.sub(lambda found: found[1] or "", raw).rstrip()
        if not line.strip() or line.strip() in ("---", "..."):
            continue
        is_item = line.startswith(("- ", "]", "}"))
        if line[0].isspace() or (is_item and key):
            if key is None:
                raise DataError(path, f"line {number} belongs to no key: {short(line)}")
            blocks[key][1].append(line)
            continue
        found = _PAIR.match(line.rstrip())
        if not found:
            raise DataError(path, f"line {number} is not `key: value`: {short(line)}")
        key = _scalar(path, number, found[1])
        if key in blocks:
            raise DataError(path, f"line {number}: {short(key)} occurs twice")
        blocks[key] = number, [found[2] or ""]
    if "kpt_shape" in blocks:
        raise DataError(path, "kpt_shape: labels with keypoints are not read")
    return {key: _value(path, *blocks[key]) for key in KEYS if key in blocks}


def _value(path: Path, number: int, lines: list[str]) -> Value:
    first, rest = lines[0].strip(), [line.strip() for line in lines[1:]]
    if first[:1] in ("[", "{"):
        return _flow(path, number, " ".join([first, *rest]))
    if first and rest:
        raise DataError(path, f"line {number}: a value of several lines is not read")
    if not rest:
        return _scalar(path, number, first)
    if all(line.startswith("- ") for line in rest):
        return [_scalar(path, number, line[2:].strip()) for line in rest]
    return _mapping(path, number, rest)


def _flow(path: Path, number: int, text: str) -> Value:
    """[a, b] or {0: a, 1: b}"""
    if text[-1] != {"[": "]", "{": "}"}[text[0]]:
        raise DataError(path, f"line {number}: {text[0]} is not closed: {short(text)}")
    parts, inner, place = [], text[1:-1].strip().rstrip(","), 0
    if text[0] == "{":
        return _mapping(path, number, [p.strip() for p in inner.split(",")] if inner else [])
    while place < len(inner):
        found = _FLOW.match(inner, place)
        if not found:
            raise DataError(path, f"line {number}: not a list of names: {short(text)}")
        parts.append(_scalar(path, number, found[1]))
        place = found.end() + 1
    return parts


def _mapping(path: Path, number: int, lines: list[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for line in lines:
        found = _PAIR.match(line)
        if not found or found[1] in out:
            raise DataError(path, f"line {number}: not one `number: name` each: {short(line)}")
        out[found[1]] = _scalar(path, number, (found[2] or "").strip())
    return out


def _scalar(path: Path, number: int, text: str) -> str:
    quote = text[:1]
    try:
        if quote == '"':
            value = json.loads(text)
            value.encode()  # fails for half a character
            return value
        if quote == "'" and re.fullmatch(r"'(?:[^']|'')*'", text):
            return text[1:-1].replace("''", "'")
    except ValueError:
        quote = "'"
    if (quote and quote in "'&*!|>%@`{}[],?-") or ": " in text:
        raise DataError(path, f"line {number}: a form of YAML that is not read: {short(text)}")
    return text


def names_of(path: Path, values: dict[str, Value]) -> tuple[str, ...]:
    """The class names of a data.yaml in order; DataError if they are missing, or do not fit nc."""
    names = values.get("names")
    if isinstance(names, dict):
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise DataError(path, f"names are not numbered 0, 1, ...: {short(list(names))}")
        names = [names[str(k)] for k in range(len(names))]
    if not isinstance(names, list):
        raise DataError(path, "names is missing or not a list of class names")
    if "nc" in values and values["nc"] != str(len(names)):
        raise DataError(path, f"nc is {short(values['nc'])}, but there are {len(names)} names")
    return _checked(path, names)


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a classes.txt, one a line."""
    return _checked(path, read_text(path).rstrip().splitlines())


def _checked(path: Path, names: list[str]) -> tuple[str, ...]:
    names = [name.strip() for name in names]
    if not names or len(set(names)) < len(names) or not all(names):
        raise DataError(path, f"class names are missing, empty or repeated: {short(names)}")
    if any(not name.isprintable() for name in names):
        raise DataError(path, f"a class name cannot be printed: {short(names)}")
    return tuple(names)
