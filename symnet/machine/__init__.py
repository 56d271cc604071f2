"""The machine that MXNet runs on, and what must happen before MXNet is imported.

finder   prepares any `import mxnet` that follows `import symnet`; the lazy `mx`
names    the names of NumPy and distutils that MXNet 1.9.1 needs and newer versions removed
engine   the settings of MXNet's threads and libraries
cores    the cores that this process may use, and the processor's instruction sets
memory   the memory that it may use
install  the commands that install what is missing
changes  the record of what was changed

Nothing here imports NumPy or MXNet until somebody imports MXNet. Everything else takes MXNet from
here: `from symnet.machine import mx`.
"""

from symnet.machine.changes import MISSED, PATCHED
from symnet.machine.cores import has_bf16, has_int8, local_workers, logical_cores, physical_cores
from symnet.machine.finder import mx

__all__ = [
    "MISSED",
    "PATCHED",
    "has_bf16",
    "has_int8",
    "local_workers",
    "logical_cores",
    "mx",
    "physical_cores",
]
