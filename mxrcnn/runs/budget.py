"""The memory limit for parameter files of every format.

A small file can describe arrays a thousand times its own size: compression, entries that share
their data, and data sets that were never written all allow it. So the sizes of the arrays are added
up before any array is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: the limit for any file: a network of a billion parameters
MAX_BYTES = 4 << 30
#: bytes in memory per byte of an uncompressed file: int8 becomes float32
PLAIN_RATIO = 4
#: limits for compressed formats: trained values shrink by a tenth, pruned ones tenfold
PACKED_RATIO, PACKED_FREE = 16, 64 << 20
#: every array is converted to float32
_FLOAT32 = 4


class BudgetError(ValueError):
    """The arrays of a file would take too much memory. The message does not name the file."""


class ByteBudget:
    """Counts the bytes that the arrays of one file take, against a limit.

    packed: True if the format supports compression, or can describe data that it does not store.
    The limit is then 64 MiB plus 16 times the file's size; otherwise 4 times the file's size. It is
    never above 4 GiB.
    """

    def __init__(self, path: Path, packed: bool) -> None:
        self.size = Path(path).stat().st_size
        allowed = PACKED_FREE + PACKED_RATIO * self.size if packed else PLAIN_RATIO * self.size
        self.limit = min(MAX_BYTES, allowed)
        self.taken = 0

    def check(self, what: str, size: int) -> None:
        """Raise BudgetError if `size` more bytes would exceed the limit."""
        if self.taken + size > self.limit:
            raise BudgetError(
                f"with {what}, its arrays take at least {_megabytes(self.taken + size)} of memory; "
                f"the limit for a file of {_megabytes(self.size)} is {_megabytes(self.limit)}"
            )

    def take(self, name: str, count: int, dtype: np.dtype | int) -> None:
        """Count an array of `count` elements, at its stored size or as float32 if that is more.

        dtype: a NumPy type, or an element's bytes. Raises BudgetError if it exceeds the limit.
        """
        itemsize = dtype if isinstance(dtype, int) else np.dtype(dtype).itemsize
        size = count * max(itemsize, _FLOAT32)
        self.check(name, size)
        self.taken += size


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
