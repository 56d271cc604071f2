"""The memory that this process may use."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from symnet.machine.cores import cgroup_texts

#: the free memory assumed where the system does not report it
UNKNOWN_FREE = 4 << 30


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: the machine's total, what is available, and the control group's limit.

    None means unknown, or no limit.
    """

    total: int | None
    available: int | None
    limit: int | None

    @property
    def free(self) -> int:
        """The bytes available to this process, at most the control group's limit."""
        known = [n for n in (self.available, self.limit) if n is not None]
        return min(known, default=UNKNOWN_FREE)


def read_memory() -> Memory:
    """Read /proc/meminfo and the control groups' limits (a container's)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    known = {name: int(rest.split()[0]) * 1024 for name, rest in (x.split(":") for x in lines)}
    total = known.get("MemTotal")
    texts = cgroup_texts("memory", "memory.max")
    texts += cgroup_texts("memory", "memory.limit_in_bytes")
    limits = [int(text) for text in texts if text != "max"]
    limit = min((n for n in limits if total is None or n < total), default=None)
    return Memory(total, known.get("MemAvailable"), limit)


def most_resident() -> int:
    """The most memory that this process had, in bytes.

    Linux counts in getrusage's ru_maxrss also what the process that started this one had then.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(peak.split()[1]) * 1024
