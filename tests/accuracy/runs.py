"""A trial of mxrcnn: train, or resume what was killed, then test, and measure both."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from mxrcnn.config import Config
from mxrcnn.files import atomic_write
from mxrcnn.runs.checkpoint import RunFolder
from tests.accuracy import processes
from tests.accuracy.results import CHOOSING, Trial, recipe, settings_of


@dataclass(frozen=True)
class Place:
    """Where to work, and with which interpreters: ours, and the one of ultralytics.

    longest: the seconds of all turns of a pair.
    """

    work: Path
    python: str
    peer: str
    longest: float = 200.0

    @cached_property
    def versions(self) -> dict[str, str]:
        return processes.versions(self.python)

    def words(self, text: str, trial: Trial) -> list[str]:
        """An arm's words, with $WORK and $SEED replaced."""
        return shlex.split(Template(text).substitute(WORK=self.work, SEED=trial.seed))

    def mxrcnn(self, *words: str) -> list[str]:
        return [self.python, "-m", "mxrcnn", *words]


class Progress:
    """What is done of a trial, in its folder: kept, so that another process can go on.

    task: what is to be done. Work that was begun for another task is removed; so is that of a
    finished trial, which is only done again if its result is gone or stale.
    """

    def __init__(self, folder: Path, task: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / "progress.json"
        kept = json.loads(self.path.read_text("utf-8")) if self.path.exists() else None
        if kept is not None and kept["task"] != task:
            print(f"{folder}: was begun with other words or settings, starts anew", flush=True)
            kept = None
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
            kept = {"task": dict(task), "trained": False, "begun": 0, "costs": [], "commits": []}
        self.state: dict[str, Any] = kept
        folder.mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        with atomic_write(self.path) as handle:
            json.dump(self.state, handle, indent=1)

    def begin(self, commit: str) -> None:
        """Note that a process starts to train."""
        self.state["begun"] += 1
        self.state["commits"] = sorted({*self.state["commits"], commit})
        self.save()

    def end(self, cost: processes.Cost) -> None:
        """Note that training is done."""
        self.state["costs"].append([cost.seconds, cost.cpu_seconds])
        self.state["trained"] = True
        self.save()

    def numbers(self) -> dict[str, Any]:
        """What the trainings cost; None if one was killed, as nobody knows what that one took."""
        costs = self.state["costs"]
        whole = self.state["begun"] == len(costs)
        return {
            "process_seconds": round(sum(c[0] for c in costs), 1) if whole else None,
            "cpu_seconds": round(sum(c[1] for c in costs), 1) if whole else None,
            "starts": self.state["begun"],
            "commit": ", ".join(self.state["commits"]),
        }


def seconds_of(rows: Sequence[Mapping[str, Any]], images_a_step: int) -> list[float]:
    """The seconds that each step took, by the rates in a run's log.

    Without start-up, checkpoints and validations. Steps between a row and the end of their epoch,
    which no rate covers, count with the rate of the next row.
    """
    seconds: list[float] = []
    for row in rows:
        if row["kind"] == "train":
            each = images_a_step / row["images_per_second"]
            seconds += [each] * (row["step"] - len(seconds))
    return seconds


def task_of(trial: Trial) -> dict[str, Any]:
    """What a trial is to do: its words and, if they alone decide, the settings that they mean."""
    words = trial.what.words
    chosen = CHOOSING & {*words["train"].split()} or trial.what.kind == "yolo"
    return {"words": words, "recipe": {} if chosen else recipe(words["train"])[0]}


def finish(trial: Trial, place: Place) -> None:
    """Remove the checkpoints of a trial whose result is stored; the logs stay."""
    folder = place.work / trial.name
    (folder / "progress.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)


def log_numbers(run: RunFolder, config: Config) -> dict[str, Any]:
    """steps, seconds and steps_per_second of a run, from its log.

    The rate is the median over the steps: a training that was stopped for a while, or had to share
    its cores for a part of the time, has the rate that it has alone.
    """
    seconds = seconds_of(run.read_log(), config.train.batch_size * config.train.accumulate)
    return {
        "steps": len(seconds),
        "seconds": round(sum(seconds), 1),
        "steps_per_second": round(1 / statistics.median(seconds), 4),
    }


def train(trial: Trial, place: Place, progress: Progress) -> Path:
    """Train the trial's arm to its end, going on where it was killed; returns the run folder."""
    run = progress.folder / "run"
    if progress.state["trained"]:
        return run
    if run.exists() and (trial.what.timed or not (run / "config.json").exists()):
        shutil.rmtree(run)
        progress.state.update(begun=0, costs=[], commits=[])
    if run.exists():
        words = ["--resume", str(run)]
    else:
        words = place.words(trial.what.train, trial)
        words += ["--seed", str(trial.seed), "--out", str(run)]
    progress.begin(processes.commit())
    print(f"{trial.name}: mxrcnn train {' '.join(words)}", flush=True)
    progress.end(processes.run(place.mxrcnn("train", *words), progress.folder / "train.log"))
    return run


def measure(trial: Trial, place: Place) -> dict[str, Any]:
    """Train and test; returns what is stored."""
    progress = Progress(place.work / trial.name, task_of(trial))
    folder = train(trial, place, progress)
    test = ["test", str(folder), *place.words(trial.what.test, trial), "--pictures", "0"]
    out = progress.folder / "test"
    processes.run(place.mxrcnn(*test, "--out", str(out)), progress.folder / "test.log")
    report = json.loads((out / "report.json").read_text("utf-8"))
    run = RunFolder(folder)
    config = run.config()
    return {
        "metric": report["metric"],
        "metrics": report["metrics"],
        "per_class": report["per_class"],
        **log_numbers(run, config),
        **progress.numbers(),
        "settings": {"train": settings_of(config)},
        "versions": place.versions,
        **processes.machine(),
    }
