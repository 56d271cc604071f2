"""Two trainings that take turns on the same cores: the ratio of their rates.

Both are `mxrcnn train` as users start it. One is stopped (SIGSTOP) while the other makes a few
steps, so other work on the machine and its clock's changes meet both alike.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from mxrcnn.runs.checkpoint import RunFolder
from tests.accuracy import processes
from tests.accuracy.results import Trial, settings_of
from tests.accuracy.runs import Place

#: least number of turns of each
LEAST = 3
#: least seconds of a turn
TURN = 5.0
#: steps between rows of the log, which end turns; shorter intervals would make each step wait
ROW = 5
POLL = 0.005


def _own_group() -> None:
    """In a new process: a group that signals reach as a whole.

    It is of our session: if we die, the system wakes stopped processes and tells them to end.
    """
    os.setpgid(0, 0)
    processes.end_with_parent()


class Side:
    """A training in a group of processes of its own, which is stopped between its turns."""

    def __init__(self, command: list[str], run: Path) -> None:
        self.run, self.rows = RunFolder(run), 0
        self.log = run.with_suffix(".log")
        with self.log.open("w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                [*command, "--log-interval", str(ROW), "--out", str(run)],
                cwd=processes.REPO,
                env=processes.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_own_group,
            )

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def turn(self, rows: int) -> float:
        """Go on for ROW steps a row, then stop again; returns the seconds. Failed if it ends."""
        start = time.perf_counter()
        self._signal(signal.SIGCONT)
        self.rows += rows
        while self._logged() < self.rows:
            if self.process.poll() is not None:
                what = f"ended after {ROW * self._logged()} steps"
                raise processes.Failed(f"{processes.tail(self.log)}\n{what}; {self.log}")
            time.sleep(POLL)
        seconds = time.perf_counter() - start
        self._signal(signal.SIGSTOP)
        return seconds

    def _logged(self) -> int:
        if not self.run.log.exists():
            return 0
        return self.run.log.read_bytes().count(b'"kind": "train"')

    def total(self) -> int:
        """The steps of the whole training, as it prints them."""
        found = re.search(r"^(\d+) steps, \d+ an epoch", self.log.read_text("utf-8"), re.M)
        return int(found[1])

    def end(self) -> None:
        """Kill it."""
        self._signal(signal.SIGKILL)
        self.process.wait()


def measure(trial: Trial, place: Place) -> dict[str, Any]:
    """Let both take turns; returns what is stored.

    metrics: `rate`, the steps/s of the first as a share of the second's, the median of all turns;
    `time`, what the first's whole training takes as a share of the second's, start-up and
    validations left out.
    """
    folder = place.work / trial.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = {p: text for p, text in trial.what.words.items() if p in ("train", "against")}
    commands = {
        p: place.mxrcnn("train", *place.words(text, trial), "--seed", str(trial.seed))
        for p, text in words.items()
    }
    sides: dict[str, Side] = {}
    try:
        for purpose, command in commands.items():
            sides[purpose] = Side(command, folder / purpose)
            sides[purpose].turn(1)  # start-up, and the first steps, which bind the graph
        turns = take_turns(sides["train"], sides["against"], place.longest)
        totals = {purpose: side.total() for purpose, side in sides.items()}
        settings = {purpose: settings_of(side.run.config()) for purpose, side in sides.items()}
    finally:
        for side in sides.values():
            side.end()
    steps = sum(count for count, _, _ in turns)
    rate = statistics.median(against / train for _, train, against in turns)
    return {
        "metrics": {"rate": rate, "time": totals["train"] / totals["against"] / rate},
        "turns": [[n, round(a, 3), round(b, 3)] for n, a, b in turns],
        "total_steps": totals,
        "steps": steps,
        "seconds": round(sum(train for _, train, _ in turns), 1),
        "steps_per_second": round(steps / sum(train for _, train, _ in turns), 4),
        "commit": processes.commit(),
        "settings": settings,
        "versions": place.versions,
        **processes.machine(),
    }


def take_turns(train: Side, against: Side, longest: float) -> list[tuple[int, float, float]]:
    """(steps, seconds of the one, seconds of the other) of each turn; who begins alternates.

    longest: the seconds of all turns, unless there are fewer than LEAST.
    """
    start = time.perf_counter()
    first = train.turn(1), against.turn(1)
    rows = math.ceil(TURN / min(first))
    turns: list[tuple[int, float, float]] = []
    while len(turns) < LEAST or time.perf_counter() - start < longest - rows * sum(first):
        if len(turns) % 2:
            b, a = against.turn(rows), train.turn(rows)
        else:
            a, b = train.turn(rows), against.turn(rows)
        turns.append((rows * ROW, a, b))
        print(f"{rows * ROW} steps: {a:.2f} s, {b:.2f} s, {b / a:.3f}", flush=True)
    return turns
