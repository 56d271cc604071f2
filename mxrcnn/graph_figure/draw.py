"""The picture of a graph: boxes, arrows, title and legend, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon
from matplotlib.path import Path as Curve
from PIL import Image

from mxrcnn.files import atomic_write
from mxrcnn.graph_figure.layout import MARGIN, lay_out
from mxrcnn.graph_figure.nodes import Shape, Shapes
from mxrcnn.graph_figure.outline import KINDS, Edge, Outline, Step, outline
from mxrcnn.graph_figure.rows import (
    GAP_LEAD,
    LINE,
    NAME_SIZE,
    TEXT_SIZE,
    Item,
    Layout,
    box_size,
    text_width,
)
from mxrcnn.viz.figures import literal, save_figure
from symnet.detector import DetectorDef, ImageTargetsInput

if TYPE_CHECKING:
    from symnet.machine import Symbol

INK, FAINT = "#202124", "#5f6368"
FONT = "DejaVu Sans"
#: colour, dashes and words of arrows without and with a gradient
ARROWS = ((FAINT, (0, (3.5, 2)), "no gradient"), (INK, "solid", "gradient flows back"))


def draw_graph(
    symbol: Symbol, input_shapes: Shapes, path: str | Path, title: str = "The graph"
) -> None:
    """Draw a graph into the image file `path`, in the format of its suffix.

    input_shapes: the shapes of all inputs, data and labels. Other variables are parameters and are
    left out. Raises ValueError for names that are no arguments of the graph, and if other shapes do
    not follow from these.
    """
    unknown = sorted(set(input_shapes) - set(symbol.list_arguments()))
    if unknown:
        raise ValueError(f"not inputs of the graph: {', '.join(unknown)}")
    _draw(outline(symbol, input_shapes), Path(path), title)


def detector_graph(
    detector: DetectorDef, config: Any, size: tuple[int, int], train: bool, objects: int = 20
) -> tuple[Symbol, dict[str, Shape]]:
    """A detector's graph for one image of size (height, width), and the shapes of its inputs."""
    height, width = (-(-side // detector.stride) * detector.stride for side in size)
    shapes = {"data": (1, 3, height, width), "im_info": (1, 3)}
    if train:
        side = getattr(config, "mini_mask", 0)  # in networks with masks
        rows, columns = (side, side) if side else (height, width)
        shapes["gt_boxes"] = (1, objects, 5)
        shapes["gt_masks"] = (1, objects, rows, -(-columns // 8))  # eight pixels a byte
        shapes["active_classes"] = (1, config.num_classes)
        nobody = ImageTargetsInput(np.zeros((0, 5), np.float32), size, (height, width))
        targets = detector.assign_targets(config, nobody, np.random.default_rng(0))
        shapes.update({name: (1, *targets[name].shape) for name in detector.label_names})
    symbol = detector.train_symbol(config, 1) if train else detector.test_symbol(config)
    used = set(symbol.list_arguments())
    return symbol, {name: shape for name, shape in shapes.items() if name in used}


def _draw(steps: Outline, path: Path, title: str) -> None:
    layout = lay_out(steps)
    width = max(item.x + item.width / 2 for item in layout.items) + MARGIN
    width = max(width, 6.0, text_width(title, 13, True) + 2 * MARGIN)
    legend = _legend(steps)
    columns, place, room = _legend_place(layout, [s.get_label() for s in legend], width)
    height = max(item.top + item.height for item in layout.items) + MARGIN + room
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    look = {"fontsize": 13, "fontweight": "bold", "color": INK, "family": FONT}
    axes.text(MARGIN, MARGIN, literal(title), va="top", **look)
    for edge, way in zip(steps.edges, layout.ways):
        _draw_arrow(axes, layout, edge, way)
    for item in layout.items:
        _draw_item(axes, item, steps)
    where = {"loc": place, "bbox_to_anchor": (0, 0, 1, 1), "ncol": columns}
    look = {"frameon": False, "handlelength": 1.8, "columnspacing": 1.4, "handletextpad": 0.5}
    font = {"family": FONT, "size": TEXT_SIZE}
    axes.legend(handles=legend, prop=font, labelspacing=0.7, **where, **look)
    _save(figure, path)


def _legend(steps: Outline) -> list[Any]:
    """Samples of the kinds of boxes that there are, and of arrows where there are both."""
    kinds = {step.kind for step in steps.steps}
    samples: list[Any] = [
        Patch(facecolor=fill, edgecolor=border, label=label)
        for kind, (fill, border, label) in KINDS.items()
        if kind in kinds
    ]
    if len({edge.gradient for edge in steps.edges}) == 2:
        samples += [
            Line2D([], [], color=color, linestyle=dashes, label=label)
            for color, dashes, label in ARROWS[::-1]
        ]
    return samples


def _legend_place(layout: Layout, labels: Sequence[str], width: float) -> tuple[int, str, float]:
    """Columns, place and extra height: in the lower left corner if that is empty, else below."""
    widths = [text_width(label, TEXT_SIZE, False) + 0.55 for label in labels]
    bottom = max(item.top + item.height for item in layout.items)
    top, right = bottom - 0.25 * len(labels), max(widths) + 2 * MARGIN
    if all(i.top + i.height < top or i.x - i.width / 2 > right for i in layout.items):
        return 1, "lower left", 0.0
    lines = 1
    while lines < len(labels) and -(-len(labels) // lines) * max(widths) > width:
        lines += 1
    return -(-len(labels) // lines), "lower center", MARGIN + 0.25 * lines


def _save(figure: Figure, path: Path) -> None:
    """Write the figure. A PNG gets a palette of 128 colours: a third of the size."""
    if path.suffix.lower() not in ("", ".png"):
        save_figure(figure, path)
        return
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    with atomic_write(path, "wb") as handle:
        picture.quantize(128, dither=Image.Dither.NONE).save(handle, format="png", optimize=True)


def _draw_arrow(axes: Any, layout: Layout, edge: Edge, way: Sequence[int]) -> None:
    """A curve that crosses rows straight down and bends between them, with a head.

    An arrow within an item has no way: `_draw_item` draws it.
    """
    if not way:
        return
    points: list[tuple[float, float]] = []
    for s in way:
        upper, lower = (layout.items[i] for i in layout.segments[s])
        start, end = layout.ports[s]
        points += [(upper.x + start, upper.top + upper.height), (lower.x + end, lower.top)]
    x, y = points[-1]
    points[-1] = (x, y - 0.07)
    vertices, codes = [points[0]], [Curve.MOVETO]
    for k, ((x0, y0), (x1, y1)) in enumerate(zip(points, points[1:])):
        middle = (y0 + y1) / 2
        bent = k % 2 == 0 and abs(x1 - x0) > 1e-6
        vertices += [(x0, middle), (x1, middle), (x1, y1)] if bent else [(x1, y1)]
        codes += [Curve.CURVE4] * 3 if bent else [Curve.LINETO]
    head = [(x, y), (x - 0.04, y - 0.09), (x + 0.04, y - 0.09)]
    _add_arrow(axes, Curve(vertices, codes), head, edge.gradient)


def _add_arrow(
    axes: Any, curve: Curve, head: Sequence[tuple[float, float]], gradient: bool
) -> None:
    color, dashes, _ = ARROWS[gradient]
    look = {"edgecolor": color, "linewidth": 1.1, "linestyle": dashes, "zorder": 1}
    axes.add_patch(PathPatch(curve, fill=False, **look))
    axes.add_patch(Polygon(head, closed=True, facecolor=color, linewidth=0, zorder=2))


def _draw_item(axes: Any, item: Item, steps: Outline) -> None:
    """The boxes of an item, from left to right, with arrows between them."""
    left, y = item.x - item.width / 2, item.top + item.height / 2
    gradients = {(edge.source, edge.target): edge.gradient for edge in steps.edges}
    for before, i in zip((None, *item.steps), item.steps):
        width, _ = box_size(steps.steps[i])
        if before is not None:
            line = Curve([(left - GAP_LEAD, y), (left - 0.07, y)])
            head = [(left, y), (left - 0.09, y - 0.04), (left - 0.09, y + 0.04)]
            _add_arrow(axes, line, head, gradients[before, i])
        _draw_box(axes, steps.steps[i], (left, item.top, width, item.height))
        left += width + GAP_LEAD


def _draw_box(axes: Any, step: Step, rect: tuple[float, float, float, float]) -> None:
    """A box of a step at rect: left, top, width, height."""
    left, top, width, height = rect
    fill, border, _ = KINDS[step.kind]
    look = {"facecolor": fill, "edgecolor": border, "linewidth": 1.2, "zorder": 3}
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((left, top), width, height, boxstyle=shape, **look))
    place = {"ha": "center", "va": "center", "zorder": 4, "family": FONT}
    x, y = left + width / 2, top + (height - LINE * len(step.lines)) / 2
    name = {"fontsize": NAME_SIZE, "fontweight": "bold", "color": INK}
    axes.text(x, y, literal(step.name), **name, **place)
    for number, line in enumerate(step.lines):
        y += LINE
        color = INK if number == 0 and len(step.lines) > 1 else FAINT
        axes.text(x, y, literal(line), fontsize=TEXT_SIZE, color=color, **place)
