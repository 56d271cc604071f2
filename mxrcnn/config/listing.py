"""Lists of settings: all of them with their documentation, or those that were set and by what."""

from __future__ import annotations

import dataclasses
import inspect
import io
import tokenize
import typing
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from mxrcnn.config.sections import Config, fields_of
from mxrcnn.program import spelled


def field_docs(section: type) -> dict[str, str]:
    """The documentation of a dataclass's fields: the `#:` comment beside or above each."""
    docs: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if dataclasses.is_dataclass(cls):
            names = list(cls.__annotations__)
            docs.update(_comment_docs(inspect.getsource(cls), names))
    return docs


def _comment_docs(source: str, names: Sequence[str]) -> dict[str, str]:
    docs: dict[str, str] = {}
    above: list[str] = []
    field = ""  # the first name of the current logical line
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline):
        if token.type == tokenize.NAME and not field:
            field = token.string
        elif token.type == tokenize.COMMENT and token.string.startswith("#:"):
            text = token.string[2:].strip()
            if field:
                docs[field] = text
            else:
                above.append(text)
        elif token.type == tokenize.NEWLINE:
            if above:
                docs.setdefault(field, " ".join(above))
            field, above = "", []
    return {name: text for name, text in docs.items() if name in names}


def _kind(hint: Any) -> str:
    """A type for the user: int, int,..., fp32|bf16."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"{_kind(args[0])},..."
    return "|".join(map(str, args)) if origin is Literal else getattr(hint, "__name__", str(hint))


def _value(value: Any) -> str:
    """A value in the form that --set takes."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or '""'


class Setting(NamedTuple):
    """A setting: its full name, its type in words, its default as --set takes it, what it does."""

    name: str
    kind: str
    default: str
    doc: str


def settings_of(config: Config) -> list[Setting]:
    """All settings of a config; a group's settings follow those of its section."""
    return [Setting(*row) for row in _all_rows(config) if len(row) > 1]


def list_settings(config: Config) -> str:
    """All settings of a config, one per line: name, type, default, documentation.

    A group's settings follow those of its section, under a heading with the group's name.
    """
    return spelled(_lines(_all_rows(config)))


def _all_rows(config: Config) -> list[tuple[str, ...]]:
    return [
        row for name in ("data", "train", "model") for row in _rows(getattr(config, name), name)
    ]


def list_sources(config: Config, plain: Config, sources: Mapping[str, str]) -> str:
    """The settings whose values differ from those in `plain`: name, value, source."""
    rows = []
    for name, _ in fields_of(config):
        value = attrgetter(name)(config)
        if value != attrgetter(name)(plain):
            rows.append((name, _value(value), sources[name]))
    return _lines(rows)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of equal length in columns; a row with one item is a heading."""
    columns = list(zip(*(row[:-1] for row in rows if len(row) > 1)))
    widths = [min(30, max(map(len, column))) for column in columns]
    return "\n".join(
        "  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows
    )


def _rows(part: Any, where: str) -> list[tuple[str, ...]]:
    """(name, type, default, documentation) for each setting, (heading,) for each group."""
    docs = field_docs(type(part))
    hints = dict(fields_of(part, f"{where}."))
    own: list[tuple[str, ...]] = []
    groups: list[tuple[str, ...]] = []
    for one in dataclasses.fields(part):
        name, value, doc = f"{where}.{one.name}", getattr(part, one.name), docs.get(one.name, "")
        if name in hints:
            own.append((name, _kind(hints[name]), _value(value), doc))
        else:
            groups += [(f"{name}: {doc}",), *_rows(value, name)]
    return own + groups
