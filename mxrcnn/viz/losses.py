"""The plot of a training log: losses, accuracies, validation, learning rate, speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.viz.colors import GREY, PALETTE
from mxrcnn.viz.figures import FAINT, new_figure, save_figure, save_message, style_axes

Rows = Sequence[Mapping[str, Any]]


def plot_losses(log_rows: Rows, path: str | Path) -> None:
    """Plot a training log, the rows of log.jsonl, into the image file `path`.

    Rows of kind "train" give the losses (names that end in "Loss"), accuracies ("Acc"), learning
    rate and speed: faint as logged, strong as a centred moving average. Rows of kind "val" give all
    other numbers, named after their metric (`voc07 mAP`). Of rows with the same step, as after a
    resume, the last counts. Dotted lines are the starts of epochs.
    """
    train, val = (_log_rows(log_rows, kind) for kind in ("train", "val"))
    panels = _panels(train, val)
    if not panels:
        return save_message("no rows in the training log yet", Path(path))
    lines = 1 + math.ceil((len(panels) - 1) / 2)
    figure = new_figure(10, 1 + 2.9 * lines)
    grid = figure.add_gridspec(lines, 2, height_ratios=[1.3] + [1] * (lines - 1))
    steps = [row["step"] for row in train + val]
    for i, (title, rows, names) in enumerate(panels):
        wide = i == 0 or (i == len(panels) - 1 and i % 2 == 1)
        place = grid[(i + 1) // 2, :] if wide else grid[(i + 1) // 2, (i + 1) % 2]
        axes = figure.add_subplot(place)
        _plot_series(axes, title, rows, names)
        pad = 0.01 * (max(steps) - min(steps)) or 1.0
        axes.set_xlim(min(steps) - pad, max(steps) + pad)
        _mark_epochs(axes, train or val, labels=i == 0)
    return save_figure(figure, Path(path))


def _log_rows(rows: Rows, kind: str) -> list[Mapping[str, Any]]:
    """Rows of a kind by step, the last of each step."""
    by_step = {row["step"]: row for row in rows if row.get("kind") == kind and "step" in row}
    return [by_step[step] for step in sorted(by_step)]


def _panels(train: Rows, val: Rows) -> list[tuple[str, Rows, list[str]]]:
    """(title, rows, names of the series) of each panel that has something to show."""
    keys = _numeric_keys(train)
    val = [_with_metric(row) for row in val]
    other = [key for key in _numeric_keys(val) if key not in ("step", "epoch")]
    panels = [
        ("Losses", train, [k for k in keys if k.lower().endswith("loss")]),
        ("Accuracies", train, [k for k in keys if k.lower().endswith("acc")]),
        ("Validation", val, other),
        ("Learning rate", train, [k for k in keys if k == "lr"]),
        ("Images per second", train, [k for k in keys if k == "images_per_second"]),
    ]
    return [panel for panel in panels if panel[2]]


def _with_metric(row: Mapping[str, Any]) -> dict[str, Any]:
    """A validation row with its metric in the names of its numbers: each metric has its own curve.

    Rows of older runs name no metric: theirs was voc07.
    """
    metric = row.get("metric", "voc07")
    own = ("step", "epoch")
    return {key if key in own else f"{metric} {key}": value for key, value in row.items()}


def _numeric_keys(rows: Rows) -> list[str]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return [k for k in keys if np.isfinite([_value(row, k) for row in rows]).any()]


def _value(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _plot_series(axes: Any, title: str, rows: Rows, names: Sequence[str]) -> None:
    style_axes(axes, title, "step")
    steps = np.array([row["step"] for row in rows])
    exact = title in ("Learning rate", "Validation")
    tops = []
    for i, name in enumerate(names):
        values = np.array([_value(row, name) for row in rows])
        seen = np.isfinite(values)
        x, y, color = steps[seen], values[seen], PALETTE[(4, 5, 2, 6, 0, 1, 7, 13)[i % 8]]
        marker = "o" if title == "Validation" or len(y) < 10 else ""
        look = {"color": color, "marker": marker, "markersize": 4, "label": name}
        if exact:
            axes.plot(x, y, linewidth=1.8, **look)
            continue
        smooth = _smoothed(y, max(1, len(y) // 30))
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.28)
        axes.plot(x, smooth, linewidth=2, **look)
        tops.append(max(smooth.max(), np.percentile(y, 98)))
    if title == "Losses":
        axes.set_ylim(0, 1.1 * max(tops) or 1)
    if len(names) > 1 or title == "Validation":
        place = "upper right" if title == "Losses" else "lower right"  # "best" is slow
        axes.legend(loc=place, fontsize=9, framealpha=0.9, ncol=2 if len(names) > 3 else 1)


def _smoothed(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of up to `reach` neighbours on either side: (N,) -> (N,), without lag."""
    total = np.append(0.0, np.cumsum(values))
    i = np.arange(len(values))
    first, beyond = np.maximum(i - reach, 0), np.minimum(i + reach + 1, len(values))
    return (total[beyond] - total[first]) / (beyond - first)


def _mark_epochs(axes: Any, rows: Rows, labels: bool) -> None:
    """A dotted line where an epoch starts, for at most about a dozen of them."""
    starts: dict[Any, float] = {}
    for row in rows:
        if row.get("epoch") is not None:
            starts.setdefault(math.floor(row["epoch"]), row["step"])  # it may be 1.25
    every = max(1, math.ceil(len(starts) / 12))
    for epoch, step in list(starts.items())[every::every]:
        axes.axvline(step, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
        if labels:
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            look = {"fontsize": 8, "color": FAINT, "va": "top", "ha": "left"}
            axes.annotate(f"epoch {epoch}", (step, 1), xytext=(3, -1), **place, **look)
