"""Stored results: one JSON file for a trial, and whether it still is what the table describes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from mxrcnn.cli.common import request_of
from mxrcnn.config import Config
from mxrcnn.config.overrides import plain_config
from mxrcnn.config.sections import fields_of
from mxrcnn.files import atomic_write
from mxrcnn.tables import plain
from mxrcnn.training.configure import TrainRequest, configure
from tests.accuracy.experiments import EXPERIMENTS, Arm

REPO = Path(__file__).resolve().parents[2]
RESULTS = REPO / "docs" / "results" / "accuracy"
#: settings of a run that follow from its data, its seed or its place, or that change no result
NOT_COMPARED = {
    *("data.class_names", "data.images", "data.root", "data.trained_scale"),
    *("model.num_classes", "train.seed", "train.checkpoint_steps", "train.keep"),
    *("train.log_interval", "train.pictures", "train.tensorboard"),
}
#: options that choose settings by the data or the machine: these runs are compared by words alone
CHOOSING = {"--data", "--minutes", "--anchors"}

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training and its test. python: the version of the interpreter, such as 3.11."""

    experiment: str
    arm: str
    seed: int
    python: str

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.arm}-seed{self.seed}-py{self.python}"

    def path(self, results: Path) -> Path:
        return results / f"{self.name}.json"

    @property
    def what(self) -> Arm:
        return EXPERIMENTS[self.experiment].arms[self.arm]


def write(results: Path, trial: Trial, measured: Mapping[str, Any]) -> Path:
    """Store a trial's result."""
    path = trial.path(results)
    with atomic_write(path) as handle:
        row = {**asdict(trial), "words": trial.what.words, **plain(measured)}
        json.dump(row, handle, indent=1, ensure_ascii=False, allow_nan=False)
        handle.write("\n")
    return path


def read(path: Path) -> Result | None:
    """A stored result; None if there is none. Raises ValueError that names a broken file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove it to measure it again") from None


def read_all(results: Path) -> list[Result]:
    """All stored results, in the order of their names."""
    return [row for path in sorted(results.glob("*/*.json")) if (row := read(path)) is not None]


def settings_of(config: Config) -> dict[str, Any]:
    """All settings of a config, as JSON has them."""
    values = {name: attrgetter(name)(config) for name, _ in fields_of(config)}
    return json.loads(json.dumps(plain({"network": config.network, **values})))


def request(words: str) -> TrainRequest:
    """The request that `mxrcnn train` makes of words without --data."""
    from tests.pages import parser_of

    return request_of(TrainRequest, parser_of("train").parse_args(shlex.split(words)))


@cache
def recipe(words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the settings that words for `mxrcnn train` mean today, the network's plain ones)."""
    config = configure(request(words)).config
    return settings_of(config), settings_of(plain_config(config.network))


def changed_settings(words: str, stored: Mapping[str, Any]) -> list[str]:
    """The settings that differ between a stored run and what its words mean today."""
    now, usual = recipe(words)
    names = {name for name in stored if now.get(name) != stored[name]}
    # a setting that is new does not matter as long as it does what was done without it
    names |= {name for name in now if name not in stored and now[name] != usual.get(name)}
    return sorted(names - NOT_COMPARED)


def stale(result: Result) -> str:
    """Why a result is not one of the present table, or "" if it is."""
    experiment = EXPERIMENTS.get(result["experiment"])
    arm = experiment.arms.get(result["arm"]) if experiment else None
    if arm is None:
        return "not in the table"
    differing = {*arm.words.items()} ^ {*result["words"].items()}
    if differing:
        return f"other words for {', '.join(sorted({purpose for purpose, _ in differing}))}"
    for purpose, stored in result.get("settings", {}).items():
        words = arm.words[purpose]
        if not CHOOSING & {*words.split()} and (names := changed_settings(words, stored)):
            return f"the words mean other settings now: {_some(names)}"
    return ""


def _some(names: Iterable[str]) -> str:
    first = [*names]
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")
