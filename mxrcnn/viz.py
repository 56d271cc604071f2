"""Pictures: boxes drawn on photos with Pillow, curves drawn with matplotlib.

Letters: H, W height and width of an image; boxes are xyxy in its pixels, continuous.
Everything here is deterministic, needs no display and keeps no global state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from mxrcnn.data.records import Detections, ImageRecord
from mxrcnn.evaluation.report import Report, is_measured
from mxrcnn.files import atomic_write, safe_name
from symnet.geometry.masks import decode

# Okabe and Ito's colours without black, then Paul Tol's "muted" ones: both made to be told apart
# by colour-blind readers. Class k takes colour k - 1, around again after the last.
PALETTE = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#332288"),
    *("#88CCEE", "#44AA99", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499"),
)
_DARK, _LIGHT, _GREY = (17, 17, 17), (255, 255, 255), "#9aa0a6"
_HEADER, _GAP = (32, 33, 36), 4

Color = tuple[int, int, int]
Rect = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Mark:
    """One box to draw: its rectangle, text, colour, and whether it is dashed."""

    box: Rect
    text: str
    color: Color
    dashed: bool = False
    mask: np.ndarray | None = None


def class_color(class_index: int) -> Color:
    """The colour (red, green, blue) of class 1, 2, ...: always the same."""
    code = PALETTE[(class_index - 1) % len(PALETTE)]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def draw_detections(
    image: np.ndarray, detections: Detections, class_names: Sequence[str], threshold: float = 0.5
) -> Image.Image:
    """The image (H, W, 3) uint8 RGB with the detections of at least `threshold` on it.

    Better detections lie over worse ones; masks are tinted and outlined. Raises ValueError for
    another kind of image and IndexError for a class without a name.
    """
    return _draw(image, _detection_marks(image, detections, class_names, threshold))


def draw_ground_truth(
    image: np.ndarray, record: ImageRecord, class_names: Sequence[str]
) -> Image.Image:
    """The image (H, W, 3) uint8 RGB with its objects; difficult and crowd ones are dashed.

    Raises as `draw_detections` does.
    """
    return _draw(image, _object_marks(image, record, class_names))


def draw_comparison(
    image: np.ndarray,
    record: ImageRecord,
    detections: Detections,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> Image.Image:
    """Ground truth on the left, detections of at least `threshold` on the right, each with a title.

    Raises as `draw_detections` does.
    """
    shown = int((np.asarray(detections.scores) >= threshold).sum())
    panes = (
        (draw_ground_truth(image, record, class_names), f"ground truth: {len(record)}"),
        (
            draw_detections(image, detections, class_names, threshold),
            f"detections: {shown} at score {threshold:g} or more",
        ),
    )
    height, width = image.shape[:2]
    font = _font(_text_size(height, width))
    header = math.ceil(2 * _text_extent(font, "Ag")[1])
    out = Image.new("RGB", (2 * width + _GAP, height + header), _HEADER)
    pen = ImageDraw.Draw(out)
    for pane, (picture, title) in enumerate(panes):
        left = pane * (width + _GAP)
        out.paste(picture, (left, header))
        fitting = _shorten(title, font, width - header // 2)
        right = left + header // 2 + _text_extent(font, fitting)[0]
        _write(pen, (left, 0, right, header), fitting, font, _LIGHT)
    return out


def _detection_marks(
    image: np.ndarray, detections: Detections, class_names: Sequence[str], threshold: float
) -> list[_Mark]:
    """Marks of the detections to show, best first."""
    shown = detections[np.asarray(detections.scores) >= threshold]
    marks = []
    for i in np.argsort(-np.asarray(shown.scores), kind="stable"):
        k = int(shown.classes[i])
        text = f"{_class_name(class_names, k)} {shown.scores[i]:.2f}"
        mask = None if shown.masks is None else _bitmap(shown.masks[i], image)
        marks.append(_Mark(_rect(shown.boxes[i]), text, class_color(k), mask=mask))
    return marks


def _object_marks(
    image: np.ndarray, record: ImageRecord, class_names: Sequence[str]
) -> list[_Mark]:
    marks = []
    for i in range(len(record)):
        k = int(record.classes[i])
        kinds = [n for n in ("difficult", "crowd") if getattr(record, n)[i]]
        text = _class_name(class_names, k) + (f" ({', '.join(kinds)})" if kinds else "")
        mask = None if record.masks is None else _bitmap(record.masks[i], image)
        marks.append(_Mark(_rect(record.boxes[i]), text, class_color(k), bool(kinds), mask))
    return marks


def _class_name(class_names: Sequence[str], k: int) -> str:
    if not 1 <= k <= len(class_names):
        raise IndexError(f"class {k} has no name among {len(class_names)}")
    return _clip_text(class_names[k - 1], 40)


def _rect(box: np.ndarray) -> Rect:
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1, x2, y2


def _bitmap(segmentation: Any, image: np.ndarray) -> np.ndarray | None:
    """A COCO segmentation (polygons or RLE) as (H, W) bool; None for none."""
    return decode(segmentation, *image.shape[:2]) if segmentation else None


def _draw(image: np.ndarray, marks: Sequence[_Mark]) -> Image.Image:
    """Draw the marks, the first on top: masks, then boxes, then labels that avoid each other."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"image of shape {image.shape} and type {image.dtype}, not (H, W, 3) uint8"
        )
    line = max(2, round(min(image.shape[:2]) / 200))
    out = Image.fromarray(_tinted(image, marks, line - 1))
    pen = ImageDraw.Draw(out)
    for mark in reversed(marks):
        _draw_box(pen, mark, line, out.size)
    font = _font(_text_size(*image.shape[:2]))
    taken: list[Rect] = []
    labels = [_place_label(mark, font, line, out.size, taken) for mark in marks]
    for mark, (rect, text) in reversed(list(zip(marks, labels))):
        pen.rectangle(rect, fill=mark.color)
        _write(pen, rect, text, font, _ink(mark.color))
    return out


