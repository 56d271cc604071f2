"""Programs that are started and waited for: they end with this one, and say what they cost."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.accuracy.results import REPO

#: prints the versions that matter; run by the interpreter that trains
VERSIONS = (
    "import json, platform, numpy; from symnet.machine import mx; print(json.dumps({'python': "
    "platform.python_version(), 'numpy': numpy.__version__, 'mxnet': mx.__version__}))"
)
_PR_SET_PDEATHSIG = 1


class Failed(RuntimeError):
    """A program failed by itself; the message has the end of what it printed."""


class Interrupted(RuntimeError):
    """A signal ended the program: run the command again to go on."""


@dataclass(frozen=True)
class Cost:
    """What a program took: seconds of time, and of all cores together, loader processes too."""

    seconds: float
    cpu_seconds: float


def environment() -> dict[str, str]:
    """Our environment, with this clone's sources first."""
    return {**os.environ, "PYTHONPATH": str(REPO)}


def end_with_parent() -> None:
    """In a new process: be told to stop when the one that started it dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Cost:
    """Run a program, appending what it prints to a file.

    Raises Failed for an exit code that no signal explains, Interrupted for one that a signal does.
    """
    start = time.perf_counter()
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ {' '.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env=env or environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()  # a training writes a checkpoint and ends
            with contextlib.suppress(ChildProcessError):
                os.wait4(process.pid, 0)
            raise
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    process.returncode = code  # so that Popen does not look for it again
    if code < 0 or code > 128:
        raise Interrupted(f"{command[0]} was ended by a signal ({code}); {log}")
    if code:
        raise Failed(f"{tail(log)}\nexit code {code}; {log}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)


def tail(log: Path) -> str:
    """The end of what a program printed."""
    return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-20:])


def output(command: Sequence[str]) -> str:
    """What a program prints; Failed if it fails."""
    done = subprocess.run(command, cwd=REPO, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stderr}")
    return done.stdout.strip()


def versions(python: str) -> dict[str, str]:
    """Python's, NumPy's and MXNet's versions of an interpreter."""
    return json.loads(output([python, "-c", VERSIONS]))


def version_of(python: str) -> str:
    """An interpreter's version, such as 3.11."""
    return output([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])


def commit() -> str:
    """The commit that is checked out, marked if files of the sources differ from it."""
    name = output(["git", "rev-parse", "--short=10", "HEAD"])
    changed = output(["git", "status", "--porcelain", "--", "mxrcnn", "symnet", "tools"])
    return f"{name} with changes" if changed else name


def cores() -> int:
    """The number of cores that may be used."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """The processor, its cores that may be used, the load of the last 5 minutes, the day."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "load": round(os.getloadavg()[1], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
