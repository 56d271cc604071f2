"""The memory that this process may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from symnet.machine.cores import cgroup_texts

#: taken for what is free where the system does not say
UNKNOWN_FREE = 4 << 30


@dataclass(frozen=True)
class Memory:
    """Bytes: of the machine, available to programs, and the control group's limit; None: unknown
    or no limit."""

    total: int | None
    available: int | None
    limit: int | None

    @property
    def free(self) -> int:
        """What this process may still take, at most the limit as a whole."""
        known = [n for n in (self.available, self.limit) if n is not None]
        return min(known, default=UNKNOWN_FREE)


def read_memory() -> Memory:
    """As /proc/meminfo and the control groups (a container's limit) say now."""
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
