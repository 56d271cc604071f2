"""Settings of the model that had other names or values: configs saved with them still load.

Stored configs and `--set` both go through these tables. An old name counts only where the network
has no field of that name, and has the one that it became.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Merged:
    """Several old fields that became one.

    old: their names, which may include the new one. new: the name of the field now.
    value(given, model): the new field's value. given has those of the old fields that are set,
    by name; model is the section that they are set in.
    """

    old: tuple[str, ...]
    new: str
    value: Callable[[Mapping[str, Any], Any], Any]


#: old name -> new name, both without "model."; a field of a group is "form.NAME". A field that only
#: moved into a group needs no entry: its bare name is still found
RENAMED: dict[str, str] = {}

#: new name -> {old value: new value}, for values that are text
REVALUED: dict[str, dict[str, str]] = {}

MERGED: tuple[Merged, ...] = ()
