"""Measure accuracy, seed by seed: python -m tests.accuracy NAME [--seeds 1,2,3].

examples:
  python -m tests.accuracy demo
  python -m tests.accuracy demo --seeds 1,2 --arms new --python envs/py3.9/bin/python
  python -m tests.accuracy table

Each training and its test gives one JSON file in --results. What is stored there is not measured
again, unless the table of experiments (experiments.py), or what its words mean, has changed. So
this can be killed at any time: the same command goes on where it was. Trainings that end by the
clock start anew. `table` prints what is stored and which bars it reaches.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.accuracy import data, pairs, peer_yolo, processes, runs
from tests.accuracy.experiments import EXPERIMENTS
from tests.accuracy.results import RESULTS, Trial, read, read_all, stale, write
from tests.accuracy.runs import Place
from tests.accuracy.tables import text

RUNNERS: dict[str, Callable[[Trial, Place], dict[str, Any]]] = {
    "run": runs.measure,
    "pair": pairs.measure,
    "yolo": peer_yolo.measure,
}
PREPARE: dict[str, Callable[[Place, Path], None]] = {
    "": lambda place, results: None,
    "fruits": data.write_fruits,
    "yolo": data.write_yolo,
}


def trials(args: argparse.Namespace, name: str) -> Iterator[Trial]:
    """What is asked for: seed by seed, so that arms are measured beside each other."""
    experiment = EXPERIMENTS[name]
    python = {"yolo": args.peer}
    for seed in args.seeds or experiment.seeds:
        for arm, what in experiment.arms.items():
            if not args.arms or arm in args.arms:
                with_python = processes.version_of(python.get(what.kind, args.python))
                yield Trial(name, arm, seed, with_python)


def do(trial: Trial, place: Place, results: Path) -> bool:
    """Measure a trial unless its result is stored; False if it failed."""
    path = trial.path(results)
    stored = read(path)
    if stored is not None and not (why := stale(stored)):
        print(f"{trial.name}: is in {path}", flush=True)
        return True
    if stored is not None:
        print(f"{trial.name}: measured anew, {path} is stale: {why}", flush=True)
    try:
        measured = RUNNERS[trial.what.kind](trial, place)
    except processes.Failed as error:
        print(f"{trial.name}: {error}", file=sys.stderr, flush=True)
        return False
    write(results, trial, measured)
    runs.finish(trial, place)
    names = EXPERIMENTS[trial.experiment].shown
    numbers = {name: measured["metrics"].get(name, measured.get(name)) for name in names}
    print(f"{trial.name}: {numbers}, {measured['seconds']} s; {path}", flush=True)
    return True


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", choices=[*EXPERIMENTS, "table"], help="an experiment, or table")
    add("--seeds", type=_numbers, metavar="1,2,3", help="default: the experiment's")
    add("--arms", type=lambda text: text.split(","), metavar="A,B", help="default: all")
    add("--results", type=Path, default=RESULTS, metavar="DIR", help="default: %(default)s")
    work = Path(tempfile.gettempdir()) / "mxrcnn_accuracy"
    add("--work", type=Path, default=work, metavar="DIR", help="runs; default: %(default)s")
    add("--python", default=sys.executable, help="interpreter that trains; default: this one")
    peer = str(Path.home() / "peers" / "yolo" / "bin" / "python")
    add("--peer", default=peer, metavar="PYTHON", help="with ultralytics; default: %(default)s")
    text = "of the turns of a speed_ experiment, after both have started; default: %(default)s"
    add("--longest", type=float, default=Place.longest, metavar="SECONDS", help=text)
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> int:
    args = arguments()
    if args.name == "table":
        printed, good = text(read_all(args.results), [*EXPERIMENTS])
        print(printed)
        return 0 if good else 1
    unknown = {*(args.arms or ())} - {*EXPERIMENTS[args.name].arms}
    if unknown:
        sys.exit(f"{args.name} has no arm {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    place = Place(args.work.absolute(), args.python, args.peer, args.longest)
    place.work.mkdir(parents=True, exist_ok=True)
    PREPARE[EXPERIMENTS[args.name].prepare](place, args.results)
    try:
        good = [do(trial, place, args.results) for trial in trials(args, args.name)]
    except processes.Interrupted as error:
        print(f"{error}; the same command goes on", file=sys.stderr)
        return 1
    printed, reached = text(read_all(args.results), [args.name])
    print(f"\n{printed}")
    return 0 if all(good) and reached else 1


if __name__ == "__main__":
    sys.exit(main())
