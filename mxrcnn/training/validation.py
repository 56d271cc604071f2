"""Validation in training: the current parameters on the validation images, by the run's metric."""

from __future__ import annotations

from typing import Any

from mxrcnn.config import Config, ConfigError, check_shapes
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.loader import test_plans
from mxrcnn.data.records import Dataset
from mxrcnn.evaluation.core import choose_metric, evaluate
from mxrcnn.evaluation.report import Report, is_measured
from mxrcnn.inference.detector import Detector, inference_symbol
from mxrcnn.runs.checkpoint import Best, Params, RunFolder, split_params
from symnet import get_detector
from symnet.machine import mx


class Validation:
    """Scores parameters on a data set by `train.val_metric`, as tools/test.py would.

    It runs in the precision of the training, except where bf16 cannot take the images' sizes: then
    in fp32, and `describe` says so. Its numbers are those of tools/test.py --precision `precision`.
    """

    def __init__(self, config: Config, dataset: Dataset, context: mx.Context) -> None:
        """ConfigError for a metric that does not exist."""
        self.dataset = dataset
        self.data = DataIdentity.of(dataset, config.data.masks).hash
        self.metric = choose_metric(dataset, config.train.val_metric)
        self.precision = config.train.precision
        self._unsafe = _unsafe_size(config, dataset) if self.precision == "bf16" else None
        if self._unsafe:
            self.precision = "fp32"
        self._config = config
        self._context = context
        self._detector: Detector | None = None

    def describe(self, best: Best | None) -> str:
        """What decides which checkpoint is the best, in a line; `best` is the run's so far."""
        told = f"validation by {self.metric.name}, {self.metric.title}, decides which checkpoint is"
        told += " the best (--val-metric)"
        if self._unsafe:
            told += f"; in fp32: {self._unsafe}"
        if best is not None and best.metric.split()[0] != self.metric.name:
            told += f"; {_old(best)} does not compare, the next validation takes its place"
        elif best is not None and not best.compares(best.metric, self.data):
            told += f"; {_old(best)} is of other images, the next validation takes its place"
        return told

    def score(self, run: RunFolder, params: Params, num_workers: int) -> Report:
        """The report of parameters (arg: and aux: keys) of a run.

        Images are decoded by num_workers processes, or a thread for 0; a bar shows the progress.
        Masks are pasted only if the metric scores them.
        """
        args, auxs = split_params(params)
        if self._detector is None:
            fp32 = self.precision == "fp32"
            symbol = run.symbol("test") if fp32 else inference_symbol(self._config, self.precision)
            self._detector = Detector(
                symbol, args, auxs, self._config, self._context, precision=self.precision
            )
        else:
            self._detector.set_params(args, auxs)
        found = self._detector.predict_dataset(
            self.dataset, num_workers=num_workers, masks=self.metric.masks, label="validation"
        )
        return evaluate(self.dataset, found, self.metric.name)

    def log_row(self, report: Report) -> dict[str, Any]:
        """The metric and its numbers for log.jsonl, None where there was nothing to measure."""
        there = [name for name in self.metric.logged if name in report.metrics]
        numbers = {name: report.metrics[name] for name in there}
        return {
            "metric": report.metric,
            **{name: value if is_measured(value) else None for name, value in numbers.items()},
        }


def verdict(report: Report, is_best: bool, before: Best | None, data: str = "") -> str:
    """A validation in a few words; `before` was the best until then. data: as of `Best`."""
    if not is_measured(report.value):
        return f"validation {report.label}: nothing to measure"
    text = f"validation {report.label} {report.value:.4f}"
    if is_best and before is not None and not before.compares(report.label, data):
        return f"{text}, takes the place of {_old(before)}"
    return f"{text}, the best so far" if is_best else text


def _unsafe_size(config: Config, dataset: Dataset) -> str | None:
    """Why bf16 cannot validate on some image, known before the first epoch; None if it can."""
    symbol = inference_symbol(config, "bf16")
    stride = get_detector(config.network).stride
    for size in {plan.size for plan in test_plans(dataset, config.data, stride, 1)}:
        try:
            check_shapes(symbol, "bf16", data=(1, 3, *size), im_info=(1, 3))
        except ConfigError as error:
            return str(error)
    return None


def _old(best: Best) -> str:
    return f"the best so far ({best.metric} {best.value:.4f} at step {best.step})"
