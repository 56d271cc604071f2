"""The machine that MXNet runs on, and the set-up that must happen before MXNet is imported.

finder   sets up MXNet whenever it is imported after `import symnet`; the lazy `mx`
names    NumPy and distutils names that MXNet 1.9.1 needs and newer versions removed
engine   settings of MXNet's threads and libraries
cores    the cores this process may use, and the processor's instruction sets
memory   the memory this process may use
install  the commands that install missing packages
changes  the record of what was changed

Nothing here imports NumPy or MXNet until something imports MXNet. All other modules get MXNet from
here: `from symnet.machine import mx`.
"""

from symnet.machine.changes import MISSED, PATCHED
from symnet.machine.cores import has_bf16, has_int8, local_workers, logical_cores, physical_cores
from symnet.machine.finder import mx

#: the type of a graph, for type hints that do not load MXNet
Symbol = "mx.sym.Symbol"

__all__ = [
    "MISSED",
    "PATCHED",
    "Symbol",
    "has_bf16",
    "has_int8",
    "local_workers",
    "logical_cores",
    "mx",
    "physical_cores",
]
