"""For the site: lines of docstrings such as `image: a path` become items of lists."""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"^(\w+)((?:\([\w, .]*\))?): (?=\S)")


def as_list(text: str) -> str:
    """Mark each line that begins with a name and a colon, and what is indented below it."""
    lines, inside = [], False
    for line in text.splitlines():
        match = ITEM.match(line)
        if match:
            lines += [] if inside else [""]
            line = f"- `{match[1]}{match[2]}`: {line[match.end() :]}"
        lines.append(line)
        inside = bool(match) or (inside and bool(line.strip()))
    return "\n".join(lines)


class ParameterLists(griffe.Extension):
    """Applied to every docstring that is shown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_list(obj.docstring.value)
