"""RoI max pooling with tables of window maxima, for inference. Equals ROIPooling to the bit.

MXNet's operator visits every cell of every bin. Here each bin is the maximum of four windows that
cover it. The maxima of all windows of a few sizes are computed beforehand by ordinary poolings.
Letters: B images, F channels, H, W cells of the feature map, R RoIs, K window sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symnet.machine import Symbol, mx

#: indices are float32, which is exact for integers up to here
MOST_ROWS = 2**24


def window_radii(cells: int, bins: int) -> list[int]:
    """The radii r = 0, 1, 3, 7, ... of the windows (2 r + 1 wide) that a feature map needs.

    Two windows of width w cover bins of w to 2 w cells, so the next width is 2 w + 1. A RoI has n
    cells, at most cells + 1 because its sides are rounded, and its bins at most ceil(n / bins) + 1.
    """
    radii, longest = [0], min(cells, -(-(cells + 1) // bins) + 1)
    while 2 * (2 * radii[-1] + 1) < longest:
        radii.append(2 * radii[-1] + 1)
    return radii


def table_rows(shape: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    """The number of table rows for a map (B, F, H, W) and size (bins down, bins across)."""
    images, _, *sides = shape
    windows = [len(window_radii(side, bins)) for side, bins in zip(sides, size)]
    return 1 + images * sides[0] * sides[1] * windows[0] * windows[1]


def max_pool_rois(
    feature: Symbol,
    rois: Symbol,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    scale: float,
) -> Symbol:
    """Equals ROIPooling(feature, rois): (R, F, bins down, bins across).

    shape: that of feature, (B, F, H, W). size: (bins down, bins across). rois (R, 5): image index
    and x1, y1, x2, y2; scale converts them to cells. RoIs must lie in the image, as proposals do:
    if one is longer than the feature map by two cells or more, a bin may miss cells.
    """
    images, channels, height, width = shape
    radii = [window_radii(side, bins) for side, bins in zip((height, width), size)]
    rows = [mx.sym.zeros((1, channels))]  # for empty bins
    rows += [_rows(_window_maxima(feature, y, x)) for y in radii[0] for x in radii[1]]
    tables = mx.sym.concat(*rows, dim=0)

    table = images * height * width
    y_axis = _Axis(height, size[0], radii[0], len(radii[1]) * table, width)
    x_axis = _Axis(width, size[1], radii[1], table, 1)
    image, x1, y1, x2, y2 = (mx.sym.slice_axis(rois, axis=1, begin=i, end=i + 1) for i in range(5))
    down = _windows(y_axis, y1 * scale, y2 * scale)
    across = _windows(x_axis, x1 * scale, x2 * scale)
    filled = _outer(mx.sym.broadcast_mul, down[2], across[2])
    first = mx.sym.expand_dims(image * (height * width) + 1, axis=2)
    pooled = None
    for y in down[:2]:
        for x in across[:2]:
            index = mx.sym.broadcast_add(_outer(mx.sym.broadcast_add, y, x), first) * filled
            part = mx.sym.take(tables, index)
            pooled = part if pooled is None else mx.sym.broadcast_maximum(pooled, part)
    return mx.sym.transpose(pooled, axes=(0, 3, 1, 2))


def _window_maxima(feature: Symbol, down: int, across: int) -> Symbol:
    """The maximum of the window with these radii around each cell: (B, F, H, W)."""
    if not down and not across:
        return feature
    kernel = (2 * down + 1, 2 * across + 1)
    return mx.sym.Pooling(feature, kernel=kernel, pad=(down, across), pool_type="max")


def _rows(data: Symbol) -> Symbol:
    """Reshape (B, F, H, W) to (B * H * W, F)."""
    data = mx.sym.transpose(data, axes=(0, 2, 3, 1))
    return mx.sym.reshape(mx.sym.reshape(data, shape=(-3, -2)), shape=(-3, -2))


def _outer(combine: Callable[..., Symbol], down: Symbol, across: Symbol) -> Symbol:
    """Combine (R, bins down) and (R, bins across) to (R, bins down, bins across)."""
    return combine(mx.sym.expand_dims(down, axis=2), mx.sym.expand_dims(across, axis=1))


@dataclass(frozen=True)
class _Axis:
    """An axis of the feature map; per_radius, per_cell: the steps in table rows."""

    cells: int
    bins: int
    radii: list[int]
    per_radius: int
    per_cell: int


def _windows(axis: _Axis, low: Symbol, high: Symbol) -> tuple[Symbol, Symbol, Symbol]:
    """Choose the windows along one axis for RoIs from low to high (R, 1), in cells.

    Returns the table rows of each bin's first and last window, and 1 where a bin has cells, else 0;
    each (R, bins). Bins are ROIPooling's: RoI sides are rounded and at least one cell; a bin goes
    from floor to ceil, and is clipped to the map.
    """
    start = mx.sym.round(low)
    side = mx.sym.round(high) - start + 1
    side = mx.sym.broadcast_maximum(side, mx.sym.ones((1, 1))) / axis.bins
    number = mx.sym.reshape(mx.sym.arange(axis.bins), shape=(1, axis.bins))
    begin = mx.sym.broadcast_add(mx.sym.floor(mx.sym.broadcast_mul(side, number)), start)
    end = mx.sym.broadcast_add(mx.sym.ceil(mx.sym.broadcast_mul(side, number + 1)), start)
    begin, end = (mx.sym.clip(edge, 0, axis.cells) for edge in (begin, end))

    length = end - begin
    place, radius = 0 * length, 0 * length
    for smaller, larger in zip(axis.radii, axis.radii[1:]):
        fits = length >= 2 * larger + 1
        place, radius = place + fits, radius + fits * (larger - smaller)
    centres = (begin + radius, end - 1 - radius)
    rows = (place * axis.per_radius + centre * axis.per_cell for centre in centres)
    return (*rows, length > 0)