def _tinted(image: np.ndarray, marks: Sequence[_Mark], line: int) -> np.ndarray:
    """The image with every mask in its colour, translucent, with an outline `line` pixels thick."""
    out = np.ascontiguousarray(image)
    for mark in reversed(marks):
        if mark.mask is None or not mark.mask.any():
            continue
        out = out.copy() if out is image else out
        rows, columns = (np.flatnonzero(mark.mask.any(axis=axis)) for axis in (1, 0))
        region = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        mask, pixels = mark.mask[region], out[region]
        pixels[mask] = (0.55 * pixels[mask] + 0.45 * np.array(mark.color)).round().astype(np.uint8)
        pixels[mask & ~_eroded(mask, line)] = mark.color
    return out


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The pixels of mask (H, W) whose neighbours, `steps` away in each direction, are in it."""
    inner = np.pad(mask, steps)
    for _ in range(steps):
        beside = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = inner[1:-1, 1:-1] & beside
    return inner


def _draw_box(pen: ImageDraw.ImageDraw, mark: _Mark, line: int, size: tuple[int, int]) -> None:
    """A coloured frame with a thin dark one on both sides, inside the image."""
    x1, x2 = (min(max(round(v), 0), size[0]) for v in (mark.box[0], mark.box[2]))
    y1, y2 = (min(max(round(v), 0), size[1]) for v in (mark.box[1], mark.box[3]))
    x2, y2 = max(x2, x1 + 1) - 1, max(y2, y1 + 1) - 1  # the last pixel that the box covers
    halo = max(1, line // 3)
    for grow, color, width in ((halo, _DARK, line + 2 * halo), (0, mark.color, line)):
        for side in _sides(x1 - grow, y1 - grow, x2 + grow, y2 + grow, width):
            for piece in _dashes(side, 4 * line + 4) if mark.dashed else [side]:
                pen.rectangle(piece, fill=color)


def _sides(x1: int, y1: int, x2: int, y2: int, width: int) -> list[Rect]:
    """The four bars, `width` thick, along the inside of a rectangle of inclusive pixels."""
    w, h = min(width, x2 - x1 + 1) - 1, min(width, y2 - y1 + 1) - 1
    return [(x1, y1, x2, y1 + h), (x1, y2 - h, x2, y2), (x1, y1, x1 + w, y2), (x2 - w, y1, x2, y2)]


def _dashes(side: Rect, length: int) -> list[Rect]:
    """A bar cut along its longer side into dashes with gaps of the same length."""
    x1, y1, x2, y2 = (int(v) for v in side)
    if x2 - x1 >= y2 - y1:
        return [(x, y1, min(x + length - 1, x2), y2) for x in range(x1, x2 + 1, 2 * length)]
    return [(x1, y, x2, min(y + length - 1, y2)) for y in range(y1, y2 + 1, 2 * length)]


def _text_size(height: int, width: int) -> int:
    return max(10, round(min(height, width) / 30))


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size=size)
    except (
        TypeError,
        ImportError,
    ):  # Pillow before 10.1, or without FreeType: one small bitmap font
        return ImageFont.load_default()


def _text_extent(font: Any, text: str) -> tuple[float, float]:
    """Width of the text, and height of any text, in pixels."""
    x1, _, x2, _ = font.getbbox(text)
    _, y1, _, y2 = font.getbbox("Ag|")
    return x2 - x1, y2 - y1


def _write(pen: ImageDraw.ImageDraw, rect: Rect, text: str, font: Any, color: Color) -> None:
    """Text in the middle of a rectangle; by hand, since bitmap fonts know no anchors."""
    (w, h), left, top = _text_extent(font, text), font.getbbox(text)[0], font.getbbox("Ag|")[1]
    x, y = (rect[0] + rect[2] - w) / 2 - left, (rect[1] + rect[3] - h) / 2 - top
    pen.text((round(x), round(y)), text, color, font)


def _shorten(text: str, font: Any, room: float) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if _text_extent(font, text)[0] <= room:
        return text
    while text and _text_extent(font, text + "...")[0] > room:
        text = text[:-1]
    return text + "..." if text else ""


def _place_label(
    mark: _Mark, font: Any, line: int, size: tuple[int, int], taken: list[Rect]
) -> tuple[Rect, str]:
    """Where a mark's label goes: the first of a few places that covers no earlier label, or else
    the one that covers least. Adds it to `taken`."""
    width, height = size
    text = _shorten(mark.text, font, width - 4)
    w, h = _text_extent(font, text)
    w, h = w + 0.6 * h, 1.35 * h
    x1, y1, x2, y2 = mark.box
    spots = [
        (x, y)
        for x in (x1, x2 - w)
        for y in (y1 - h, y1 + line, y2 - h - line, y2)
        if 0 <= y <= height - h
    ] or [(x1, y1)]
    rects = []
    for x, y in spots:
        left, top = max(0.0, min(x, width - w)), max(0.0, min(y, height - h))
        rects.append((left, top, min(left + w, width) - 1, min(top + h, height) - 1))
    best = min(rects, key=lambda rect: sum(_common_area(rect, other) for other in taken))
    taken.append(best)
    return best, text


def _common_area(a: Rect, b: Rect) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return max(w, 0.0) * max(h, 0.0)


def _ink(background: Color) -> Color:
    """Dark or light text, whichever stands out more on the background (Rec. 709 luma)."""
    r, g, b = background
    return _DARK if 0.2126 * r + 0.7152 * g + 0.0722 * b > 130 else _LIGHT


def plot_precision_recall(report: Report, out_dir: str | Path) -> list[Path]:
    """Write a plot for each class with a curve, pr_{class}.png, and one of all, pr_overview.png.

    Returns the paths, the overview first. A report without curves gives an overview that says so.
    """
    out_dir = Path(out_dir)
    paths = [out_dir / "pr_overview.png"]
    save_figure(_overview_figure(report), paths[0])
    for number, name in enumerate(report.per_class, 1):
        if name in report.curves:
            paths.append(out_dir / f"pr_{safe_name(name)}.png")
            save_figure(
                _class_figure(report, name, PALETTE[(number - 1) % len(PALETTE)]), paths[-1]
            )
    return paths


def plot_losses(log_rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot a training log, the rows of log.jsonl, into the image file `path`.

    Rows of kind "train" give the losses (names that end in "Loss"), accuracies ("Acc"), the
    learning rate and the speed, faint as logged and strong as a centred moving average; rows of
    kind "val" give every other number, under the name of their metric (`voc07 mAP`). Where steps
    were logged twice, as after a resume, the last row counts. Dotted lines are the starts of
    epochs.
    """
    train, val = (_log_rows(log_rows, kind) for kind in ("train", "val"))
    panels = _loss_panels(train, val)
    if not panels:
        figure = new_figure(7, 4)
        _say(figure.add_subplot(), "no rows in the training log yet")
        return save_figure(figure, Path(path))
    lines = 1 + math.ceil((len(panels) - 1) / 2)
    figure = new_figure(10, 1 + 2.9 * lines)
    grid = figure.add_gridspec(lines, 2, height_ratios=[1.3] + [1] * (lines - 1))
    steps = [row["step"] for row in train + val]
    for i, (title, rows, names) in enumerate(panels):
        wide = i == 0 or (i == len(panels) - 1 and i % 2 == 1)
        place = grid[(i + 1) // 2, :] if wide else grid[(i + 1) // 2, (i + 1) % 2]
        axes = figure.add_subplot(place)
        _plot_series(axes, title, rows, names)
        axes.set_xlim(*_padded(min(steps), max(steps)))
        _mark_epochs(axes, train or val, labels=i == 0)
    return save_figure(figure, Path(path))


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, without a display."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole, in the format of the path's ending."""
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format=path.suffix.lstrip(".").lower() or "png")


