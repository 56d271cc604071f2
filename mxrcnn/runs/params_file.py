"""Checks MXNet's parameter files before MXNet reads them.

MXNet trusts the lengths in such a file: one wrong bit can make it allocate all memory, hang or
crash. Here only the headers are read, and each length is compared with what is left of the file.
The format is that of `NDArray::Save` and `Load` in MXNet's src/ndarray/ndarray.cc.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from mxrcnn.runs.budget import ByteBudget

MAGIC = 0x112
#: the first word of an array: since MXNet 1.0, and since 0.12. Older arrays start with their rank
_V2, _V1 = 0xF993FAC9, 0xF993FAC8
MAX_DIMS = 32
#: bytes per element by MXNet's type number
_ITEMSIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8, 12: 2}
#: the device that an array was on: cpu, gpu, cpu_pinned
_DEVICES = (1, 2, 3)


class ParamsFileError(ValueError):
    """Not a complete MXNet parameter file. The message does not name the file."""


class _Reader:
    """Reads numbers from a file and checks that they are there."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self._handle = handle
        self.left = size

    def take(self, count: int) -> bytes:
        """Read the next bytes."""
        self._claim(count)
        return self._handle.read(count)

    def skip(self, count: int) -> None:
        """Skip bytes."""
        self._claim(count)
        self._handle.seek(count, 1)

    def _claim(self, count: int) -> None:
        if count > self.left:
            raise ParamsFileError(f"it ends {count - self.left} bytes too early")
        self.left -= count

    def numbers(self, form: str) -> tuple[int, ...]:
        """Read little-endian numbers; form: as in the struct module."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))


def check_params_file(path: Path) -> None:
    """Raise ParamsFileError unless MXNet can read all of the file.

    Raises BudgetError if its arrays would take too much memory, OSError if it cannot be opened.
    """
    budget = ByteBudget(path, packed=False)
    with path.open("rb") as handle:
        reader = _Reader(handle, path.stat().st_size)
        magic, _, count = reader.numbers("QQQ")
        if magic != MAGIC:
            raise ParamsFileError("it does not start like one")
        if count > reader.left:
            raise ParamsFileError(f"it claims {count} arrays")
        for number in range(count):
            try:
                budget.take(f"array {number + 1} of {count}", *_array(reader))
            except ParamsFileError as error:
                raise ParamsFileError(f"array {number + 1} of {count}: {error}") from None
        _check_names(reader, count)


def _array(reader: _Reader) -> tuple[int, int]:
    """Skip an array. Returns the number of its elements and the bytes of each."""
    (first,) = reader.numbers("I")
    if first == _V2:
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise ParamsFileError(f"its storage type is {storage}; only dense arrays are read")
    long_sides = first in (_V1, _V2)
    dims = reader.numbers("i")[0] if long_sides else first
    if not 1 <= dims <= MAX_DIMS:  # 0 is an array without values, which MXNet cannot convert
        raise ParamsFileError(f"it has {dims} dimensions")
    sides = reader.numbers(f"{dims}{'q' if long_sides else 'I'}")
    if min(sides) < 0:
        raise ParamsFileError(f"impossible sides {sides}")
    device, _, kind = reader.numbers("iii")
    if device not in _DEVICES or kind not in _ITEMSIZES:
        raise ParamsFileError(f"unknown device {device} or type {kind}")
    reader.skip(math.prod(sides) * _ITEMSIZES[kind])
    return math.prod(sides), _ITEMSIZES[kind]


def _check_names(reader: _Reader, count: int) -> None:
    (names,) = reader.numbers("Q")
    if names not in (0, count):
        raise ParamsFileError(f"{names} names of {count} arrays")
    seen = set()
    for _ in range(names):
        (length,) = reader.numbers("Q")
        try:
            name = reader.take(length).decode()
        except UnicodeDecodeError:
            raise ParamsFileError("a name is not valid UTF-8") from None
        if name in seen:
            raise ParamsFileError(f"two arrays are named {name!r}")
        seen.add(name)
