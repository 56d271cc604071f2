"""The cores that this process may use, and the processor's instruction sets."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cgroup_texts(controller: str, name: str) -> list[str]:
    """The contents of file `name` in this process's control group and its parents, innermost first.

    A container's limits are set there. Both versions of cgroups are read.
    """
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    texts = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS  # version 1, version 2
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if (folder / name).is_file() and root in (folder, *folder.parents):
                texts.append((folder / name).read_text().strip())
    return texts


def cpu_quota() -> float | None:
    """The CPU limit of the control groups (a container's), in cores; None if there is none."""
    pairs = [text.split() for text in cgroup_texts("cpu", "cpu.max")]
    old = (cgroup_texts("cpu", f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    pairs += [list(pair) for pair in zip(*old)]
    granted = [int(time) / int(period) for time, period in pairs if time not in ("max", "-1")]
    return min(granted, default=None)


def logical_cores() -> int:
    """The number of cores this process may use, counting hyper-threads, within its quota."""
    many = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if many else os.cpu_count() or 1
    return max(1, min(cores, int(cpu_quota() or cores)))


def physical_cores() -> int:
    """The number of cores this process may use, counting the hyper-threads of a core once."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = set()
    for cpu in os.sched_getaffinity(0):
        path = Path(siblings.format(cpu))
        cores.add(path.read_text() if path.exists() else str(cpu))
    return min(len(cores), logical_cores())


def local_workers() -> int:
    """How many workers of one training run on this machine; mxrcnn launch sets this."""
    return max(1, int(os.environ.get("MXRCNN_LOCAL_WORKERS") or 1))


def cpu_flags() -> set[str]:
    """The processor's instruction sets, as named by Linux; empty if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    return set(next((x for x in text.splitlines() if x.startswith("flags")), "").split())


def has_bf16() -> bool:
    """True if the processor has bfloat16 instructions, which make bf16 worth choosing."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def has_int8() -> bool:
    """True if the processor has int8 instructions, which make int8 worth choosing."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & cpu_flags())
