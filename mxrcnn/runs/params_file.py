"""The layout of MXNet's parameter files, looked at before MXNet reads them.

MXNet believes what such a file says of itself: a single wrong bit can have it ask for all memory,
wait for ever or end the process. Here only the fields are read, and each length is held against
what is left of the file (`NDArray::Save` and `Load` in MXNet's src/ndarray/ndarray.cc).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from mxrcnn.runs.budget import ByteBudget

MAGIC = 0x112
#: how an array begins: since MXNet 1.0, and since 0.12. Older ones begin with their dimensions
_V2, _V1 = 0xF993FAC9, 0xF993FAC8
MAX_DIMS = 32
#: the bytes of a number of each of MXNet's types
_ITEMSIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8, 12: 2}
#: cpu, gpu, cpu_pinned: where an array was
_DEVICES = (1, 2, 3)


class ParamsFileError(ValueError):
    """A file that is no whole MXNet parameter file; without the file's name."""


class _Reader:
    """Numbers from a file, never beyond its end."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self._handle = handle
        self.left = size

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise ParamsFileError(f"it ends {count - self.left} bytes too early")
        self.left -= count
        return self._handle.read(count)

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        if count > self.left:
            raise ParamsFileError(f"it ends {count - self.left} bytes too early")
        self.left -= count
        self._handle.seek(count, 1)

    def numbers(self, form: str) -> tuple[int, ...]:
        """Little-endian numbers, as of the struct module."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))


def check_params_file(path: Path) -> None:
    """ParamsFileError unless MXNet can read all of the file; OSError if it cannot be opened.

    BudgetError if its arrays would take too much memory.
    """
    budget = ByteBudget(path, packed=False)
    with path.open("rb") as handle:
        reader = _Reader(handle, path.stat().st_size)
        magic, _, count = reader.numbers("QQQ")
        if magic != MAGIC:
            raise ParamsFileError("it does not begin as such files do")
        if count > reader.left:
            raise ParamsFileError(f"it claims {count} arrays")
        for number in range(count):
            try:
                budget.take(f"array {number + 1} of {count}", *_array(reader))
            except ParamsFileError as error:
                raise ParamsFileError(f"array {number + 1} of {count}: {error}") from None
        _check_names(reader, count)


def _array(reader: _Reader) -> tuple[int, int]:
    """Pass over an array; how many elements it has, and the bytes of each."""
    (first,) = reader.numbers("I")
    if first == _V2:
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise ParamsFileError(f"its storage type is {storage}, and only dense ones are read")
    long_sides = first in (_V1, _V2)
    dims = reader.numbers("i")[0] if long_sides else first
    if not 1 <= dims <= MAX_DIMS:  # 0 is an array that was never filled, which MXNet cannot show
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
            raise ParamsFileError("a name that is no text") from None
        if name in seen:
            raise ParamsFileError(f"two arrays of the name {name!r}")
        seen.add(name)
