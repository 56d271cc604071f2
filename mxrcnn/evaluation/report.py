"""Evaluation reports: tables, JSON, and curves for plots."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.evaluation.best_f1 import BestF1
from mxrcnn.evaluation.errors import Errors
from mxrcnn.files import atomic_write
from mxrcnn.tables import aligned, is_measured, plain

#: column headings of the printed table that differ from the names in report.json: narrow enough for
#: a terminal of 100 columns, masks included
HEADINGS = {"ignored_objects": "ignored"}


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    metrics: the summary, by name. per_class: rows by class name, columns by name. curves: arrays
    for plots, by class name (`recall`, `precision` and sometimes `scores`); not written to JSON.
    notes: sentences on how the numbers were computed. metric: the metric used, such as "voc07".
    main: the name in `metrics` of the main number, such as "mAP". best_f1: by class name; None if
    no detection of the class is right. tested: what was tested (checkpoint, precision, imageset).
    intervals: (low, high) of 95 % by metric; class_intervals: by class and column of per_class; see
    `mxrcnn test --ci`. errors: what is wrong with the detections; confusion: see
    `confusion_entry`; both if that was asked for. NaN, and pycocotools' -1, mean that there was
    nothing to measure.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    metric: str = ""
    main: str = ""
    best_f1: dict[str, BestF1 | None] = field(default_factory=dict)
    tested: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    class_intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    errors: Errors | None = None
    confusion: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The metric and its main number, such as "voc07 mAP"; equal labels are comparable."""
        return f"{self.metric} {self.main}"

    @property
    def value(self) -> float:
        """The main number; NaN if the report has none."""
        return self.metrics.get(self.main, math.nan)

    def table(self) -> str:
        """The report as aligned plain text: metric, one row per class, summary, notes."""
        parts = [f"metric: {self.metric}, main number: {self.main}"] if self.metric else []
        if self.per_class:
            best = {
                name: {"best_F1": b.f1, "at_score": b.threshold} if b else {}
                for name, b in self.best_f1.items()
            }
            per_class = {
                name: {**row, **best.get(name, {})} for name, row in self.per_class.items()
            }
            columns = list(dict.fromkeys(c for row in per_class.values() for c in row))
            head = ["class", *(HEADINGS.get(c, c.replace("_", " ")) for c in columns)]
            rows = [
                [name, *(_number(row.get(c, math.nan)) for c in columns)]
                for name, row in per_class.items()
            ]
            parts.append(aligned([head, *rows], rule=True))
        if self.metrics:
            rows = [
                [k, _number(v), _interval(self.intervals.get(k))] for k, v in self.metrics.items()
            ]
            parts.append(aligned(rows if self.intervals else [row[:2] for row in rows]))
        if self.class_intervals:
            columns = list(dict.fromkeys(c for row in self.class_intervals.values() for c in row))
            rows = [
                [name, *(_interval(row.get(c)) or "-" for c in columns)]
                for name, row in self.class_intervals.items()
            ]
            head = ["95 % interval", *(c.replace("_", " ") for c in columns)]
            parts.append(aligned([head, *rows], rule=True))
        if self.errors:
            parts.append(self.errors.table())
        if self.notes:
            parts.append("\n".join(self.notes))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """metric, main, metrics, per_class, best_f1_threshold, tested, notes, and what was asked.

        best_f1_threshold has `threshold`, `f1`, `precision` and `recall` by class, or null. null
        also stands for non-finite numbers. `intervals`, `errors` and `confusion` may be asked for.
        """
        intervals = {"metrics": self.intervals, "per_class": self.class_intervals}
        return {
            "metric": self.metric or None,
            "main": self.main or None,
            "metrics": plain(self.metrics),
            "per_class": plain(self.per_class),
            "best_f1_threshold": {k: b and asdict(b) for k, b in self.best_f1.items()},
            "tested": self.tested,
            "notes": list(self.notes),
            **({"intervals": plain(intervals)} if self.intervals or self.class_intervals else {}),
            **({"errors": self.errors.to_json()} if self.errors else {}),
            **({"confusion": self.confusion} if self.confusion else {}),
        }

    def merge(self, other: Report) -> Report:
        """Combine two reports; a class in both gets the columns of both.

        metric and main are this report's, or the other's if this one has none. Raises ValueError if
        both have the same metric, or the same column, curves or best F1 of a class.
        """
        per_class = {
            name: _union(self.per_class.get(name, {}), other.per_class.get(name, {}), "columns")
            for name in {**self.per_class, **other.per_class}
        }
        notes = self.notes + [note for note in other.notes if note not in self.notes]
        return Report(
            _union(self.metrics, other.metrics, "metrics"),
            per_class,
            _union(self.curves, other.curves, "curves"),
            notes,
            self.metric or other.metric,
            self.main or other.main,
            _union(self.best_f1, other.best_f1, "best F1"),
            {**other.tested, **self.tested},
            {**other.intervals, **self.intervals},
            {**other.class_intervals, **self.class_intervals},
            self.errors or other.errors,
            self.confusion or other.confusion,
        )


def write_report(report: Report, out_dir: str | Path) -> Path:
    """Write report.json into `out_dir` atomically; returns its path."""
    path = Path(out_dir) / "report.json"
    with atomic_write(path) as handle:
        json.dump(report.to_json(), handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")
    return path


def _union(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> dict[str, Any]:
    both = sorted(set(a) & set(b))
    if both:
        raise ValueError(f"reports to merge both have the {what} {', '.join(both)}")
    return {**a, **b}


def _interval(ends: tuple[float, float] | None) -> str:
    return f"[{ends[0]:.4f}, {ends[1]:.4f}]" if ends else ""


def _number(value: float) -> str:
    if not is_measured(value):
        return "-"
    if isinstance(value, (int, np.integer)):
        return str(value)
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
