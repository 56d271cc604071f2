"""The places of a figure's boxes and arrows: rows from top to bottom, arrows as straight as may be.

Lengths are inches, and y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mxrcnn.graph_figure.outline import Outline
from mxrcnn.graph_figure.rows import Layout, make_rows

#: between items of a row, between rows, and between a straight long arrow and an item
GAP_X, GAP_Y, GAP_LINE = 0.22, 0.3, 0.14
MARGIN, TITLE = 0.15, 0.4
PORT = 0.2  # between the ends of two arrows at one box


def lay_out(steps: Outline) -> Layout:
    """The layout of an outline."""
    layout = make_rows(steps)
    _set_ports(layout)
    _place_rows(layout)
    return layout


def _set_ports(layout: Layout) -> None:
    """Spread the arrows of a box over its edge, in the order of the items at their other ends."""
    place = layout.places()
    ports = np.zeros((len(layout.segments), 2))
    for end in (0, 1):
        for number, item in enumerate(layout.items):
            mine = [s for s, segment in enumerate(layout.segments) if segment[end] == number]
            mine.sort(key=lambda s: place[layout.segments[s][1 - end]])
            room = item.width - 2 * item.anchor
            step = min(PORT, 0.8 * room / max(len(mine), 1))
            for k, s in enumerate(mine):
                ports[s, end] = item.anchor + (k - (len(mine) - 1) / 2) * step
    layout.ports = [tuple(port) for port in ports]


def _place_rows(layout: Layout, sweeps: int = 60) -> None:
    """Set top and x of all items.

    Sweeps go down and up in turn; the last 20 pull items towards the neighbours on both sides.
    """
    top = TITLE + MARGIN
    for row in layout.rows:
        items = [layout.items[i] for i in row]
        height = max(item.height for item in items)
        for item in items:
            item.top = top + (height - item.height) / 2
            if not item.steps:
                item.top, item.height = top, height
        top += height + GAP_Y
    for sweep in range(sweeps):
        rows = layout.rows if sweep % 2 == 0 else layout.rows[::-1]
        ends = ((1,), (0,), (0, 1))[sweep % 2 if sweep < sweeps - 20 else 2]
        for row in rows:
            _place_row(layout, row, ends)
    _shift_lead(layout)
    for run in _runs(layout) * 2:
        _straighten(layout, run)
    left = min(item.x - item.width / 2 for item in layout.items)
    for item in layout.items:
        item.x += MARGIN - left


def _place_row(layout: Layout, row: Sequence[int], ends: Sequence[int]) -> None:
    """Move a row's items towards their neighbours on these ends of their segments.

    Items keep their order and distances: isotonic regression of the places they want.
    """
    items = [layout.items[i] for i in row]
    wish = np.array([item.x for item in items])
    weight = np.full(len(row), 1e-3)
    for k, i in enumerate(row):
        pulls = _pulls(layout, i, ends)
        if pulls:
            wishes, weights = np.array(pulls).T
            wish[k], weight[k] = np.average(wishes, weights=weights), weights.sum()
    widths = np.array([item.width for item in items])
    apart = np.concatenate([[0.0], np.cumsum((widths[1:] + widths[:-1]) / 2 + GAP_X)])
    for item, x in zip(items, _isotonic(wish - apart, weight) + apart):
        item.x = float(x)


def _pulls(layout: Layout, i: int, ends: Sequence[int]) -> list[tuple[float, float]]:
    """(where a neighbour wants item i, weight); long arrows weigh most, to become straight."""
    found = []
    for segment, port in zip(layout.segments, layout.ports):
        for end in ends:
            if segment[end] == i:
                other = layout.items[segment[1 - end]]
                bends = (not layout.items[i].steps) + (not other.steps)
                found.append((other.x + port[1 - end] - port[end], (1.0, 2.0, 8.0)[bends]))
    return found


def _isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest values (N,) that never fall: pool adjacent violators."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights):
        pool = (float(value), float(weight), 1)
        while pools and pools[-1][0] > pool[0]:
            last = pools.pop()
            total = last[1] + pool[1]
            mean = (last[0] * last[1] + pool[0] * pool[1]) / total
            pool = (mean, total, last[2] + pool[2])
        pools.append(pool)
    return np.concatenate([np.full(count, value) for value, _, count in pools])


def _shift_lead(layout: Layout) -> None:
    """Move the lead, if it is alone in its row, to where it widens the figure least."""
    for number, item in enumerate(layout.items):
        others = [other for other in layout.items if other is not item]
        if len(item.steps) > 1 and others and layout.rows[item.row] == [number]:
            left = min(other.x - other.width / 2 for other in others) + item.width / 2
            right = max(other.x + other.width / 2 for other in others) - item.width / 2
            item.x = float(np.clip(item.x, min(left, right), max(left, right)))


def _runs(layout: Layout) -> list[list[int]]:
    """Chains of items, each joined to the next by the only arrow of both; the longest first."""
    above, below = (layout.neighbours(upwards) for upwards in (True, False))
    after = {
        upper: lower
        for upper, lower in layout.segments
        if len(below[upper]) == len(above[lower]) == 1
    }
    runs = []
    for first in sorted(set(after) - set(after.values())):
        run = [first]
        while run[-1] in after:
            run.append(after[run[-1]])
        runs.append(run)
    return sorted(runs, key=len, reverse=True)


def _straighten(layout: Layout, run: Sequence[int]) -> None:
    """Put a run's arrows on one vertical line, if all its rows have room for one.

    A run of long arrows goes below the box where it starts; others stay near their mean.
    """
    low, high, wishes = -np.inf, np.inf, []
    for i in run:
        item = layout.items[i]
        row = layout.rows[item.row]
        place = row.index(i)
        for k in (place - 1, place + 1):
            if not 0 <= k < len(row):
                continue
            other = layout.items[row[k]]
            gap = (other.width + item.width) / 2 + GAP_LINE
            if k < place:
                low = max(low, other.x + gap + item.anchor)
            else:
                high = min(high, other.x - gap + item.anchor)
        wishes.append(item.x + item.anchor)
    for (upper, lower), (port, _) in zip(layout.segments, layout.ports):
        if lower == run[0] and not any(layout.items[i].steps for i in run):
            wishes = [layout.items[upper].x + port]
    if low <= high:
        x = float(np.clip(np.mean(wishes), low, high))
        for i in run:
            layout.items[i].x = x - layout.items[i].anchor
