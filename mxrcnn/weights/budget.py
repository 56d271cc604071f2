"""How much memory a file of parameters may ask for: one bound for all formats.

A compressed file can describe a thousand times its own size, and so can one whose entries share
their data or were never written. So arrays are counted before any of them is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: no file may hold more: a network of a billion parameters
MAX_BYTES = 4 << 30
#: bytes in memory for each byte of a file without compression: int8 that becomes float32
PLAIN_RATIO = 4
#: of formats with compression, where trained values shrink by a tenth, and pruned ones tenfold
PACKED_RATIO, PACKED_FREE = 16, 64 << 20
#: every array ends as float32
_FLOAT32 = 4


class BudgetError(ValueError):
    """A file whose arrays would take too much memory; without the file's name."""


class ByteBudget:
    """The bytes that the arrays of one file may take; what is taken is counted.

    packed: whether its format has compression, or data that are described but not stored. Then the
    limit is 64 MiB plus 16 times the file's size, else 4 times its size; never above 4 GiB.
    """

    def __init__(self, path: Path, packed: bool) -> None:
        self.size = Path(path).stat().st_size
        allowed = PACKED_FREE + PACKED_RATIO * self.size if packed else PLAIN_RATIO * self.size
        self.limit = min(MAX_BYTES, allowed)
        self.taken = 0

    def check(self, what: str, size: int) -> None:
        """BudgetError if so many bytes more are beyond the limit."""
        if self.taken + size > self.limit:
            raise BudgetError(
                f"from {what} on its arrays take {_megabytes(self.taken + size)} of memory or more;"
                f" a file of {_megabytes(self.size)} may take {_megabytes(self.limit)}"
            )

    def take(self, name: str, count: int, dtype: np.dtype | int) -> None:
        """Count an array of that many elements (of a type, or so many bytes) as read and float32.

        BudgetError if there is not so much left.
        """
        itemsize = dtype if isinstance(dtype, int) else np.dtype(dtype).itemsize
        size = count * max(itemsize, _FLOAT32)
        self.check(name, size)
        self.taken += size


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
