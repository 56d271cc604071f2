"""Helpers for reports: aligned text columns, JSON-safe values, which numbers were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def aligned(rows: Sequence[Sequence[str]], rule: bool = False, words: bool = False) -> str:
    """Rows of equal length as lines: the first column left-aligned, the others right-aligned.

    rule: underline the first row, the table's head. words: align all columns left.
    """
    just = str.ljust if words else str.rjust
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(just, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """A value for JSON: NumPy scalars become Python's, and floats that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_measured(value: float) -> bool:
    """True if a report's number was measured: it is neither NaN nor pycocotools' -1."""
    return math.isfinite(value) and value != -1
