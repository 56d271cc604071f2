"""Validation during training: scores the current parameters by the run's metric."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mxrcnn.config import Config, ConfigError, check_shapes
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.plans import test_plans
from mxrcnn.data.records import Dataset, Detections, ImageRecord
from mxrcnn.data.shown import representative
from mxrcnn.data.tiles import tile_dataset
from mxrcnn.evaluation.core import choose_metric, evaluate
from mxrcnn.evaluation.report import Report
from mxrcnn.inference.detector import Detector, inference_symbol
from mxrcnn.runs.checkpoint import Best, Params, RunFolder, split_params
from mxrcnn.tables import is_measured
from mxrcnn.training.pictures import VALIDATED, draw_validation
from symnet import get_detector
from symnet.machine import mx


class Validation:
    """Scores parameters on a data set by `train.val_metric`.

    It runs in the precision of the training. If bf16 does not support some image's size, it runs in
    fp32, and `describe` says so. The numbers equal those of mxrcnn test --precision `precision`.
    """

    def __init__(self, config: Config, dataset: Dataset, context: mx.Context) -> None:
        """Raises ConfigError for an unknown metric."""
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
        self._shown = representative(dataset, VALIDATED) if config.train.pictures else []
        self._found: list[tuple[ImageRecord, Detections]] = []

    def describe(self, best: Best | None) -> str:
        """A line that says which metric selects the best checkpoint. best: the run's so far."""
        text = f"validation by {self.metric.name}, {self.metric.title}, decides which checkpoint is"
        text += " the best (--val-metric)"
        if self._unsafe:
            text += f"; in fp32: {self._unsafe}"
        if best is not None and best.metric.split()[0] != self.metric.name:
            text += f"; {_old(best)} is another metric's, the next validation replaces it"
        elif best is not None and not best.compares(best.metric, self.data):
            text += f"; {_old(best)} is of other images, the next validation replaces it"
        return text

    def score(self, run: RunFolder, params: Params, num_workers: int) -> Report:
        """Evaluate parameters (arg: and aux: keys) of a run.

        num_workers: processes that decode images; 0 is a thread. Shows a progress bar. Pastes masks
        only if the metric scores them.
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
        self._found = [(record, found[record.image_id]) for record in self._shown]
        return evaluate(self.dataset, found, self.metric.name)

    def draw(self, path: Path) -> str | None:
        """Draw some images of the last `score`, or say in a line why that failed."""
        if not self._found:
            return None
        return draw_validation(path, self._found, self.dataset.class_names, self._config.data)

    def log_row(self, report: Report) -> dict[str, Any]:
        """The row for log.jsonl: the metric and its numbers, None where nothing was measured."""
        there = [name for name in self.metric.logged if name in report.metrics]
        numbers = {name: report.metrics[name] for name in there}
        return {
            "metric": report.metric,
            **{name: value if is_measured(value) else None for name, value in numbers.items()},
        }


def verdict(report: Report, is_best: bool, before: Best | None, data: str = "") -> str:
    """One line about a validation. before: the best until then. data: as in `Best`."""
    if not is_measured(report.value):
        return f"validation {report.label}: nothing to measure"
    text = f"validation {report.label} {report.value:.4f}"
    if is_best and before is not None and not before.compares(report.label, data):
        return f"{text}, replaces {_old(before)}"
    return f"{text}, the best so far" if is_best else text


def _unsafe_size(config: Config, dataset: Dataset) -> str | None:
    """Why bf16 does not support the size of some image, or None. Known before the first epoch."""
    symbol = inference_symbol(config, "bf16")
    stride, data = get_detector(config.network).stride, replace(config.data, masks=False)
    tiled = tile_dataset(dataset, data).dataset
    for size in {plan.size for plan in test_plans(tiled, data, stride, 1)}:
        try:
            check_shapes(symbol, "bf16", data=(1, 3, *size), im_info=(1, 3))
        except ConfigError as error:
            return str(error)
    return None


def _old(best: Best) -> str:
    return f"the best so far ({best.metric} {best.value:.4f} at step {best.step})"
