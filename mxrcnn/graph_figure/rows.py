"""The rows of a figure: which row each box is in, and in which order the boxes of a row stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from mxrcnn.graph_figure.outline import Outline, Step

#: between the boxes of a lead, see `_lead`, and its longest width
GAP_LEAD, MAX_LEAD = 0.24, 14.0
#: around a box's text, and the height of a line
PAD, LINE = 0.1, 0.155
NAME_SIZE, TEXT_SIZE = 9.5, 8.5  # points


@dataclass
class Item:
    """A place in a row: boxes side by side, or, without steps, a long arrow that crosses the row.

    x: the middle. anchor: the middle of the last box, which has the item's arrows, relative to x.
    """

    steps: tuple[int, ...]
    row: int
    width: float
    height: float
    anchor: float = 0.0
    x: float = 0.0
    top: float = 0.0


@dataclass
class Layout:
    """Where everything is.

    segments: (upper item, lower item) in neighbouring rows. ways: the segments of each arrow. rows:
    the items of each row, from left to right. ports: where each segment leaves its upper item and
    meets its lower one, relative to their middles.
    """

    items: list[Item]
    segments: list[tuple[int, int]] = field(default_factory=list)
    ways: list[list[int]] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    ports: list[tuple[float, float]] = field(default_factory=list)

    def neighbours(self, upwards: bool) -> list[list[int]]:
        """The items that each item's segments lead up to, or down to."""
        found: list[list[int]] = [[] for _ in self.items]
        for upper, lower in self.segments:
            item, other = (lower, upper) if upwards else (upper, lower)
            found[item].append(other)
        return found

    def places(self) -> dict[int, int]:
        """The place of each item in its row."""
        return {item: k for row in self.rows for k, item in enumerate(row)}


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool) -> float:
    """The width of a text of that size in points."""
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return TextPath((0, 0), text, size=size, prop=font).get_extents().width / 72 if text else 0.0


def box_size(step: Step) -> tuple[float, float]:
    """Width and height of a box."""
    widths = [text_width(step.name, NAME_SIZE, True)]
    widths += [text_width(line, TEXT_SIZE, False) for line in step.lines]
    return max(max(widths) + 2 * PAD, 0.8), LINE * (1 + len(step.lines)) + 1.2 * PAD


def make_rows(steps: Outline) -> Layout:
    """The items in ordered rows, and the segments between them; nothing has a place yet."""
    sizes = [box_size(step) for step in steps.steps]
    lead = _lead(steps, sizes)
    rows = _row_numbers(steps, lead)
    chains = [lead, *((i,) for i in range(len(sizes)) if i not in lead)]
    layout = Layout([_item(chain, rows, sizes) for chain in chains if chain])
    item_of = {i: number for number, item in enumerate(layout.items) for i in item.steps}
    for edge in steps.edges:
        stops = [item_of[edge.source]]
        for row in range(rows[edge.source] + 1, rows[edge.target]):
            stops.append(len(layout.items))
            layout.items.append(Item((), row, 0.0, 0.0))
        within = item_of[edge.target] == stops[0]
        pairs = [] if within else list(zip(stops, [*stops[1:], item_of[edge.target]]))
        layout.ways.append(list(range(len(layout.segments), len(layout.segments) + len(pairs))))
        layout.segments += pairs
    layout.rows = [[] for _ in range(max(rows) + 1)]
    for number, item in enumerate(layout.items):
        layout.rows[item.row].append(number)
    _order(layout)
    return layout


def _lead(steps: Outline, sizes: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """The longest chain from an input to where it forks, such as a backbone: it lies in one row.

    Empty if it is short, or too wide for a row.
    """
    after, before = ([[] for _ in steps.steps] for _ in range(2))
    for edge in steps.edges:
        after[edge.source].append(edge.target)
        before[edge.target].append(edge.source)
    best: list[int] = []
    for i, step in enumerate(steps.steps):
        chain = [i] if step.kind == "input" else []
        while chain and len(after[chain[-1]]) == 1 and len(before[after[chain[-1]][0]]) == 1:
            chain.append(after[chain[-1]][0])
        best = max(best, chain, key=len)
    width = sum(sizes[i][0] + GAP_LEAD for i in best)
    return tuple(best) if len(best) > 2 and width < MAX_LEAD else ()


def _row_numbers(steps: Outline, lead: tuple[int, ...]) -> list[int]:
    """Each step's row: the length of the longest path to it, or, of inputs, right above its use."""
    rows = [0] * len(steps.steps)
    for edge in sorted(steps.edges, key=lambda edge: edge.target):
        down = 0 if edge.target in lead else 1
        rows[edge.target] = max(rows[edge.target], rows[edge.source] + down)
    for i, step in enumerate(steps.steps):
        below = [rows[edge.target] for edge in steps.edges if edge.source == i]
        if step.kind == "input" and below and i not in lead:
            rows[i] = max(min(below) - 1, 0)
    return rows


def _item(chain: tuple[int, ...], rows: list[int], sizes: Sequence[tuple[float, float]]) -> Item:
    widths, heights = zip(*(sizes[i] for i in chain))
    width = sum(widths) + GAP_LEAD * (len(chain) - 1)
    return Item(chain, rows[chain[-1]], width, max(heights), (width - widths[-1]) / 2)


def _order(layout: Layout, sweeps: int = 24) -> None:
    """Sort each row by the mean place of its neighbours, down and up; keep the fewest crossings."""
    best, fewest = [list(row) for row in layout.rows], _crossings(layout)
    for sweep in range(sweeps):
        upwards = sweep % 2 == 0
        near = layout.neighbours(upwards)
        rows = layout.rows if upwards else layout.rows[::-1]
        for fixed, row in zip(rows, rows[1:]):
            share = {item: (k + 0.5) / len(fixed) for k, item in enumerate(fixed)}
            means = {
                item: np.mean([share[n] for n in near[item]] or [(k + 0.5) / len(row)])
                for k, item in enumerate(row)
            }
            row.sort(key=means.__getitem__)
        crossings = _crossings(layout)
        if crossings < fewest:
            best, fewest = [list(row) for row in layout.rows], crossings
    layout.rows = best


def _crossings(layout: Layout) -> int:
    """How many pairs of segments cross."""
    place = layout.places()
    by_row: dict[int, list[tuple[int, int]]] = {}
    for upper, lower in layout.segments:
        by_row.setdefault(layout.items[upper].row, []).append((place[upper], place[lower]))
    total = 0
    for pairs in by_row.values():
        ends = np.array(pairs)
        above = np.sign(ends[:, None, 0] - ends[None, :, 0])
        total += int((above * np.sign(ends[:, None, 1] - ends[None, :, 1]) < 0).sum()) // 2
    return total