def _say(axes: Any, message: str) -> None:
    axes.text(0.5, 0.5, message, ha="center", va="center", color="#5f6368", fontsize=12)
    axes.set_axis_off()


def style_axes(axes: Any, title: str, x_label: str, y_label: str = "") -> None:
    """Title, labels, a faint grid."""
    axes.set_title(_literal(title), loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def axis_text(text: str, length: int = 28) -> str:
    """Text for a figure: of one line, not too long, without mathematics."""
    return _literal(_clip_text(text, length))


def _literal(text: str) -> str:
    """Text in which matplotlib sees no mathematics."""
    return text.replace("$", r"\$")


def _envelope(curve: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A curve as steps from recall 0 on: the best precision at that recall or beyond."""
    recall, precision = np.asarray(curve["recall"]), np.asarray(curve["precision"])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(0.0, recall), np.append(best[:1] if len(best) else 0.0, best)


def _ap_text(report: Report, name: str) -> str:
    ap = report.per_class[name].get("AP", math.nan)
    return f"{ap:.3f}" if is_measured(ap) else "-"


def _class_figure(report: Report, name: str, color: str) -> Figure:
    row, curve = report.per_class[name], report.curves[name]
    figure = new_figure(5.6, 4.6)
    axes = figure.add_subplot()
    counts = f"{row.get('objects', 0):g} objects, {row.get('detections', 0):g} detections"
    style_axes(axes, f"{_clip_text(name, 40)}: AP {_ap_text(report, name)}\n{counts}", "recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    if not len(curve["recall"]) or np.isnan(curve["recall"]).any():
        reason = "no objects to find" if not row.get("objects") else "no detections"
        axes.text(0.5, 0.5, reason, ha="center", va="center", color="#5f6368", fontsize=12)
        return figure
    x, y = _envelope(curve)
    axes.fill_between(x, y, step="pre", color=color, alpha=0.18, linewidth=0)
    axes.plot(curve["recall"], curve["precision"], color="#80868b", linewidth=0.8, label="measured")
    axes.step(x, y, where="pre", color=color, linewidth=2, label="best at or beyond")
    if "scores" in curve:
        _mark_best_f1(axes, curve)
    axes.legend(loc="lower left", fontsize=9, framealpha=0.9)
    return figure


def _mark_best_f1(axes: Any, curve: Mapping[str, np.ndarray]) -> None:
    recall, precision = curve["recall"], curve["precision"]
    total = recall + precision
    f1 = np.divide(2 * recall * precision, total, out=np.zeros(len(total)), where=total > 0)
    best = int(f1.argmax())
    label = f"best F1 {f1[best]:.2f} at score {curve['scores'][best]:.2f}"
    axes.plot(recall[best], precision[best], "o", color="black", markersize=6, label=label)


def _overview_figure(report: Report) -> Figure:
    """All curves and their mean on the left; the AP of each class on the right, in its colour."""
    if not report.curves:
        figure = new_figure(7, 4)
        _say(figure.add_subplot(), "no precision-recall curves to show")
        return figure
    figure = new_figure(11, max(4.8, 1.2 + 0.21 * len(report.per_class)))
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(report.per_class)}
    _plot_curves(left, report, colors)
    _plot_bars(right, report, colors)
    return figure


def _plot_curves(axes: Any, report: Report, colors: Mapping[str, str]) -> None:
    """A thin line for each class, and their mean over the recalls 0, 0.01 ... 1."""
    recalls = np.linspace(0, 1, 101)
    sampled = []
    for name, curve in report.curves.items():
        if np.isnan(curve["recall"]).any():
            continue
        x, y = _envelope(curve)
        axes.step(x, y, where="pre", color=colors.get(name, _GREY), linewidth=1.3, alpha=0.8)
        sampled.append(np.append(y, 0.0)[np.searchsorted(x, recalls - 1e-9)])
    if sampled:
        axes.plot(recalls, np.mean(sampled, axis=0), color="black", linewidth=2.4, label="mean")
        axes.legend(loc="lower left", fontsize=9)
    style_axes(axes, "Precision and recall", "recall", "precision")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
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
    labels = [axis_text(name) for name in order]
    axes.set_yticks(places, labels, fontsize=9)
    style_axes(axes, "Average precision", "AP")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(False, axis="y")
    name = next((n for n in ("mAP", "AP") if is_measured(report.metrics.get(n, math.nan))), None)
    if name:
        mean = report.metrics[name]
        axes.axvline(mean, color="black", linewidth=1.2, linestyle="--")
        axes.set_title(f"mean {mean:.3f}", loc="right", fontsize=10)


def _clip_text(text: str, length: int) -> str:
    """The text on one line, of at most that many characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _log_rows(rows: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """Rows of a kind by step, the last of each step."""
    by_step = {row["step"]: row for row in rows if row.get("kind") == kind and "step" in row}
    return [by_step[step] for step in sorted(by_step)]


def _loss_panels(
    train: Sequence[Mapping[str, Any]], val: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Sequence[Mapping[str, Any]], list[str]]]:
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
    """A row of a validation with its metric in the names of its numbers, so that those of different
    metrics are different curves. Rows of older runs name none: theirs was voc07."""
    metric = row.get("metric", "voc07")
    own = ("step", "epoch")
    return {key if key in own else f"{metric} {key}": value for key, value in row.items()}


def _numeric_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return [k for k in keys if np.isfinite([_value(row, k) for row in rows]).any()]


def _value(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _plot_series(
    axes: Any, title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    style_axes(axes, title, "step")
    steps = np.array([row["step"] for row in rows])
    exact = title in ("Learning rate", "Validation")
    tops = []
    for i, name in enumerate(names):
        values = np.array([_value(row, name) for row in rows])
        seen = np.isfinite(values)
        x, y, color = steps[seen], values[seen], PALETTE[(4, 5, 2, 6, 0, 1, 7, 13)[i % 8]]
        if exact:
            marker = "o" if title == "Validation" or len(y) < 10 else ""
            axes.plot(x, y, color=color, linewidth=1.8, marker=marker, markersize=4, label=name)
            continue
        smooth = _smoothed(y, max(1, len(y) // 30))
        few = "o" if len(y) < 10 else ""
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.28)
        axes.plot(x, smooth, color=color, linewidth=2, marker=few, markersize=4, label=name)
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


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.01 * (high - low) or 1.0
    return low - pad, high + pad


def _mark_epochs(axes: Any, rows: Sequence[Mapping[str, Any]], labels: bool) -> None:
    """A dotted line where an epoch starts, for at most about a dozen of them."""
    starts: dict[Any, float] = {}
    for row in rows:
        if row.get("epoch") is not None:
            starts.setdefault(math.floor(row["epoch"]), row["step"])  # it may be 1.25
    every = max(1, math.ceil(len(starts) / 12))
    for epoch, step in list(starts.items())[every::every]:
        axes.axvline(step, color=_GREY, linewidth=0.9, linestyle=":", zorder=1)
        if labels:
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            look = {"fontsize": 8, "color": "#5f6368", "va": "top", "ha": "left"}
            axes.annotate(f"epoch {epoch}", (step, 1), xytext=(3, -1), **place, **look)
