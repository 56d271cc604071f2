"""Plots of precision over recall: one of each class, and one of all with their AP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mxrcnn.files import safe_name
from mxrcnn.tables import is_measured
from mxrcnn.viz.colors import GREY, palette_color
from mxrcnn.viz.figures import axis_text, new_figure, save_figure, save_message, say, style_axes
from mxrcnn.viz.labels import clip_text

if TYPE_CHECKING:
    from mxrcnn.evaluation.report import Report


def plot_precision_recall(report: Report, out_dir: str | Path) -> list[Path]:
    """Write a plot for each class with a curve, pr_{class}.png, and one of all, pr_overview.png.

    Returns the paths, the overview first. A report without curves gives an overview that says so.
    """
    out_dir = Path(out_dir)
    paths = [out_dir / "pr_overview.png"]
    colors = {name: palette_color(i) for i, name in enumerate(report.per_class)}
    _save_overview(report, colors, paths[0])
    for name, color in colors.items():
        if name in report.curves:
            paths.append(out_dir / f"pr_{safe_name(name)}.png")
            _save_class(report, name, color, paths[-1])
    return paths


def _envelope(curve: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A curve as steps from recall 0 on: the best precision at that recall or beyond."""
    recall, precision = np.asarray(curve["recall"]), np.asarray(curve["precision"])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(0.0, recall), np.append(best[:1] if len(best) else 0.0, best)


def _ap_text(report: Report, name: str) -> str:
    ap = report.per_class[name].get("AP", math.nan)
    return f"{ap:.3f}" if is_measured(ap) else "-"


def _save_class(report: Report, name: str, color: str, path: Path) -> None:
    row, curve = report.per_class[name], report.curves[name]
    figure = new_figure(5.6, 4.6)
    axes = figure.add_subplot()
    counts = f"{row.get('objects', 0):g} objects, {row.get('detections', 0):g} detections"
    _style(axes, f"{clip_text(name, 40)}: AP {_ap_text(report, name)}\n{counts}")
    if not len(curve["recall"]) or np.isnan(curve["recall"]).any():
        say(axes, "no detections" if row.get("objects") else "no objects to find")
        return save_figure(figure, path)
    x, y = _envelope(curve)
    axes.fill_between(x, y, step="pre", color=color, alpha=0.18, linewidth=0)
    axes.plot(curve["recall"], curve["precision"], color="#80868b", linewidth=0.8, label="measured")
    axes.step(x, y, where="pre", color=color, linewidth=2, label="best at or beyond")
    if "scores" in curve:
        _mark_best_f1(axes, curve)
    axes.legend(loc="lower left", fontsize=9, framealpha=0.9)
    return save_figure(figure, path)


def _style(axes: Any, title: str) -> None:
    style_axes(axes, title, "recall", "precision")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)


def _mark_best_f1(axes: Any, curve: Mapping[str, np.ndarray]) -> None:
    recall, precision = curve["recall"], curve["precision"]
    total = recall + precision
    f1 = np.divide(2 * recall * precision, total, out=np.zeros(len(total)), where=total > 0)
    best = int(f1.argmax())
    label = f"best F1 {f1[best]:.2f} at score {curve['scores'][best]:.2f}"
    axes.plot(recall[best], precision[best], "o", color="black", markersize=6, label=label)


def _save_overview(report: Report, colors: Mapping[str, str], path: Path) -> None:
    """All curves and their mean on the left; the AP of each class on the right, in its colour."""
    if not report.curves:
        return save_message("no precision-recall curves to show", path)
    figure = new_figure(11, max(4.8, 1.2 + 0.21 * len(report.per_class)))
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    _plot_curves(left, report, colors)
    _plot_bars(right, report, colors)
    return save_figure(figure, path)


def _plot_curves(axes: Any, report: Report, colors: Mapping[str, str]) -> None:
    """A thin line for each class, and their mean over the recalls 0, 0.01 ... 1."""
    recalls = np.linspace(0, 1, 101)
    sampled = []
    for name, curve in report.curves.items():
        if np.isnan(curve["recall"]).any():
            continue
        x, y = _envelope(curve)
        axes.step(x, y, where="pre", color=colors.get(name, GREY), linewidth=1.3, alpha=0.8)
        sampled.append(np.append(y, 0.0)[np.searchsorted(x, recalls - 1e-9)])
    if sampled:
        axes.plot(recalls, np.mean(sampled, axis=0), color="black", linewidth=2.4, label="mean")
        axes.legend(loc="lower left", fontsize=9)
    _style(axes, "Precision and recall")
    axes.set_box_aspect(0.85)
    axes.set_anchor("N")


def _plot_bars(axes: Any, report: Report, colors: Mapping[str, str]) -> None:
    """AP by class, the best on top, with the number in a column on the right."""
    aps = {name: row.get("AP", math.nan) for name, row in report.per_class.items()}
    lengths = {name: ap if is_measured(ap) else 0.0 for name, ap in aps.items()}
    order = sorted(aps, key=lambda name: (is_measured(aps[name]), lengths[name]))
    places = range(len(order))
    axes.barh(places, [lengths[n] for n in order], color=[colors[n] for n in order])
    for place, name in zip(places, order):
        axes.text(1.02, place, _ap_text(report, name), va="center", fontsize=9)
    axes.set_yticks(places, [axis_text(name) for name in order], fontsize=9)
    style_axes(axes, "Average precision", "AP")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(False, axis="y")
    name = next((n for n in ("mAP", "AP") if is_measured(report.metrics.get(n, math.nan))), None)
    if name:
        mean = report.metrics[name]
        axes.axvline(mean, color="black", linewidth=1.2, linestyle="--")
        axes.set_title(f"mean {mean:.3f}", loc="right", fontsize=10)
