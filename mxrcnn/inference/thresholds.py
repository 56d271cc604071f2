"""Score thresholds by class, as users write them: `0.5`, `0.3,cat=0.7`, `best-f1`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxrcnn.config import ConfigError
from mxrcnn.inference.predictor import Predictor
from mxrcnn.program import command

BEST_F1 = "best-f1"
DEFAULT = 0.5
#: in reports, quantized.json and the metadata of ONNX files
KEY = "best_f1_threshold"


@dataclass(frozen=True)
class Thresholds:
    """The lowest score of each of the classes 1, 2, ..., and where they come from, in words."""

    scores: tuple[float, ...]
    notes: tuple[str, ...] = ()


def parse_thresholds(text: str, predictor: Predictor) -> Thresholds:
    """Read words with commas: a number for all classes, CLASS=number, and `best-f1`.

    `best-f1` takes the thresholds of the model's last test (`best_f1_of`), `best-f1=FILE` those of
    that report.json. CLASS=number comes before them, and the bare number, or 0.5, is for classes
    without any. Raises ConfigError.
    """
    base, given, best, notes = DEFAULT, {}, {}, []
    for word in map(str.strip, text.split(",")):
        name, _, value = word.rpartition("=")
        if word == BEST_F1 or name == BEST_F1:
            best, notes = best_f1_of(predictor, value if name else None)
            continue
        try:
            score = float(value)
        except ValueError:
            raise ConfigError(
                f"--threshold {text}: {value!r} is no number; expected 0.5, cat=0.7,dog=0.4 or "
                f"{BEST_F1}"
            ) from None
        if name:
            given[predictor.class_names[predictor.class_numbers(name.strip())[0] - 1]] = score
        else:
            base = score
    names = predictor.class_names
    if notes:
        shown = ", ".join(f"{name} {best[name]:.3f}" for name in names if name in best)
        lacking = [name for name in names if name not in best and name not in given]
        notes[0] += f": {shown or 'of no class'}"
        if lacking:
            notes.append(f"{base:g} for {', '.join(lacking)}: there is no best F1 of them")
    thresholds = {**best, **given}
    return Thresholds(tuple(thresholds.get(name, base) for name in names), tuple(notes))


def best_f1_of(
    predictor: Predictor, report: str | Path | None = None
) -> tuple[dict[str, float], list[str]]:
    """The best F1 thresholds by class of a predictor's model, and a note of their source.

    report: a report.json; None is the newest of `mxrcnn test` in the run, else what `mxrcnn
    quantize` or `mxrcnn export` put into the run or file. A class without a right detection has no
    threshold. Raises ConfigError if there are none, or for a broken file.
    """
    source = Path(predictor.source)
    if report is None and source.suffix == ".onnx":
        stored = predictor.engine.metadata.get(KEY)
        if stored is None:
            raise ConfigError(
                f"{source} holds no best F1 thresholds: test its run, then export it again "
                f"({command('test', 'RUN')}, {command('export', 'RUN', '--to', source)}); or "
                f"give a report: --threshold {BEST_F1}=RUN/test_IMAGESET/report.json"
            )
        return _checked(json.loads(stored), source), [f"best F1 thresholds, from {source}"]
    path = Path(report) if report is not None else last_report(_run_of(source))
    document = _read(path)
    found = document.get(KEY)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: has no {KEY}: {command('test', 'RUN')} writes one")
    best = {name: row["threshold"] for name, row in found.items() if _has_threshold(row)}
    notes = [f"best F1 thresholds, from {path}"]
    if source.suffix != ".onnx":
        notes += _other_checkpoint(document.get("tested"), source)
    return _checked(best, path), notes


def stored_best_f1(predictor: Predictor) -> dict[str, str]:
    """The entry of an exported model's metadata with best F1 thresholds as JSON.

    Empty if the run has no report of this checkpoint.
    """
    try:
        best, notes = best_f1_of(predictor)
    except ConfigError:
        return {}
    return {KEY: json.dumps(best)} if len(notes) == 1 else {}


def _run_of(source: Path) -> Path:
    """The run folder of its checkpoints/step-N/model.params."""
    if source.parent.parent.name != "checkpoints":
        raise ConfigError(f"--threshold {BEST_F1}: {source} is not a checkpoint of a run")
    return source.parents[2]


def last_report(run: Path) -> Path:
    """The newest report of `mxrcnn test` in a run, else its quantized.json with thresholds.

    Raises ConfigError if there is neither.
    """
    reports = sorted(run.glob("test_*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    quantized = run / "quantized.json"
    if reports:
        return reports[-1]
    if quantized.is_file() and KEY in _read(quantized):
        return quantized
    raise ConfigError(
        f"--threshold {BEST_F1}: {run} has no test_*/report.json: run {command('test', run)} "
        f"first, or give a report: --threshold {BEST_F1}=FILE"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable report: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a report of {command('test')}")
    return document


def _has_threshold(row: Any) -> bool:
    return isinstance(row, Mapping) and "threshold" in row


def _checked(best: Any, place: Path) -> dict[str, float]:
    """Thresholds by class; ConfigError for other things than scores."""
    scores = best.values() if isinstance(best, dict) else [best]
    wrong = [x for x in scores if not (isinstance(x, (int, float)) and 0 <= x <= 1)]
    if wrong:
        raise ConfigError(f"{place}: the best F1 threshold {str(wrong[0])[:40]} is no score")
    return best


def _other_checkpoint(tested: Any, source: Path) -> list[str]:
    """A note if the report is of another checkpoint than `source`, a run's model.params."""
    checkpoint = tested.get("checkpoint") if isinstance(tested, Mapping) else None
    if not isinstance(checkpoint, str):
        return []
    name, own = Path(checkpoint).parent.name, source.parent.name
    return [f"that report is of {checkpoint}, not of {own}"] if name != own else []
