"""Pictures of a check: class balance, sizes and ratios of boxes, reach of the anchors, faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mxrcnn import viz
from mxrcnn.config import DataConfig
from mxrcnn.data.check.anchors import THRESHOLDS, anchor_sides
from mxrcnn.data.check.faults import Fault
from mxrcnn.data.check.run import DataCheck
from mxrcnn.data.images import read_image
from mxrcnn.data.records import DataError, Dataset
from mxrcnn.files import safe_name

#: objects in a scatter plot, at most
MOST_DOTS = 20_000
OWN, SUGGESTED = "black", "#D55E00"


def draw_check(check: DataCheck, out: Path, pictures: int = 12) -> list[Path]:
    """Write the pictures of a check into a folder and return their paths.

    pictures: how many images with faults to draw, at most.
    """
    figures = {"class_balance.png": _class_balance(check)}
    if len(check.objects):
        figures.update({"box_sizes.png": _box_sizes(check), "box_ratios.png": _box_ratios(check)})
    if len(check.reach.overlaps):
        figures["anchor_coverage.png"] = _coverage(check)
    for name, figure in figures.items():
        viz.save_figure(figure, out / name)
    return [out / name for name in figures] + list(_draw_faults(check, out / "faults", pictures))


def _class_balance(check: DataCheck) -> Any:
    """A bar chart: for each class one bar per split."""
    splits, names = list(check.counts), check.class_names
    height = max(3.0, 1.4 + 0.14 * len(names) * (len(splits) + 1))
    figure = viz.new_figure(8, height)
    axes = figure.add_subplot()
    width = 0.84 / len(splits)
    totals = {s: max(1, sum(check.counts[s]["per class"].values())) for s in splits}
    for place, split in enumerate(splits):
        counts = [check.counts[split]["per class"].get(name, 0) for name in names]
        at = np.arange(len(names)) + (place - (len(splits) - 1) / 2) * width
        shares = np.array(counts) / totals[split]
        axes.barh(at, shares, 0.92 * width, color=viz.PALETTE[(4, 0, 2, 6)[place % 4]], label=split)
        for y, share, count in zip(at, shares, counts):
            axes.text(share + 0.005, y, str(count), va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [viz.axis_text(name) for name in names], fontsize=9)
    axes.invert_yaxis()
    viz.style_axes(axes, "Objects of each class", "share of the split's objects (number beside)")
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    axes.legend(loc="lower right", fontsize=9)
    return figure


def _anchor_sets(check: DataCheck) -> dict[str, tuple[Any, str, str]]:
    """Label -> (model config, colour, marker) of the anchors to show."""
    model = check.config.model
    if check.reach.points is not None:
        return {}
    sets = {"anchors": (model, OWN, "s")}
    if check.reach.suggestion is not None:
        suggested = replace(model, **check.reach.suggestion.settings)
        sets["suggested anchors"] = (suggested, SUGGESTED, "D")
    return sets


def _box_sizes(check: DataCheck) -> Any:
    """A scatter plot of the objects' widths and heights, coloured by class, and of the anchors'."""
    figure = viz.new_figure(8, 6.5)
    axes = figure.add_subplot()
    sides, classes = check.objects.sides, check.objects.classes
    rng = np.random.default_rng(0)
    shown = rng.permutation(len(sides))[:MOST_DOTS]  # shuffled, so that no class hides another
    colors = np.array([viz.palette_color(k) for k in range(len(check.class_names))])
    axes.scatter(*sides[shown].T, s=9, c=colors[classes[shown]], alpha=0.45, linewidths=0)
    for name, (model, color, marker) in _anchor_sets(check).items():
        at = anchor_sides(model.anchors).T
        axes.scatter(*at, s=52, marker=marker, facecolors="none", edgecolors=color, label=name)
    named = np.unique(classes)
    for k in named[:15]:
        axes.scatter([], [], s=20, c=colors[k], label=viz.axis_text(check.class_names[k]))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    viz.style_axes(axes, "Sizes of the objects, as the network sees them", "width in pixels")
    axes.set_ylabel("height in pixels")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def _box_ratios(check: DataCheck) -> Any:
    """A histogram of height / width, and the anchors' ratios."""
    figure = viz.new_figure(8, 4)
    axes = figure.add_subplot()
    widths, heights = np.maximum(check.objects.sides, 1e-3).T
    ratios = heights / widths
    bins = np.geomspace(*np.clip((ratios.min() / 1.1, ratios.max() * 1.1), 1 / 32, 32), 60)
    axes.hist(np.clip(ratios, bins[0], bins[-1]), bins, color=viz.PALETTE[1])
    for name, (model, color, _) in _anchor_sets(check).items():
        for i, ratio in enumerate(model.anchor_ratios):
            line = "-" if color == OWN else "--"
            axes.axvline(ratio, color=color, linestyle=line, label=None if i else name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    viz.style_axes(axes, "Ratios of height to width", "height / width", "objects")
    if check.reach.points is None:
        axes.legend(fontsize=9)
    return figure


def _coverage(check: DataCheck) -> Any:
    """Curves of the share of objects that some anchor overlaps by an IoU or more, over that IoU."""
    figure = viz.new_figure(8, 4.6)
    axes = figure.add_subplot()
    grid = np.linspace(0.2, 1, 161)

    def line(overlaps: np.ndarray, **look: Any) -> None:
        axes.plot(grid, (overlaps[:, None] >= grid).mean(axis=0), **look)

    line(check.reach.overlaps, color=OWN, linewidth=2.4, label="all")
    if check.reach.suggestion is not None:
        look = {"color": SUGGESTED, "linestyle": "--", "label": "all, suggested anchors"}
        line(check.reach.suggestion.overlaps, linewidth=2.4, **look)
    for k in np.unique(check.objects.classes)[:12]:
        look = {"color": viz.palette_color(k), "linewidth": 1.3, "alpha": 0.9}
        ours = check.reach.overlaps[check.objects.classes == k]
        line(ours, **look, label=viz.axis_text(check.class_names[k]))
    for at in THRESHOLDS:
        axes.axvline(at, color="#9aa0a6", linestyle=":")
    viz.style_axes(axes, "Objects that an anchor reaches", "IoU", "share of the objects")
    axes.set_ylim(0, 1.03)
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def _draw_faults(check: DataCheck, out: Path, most: int) -> Iterator[Path]:
    """Draw images with faults, one of each kind in turn: objects, and the faulty box in red."""
    datasets = {split.name: split.dataset for split in check.splits}
    kinds: dict[str, list[Fault]] = {}
    for fault in check.faults:
        if fault.file:
            kinds.setdefault(fault.kind, []).append(fault)
    turns = [(i, kind) for kind, found in kinds.items() for i in range(len(found))]
    for i, kind in sorted(turns, key=lambda turn: turn[0])[:most]:
        fault = kinds[kind][i]
        try:
            picture = _fault_picture(fault, datasets[fault.split], check)
        except DataError:
            continue  # an image that cannot be read
        path = out / f"{kind.replace(' ', '_')}_{i + 1}_{safe_name(Path(fault.file).stem)}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
        yield path


def _fault_picture(fault: Fault, dataset: Dataset, check: DataCheck) -> Image.Image:
    records: Mapping[str, Any] = {str(record.path): record for record in dataset.records}
    data = check.config.data
    pixels = read_image(fault.file, data.exif_orientation, data.max_image_pixels)
    picture = Image.fromarray(pixels)
    if fault.file in records:
        record = records[fault.file]
        if (record.height, record.width) == pixels.shape[:2]:
            picture = viz.draw_ground_truth(pixels, record, dataset.class_names)
    if fault.box is not None:
        pen = ImageDraw.Draw(picture)
        (x1, x2), (y1, y2) = (sorted(fault.box[i::2]) for i in (0, 1))
        limit = np.array([*picture.size, *picture.size]) - 1
        box = np.clip(np.nan_to_num([x1, y1, x2, y2]), 0, limit)
        grown = np.clip(box + [-5, -5, 5, 5], 0, limit)
        pen.rectangle([*box.tolist()], outline="red", width=2)
        pen.ellipse([*grown.tolist()], outline="red", width=2)
    return _beside(picture, fault, data)


def _beside(picture: Image.Image, fault: Fault, data: DataConfig) -> Image.Image:
    """The picture; if two images look the same, with the other one on its right."""
    if fault.kind not in ("leak", "same image"):
        return picture
    other = Image.fromarray(read_image(fault.other, data.exif_orientation, data.max_image_pixels))
    other.thumbnail((4 * picture.width, picture.height))
    out = Image.new("RGB", (picture.width + 4 + other.width, picture.height))
    out.paste(picture, (0, 0))
    out.paste(other, (picture.width + 4, 0))
    return out
