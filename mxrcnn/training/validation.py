"""Validation in training: the current parameters on the validation images, by the run's metric."""

from __future__ import annotations

from typing import Any

from mxrcnn.compat import mx
from mxrcnn.config import Config
from mxrcnn.data.records import Dataset
from mxrcnn.evaluation.core import choose_metric, evaluate
from mxrcnn.evaluation.report import Report, is_measured
from mxrcnn.inference.detector import Detector
from mxrcnn.training.checkpoint import Best, Params, RunFolder, split_params


class Validation:
    """Scores parameters on a data set by `train.val_metric`, as tools/test.py would."""

    def __init__(self, config: Config, dataset: Dataset, context: mx.Context) -> None:
        """ConfigError for a metric that does not exist."""
        self.dataset = dataset
        self.metric = choose_metric(dataset, config.train.val_metric)
        self._config = config
        self._context = context
        self._detector: Detector | None = None

    def describe(self, best: Best | None) -> str:
        """What decides which checkpoint is the best, in a line; `best` is the run's so far."""
        told = f"validation by {self.metric.name}, {self.metric.title}, decides which checkpoint is"
        told += " the best (--val-metric)"
        if best is not None and best.metric.split()[0] != self.metric.name:
            told += f"; {_old(best)} does not compare, the next validation takes its place"
        return told

    def score(self, run: RunFolder, params: Params) -> Report:
        """The report of parameters (arg: and aux: keys) of a run."""
        args, auxs = split_params(params)
        if self._detector is None:
            symbol = run.symbol("test")
            self._detector = Detector(symbol, args, auxs, self._config, self._context)
        else:
            self._detector.set_params(args, auxs)
        found = self._detector.predict_dataset(self.dataset, progress=False)
        return evaluate(self.dataset, found, self.metric.name)

    def log_row(self, report: Report) -> dict[str, Any]:
        """The metric and its numbers for log.jsonl, None where there was nothing to measure."""
        there = [name for name in self.metric.logged if name in report.metrics]
        numbers = {name: report.metrics[name] for name in there}
        return {
            "metric": report.metric,
            **{name: value if is_measured(value) else None for name, value in numbers.items()},
        }


def verdict(report: Report, is_best: bool, before: Best | None) -> str:
    """A validation in a few words; `before` was the best until then."""
    if not is_measured(report.value):
        return f"validation {report.label}: nothing to measure"
    text = f"validation {report.label} {report.value:.4f}"
    if is_best and before is not None and before.metric != report.label:
        return f"{text}, takes the place of {_old(before)}"
    return f"{text}, the best so far" if is_best else text


def _old(best: Best) -> str:
    return f"the best so far ({best.metric} {best.value:.4f} at step {best.step})"
