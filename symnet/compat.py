"""What the product takes from symnet.machine: `from symnet.compat import mx`."""

from symnet.machine import PATCHED
from symnet.machine.cores import has_bf16, has_int8, local_workers, logical_cores, physical_cores
from symnet.machine.engine import uses_amx
from symnet.machine.finder import mx

__all__ = [
    "PATCHED",
    "has_bf16",
    "has_int8",
    "local_workers",
    "logical_cores",
    "mx",
    "physical_cores",
    "uses_amx",
]
