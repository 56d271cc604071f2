"""What all plots share: a figure without a display, its file, its axes, its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mxrcnn.files import atomic_write
from mxrcnn.viz.labels import clip_text

FAINT = "#5f6368"


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, without a display."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole, in the format of the path's suffix, or as PNG without one."""
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format=path.suffix.lstrip(".").lower() or "png")


def save_message(message: str, path: Path) -> None:
    """Write a figure that has nothing to show but a message."""
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    say(axes, message)
    axes.set_axis_off()
    save_figure(figure, path)


def say(axes: Any, message: str) -> None:
    """Write a message into the middle of the axes."""
    axes.text(0.5, 0.5, message, ha="center", va="center", color=FAINT, fontsize=12)


def style_axes(axes: Any, title: str, x_label: str, y_label: str = "") -> None:
    """Title, labels, a faint grid."""
    axes.set_title(literal(title), loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def axis_text(text: str, length: int = 28) -> str:
    """Text for a figure: one line, at most `length` characters, no mathematics."""
    return literal(clip_text(text, length))


def literal(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
