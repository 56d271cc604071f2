"""The sides of a comparison: processes that do one step when asked, and report on it.

The protocol: a side gets one argument, a JSON object. After warming up it writes a JSON object
(`Side.ready`). From then on it reads one word per line and answers each with a JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

#: seconds without CPU use after which a process counts as idle, and how long to wait for that
QUIET, PATIENCE = 0.1, 10.0


class SideError(ChildProcessError):
    """A side ended or failed. The message has the last lines of its stderr."""


def cpu_seconds(pid: int) -> float:
    """The CPU time used by all threads of a process; 0 on systems without /proc."""
    return sum(ticks for _, ticks in _threads(pid)) / os.sysconf("SC_CLK_TCK")


def _threads(pid: int) -> list[tuple[str, int]]:
    """The state (R: running or runnable) and the CPU time in ticks of each thread of a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # the thread has ended
            continue
        found.append((fields[0], int(fields[11]) + int(fields[12])))
    return found


def wait_until_idle(pid: int) -> bool:
    """Wait until a process uses no CPU; returns whether it got there.

    OpenMP's threads spin for a while after their work.
    """
    until = time.monotonic() + PATIENCE
    before = cpu_seconds(pid)
    while time.monotonic() < until:
        time.sleep(QUIET)
        now = cpu_seconds(pid)
        waiting = any(state == "R" for state, _ in _threads(pid))
        if not waiting and now - before < 0.15 * QUIET:
            return True
        before = now
    return False


class Side:
    """One process. `ready` is the JSON object that it wrote after warming up."""

    def __init__(
        self, name: str, command: Sequence[str], spec: Mapping[str, Any], env: Mapping[str, str]
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [*command, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        self.pid = self._process.pid
        self._said: deque[str] = deque(maxlen=20)
        self._reader = Thread(target=self._listen, daemon=True)
        self._reader.start()
        self.ready = self._answer()
        wait_until_idle(self.pid)

    def _listen(self) -> None:
        for line in self._process.stderr:
            self._said.append(line.rstrip())

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self.close()
        raise SideError("\n  ".join([f"{self.name}: the process ended; it said:", *self._said]))

    def ask(self, word: str) -> dict[str, Any]:
        """Ask for a word; returns the answer once the process is idle again."""
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if not wait_until_idle(self.pid):
            print(f"  {self.name}: its threads stay busy, times are too high", file=sys.stderr)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)
        self._process.stdout.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
