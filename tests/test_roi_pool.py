"""RoI pooling with tables of window maxima equals ROIPooling to the bit for any map and RoIs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mxrcnn.inference import rewrite
from mxrcnn.inference.rewrite import replaced, with_pooling_tables
from symnet.machine import mx
from symnet.ops.roi_pool import max_pool_rois, table_rows, window_radii

SCALE = 1 / 16
FEATURES = 5


def roi_pooling(size, data=None):
    data = mx.sym.Variable("data") if data is None else data
    rois = mx.sym.Variable("rois")
    return mx.sym.ROIPooling(data, rois, pooled_size=size, spatial_scale=SCALE, name="pool")


def run(symbol, **inputs):
    args = {name: mx.nd.array(value) for name, value in inputs.items()}
    out = symbol.bind(mx.cpu(), args, grad_req="null").forward(is_train=False)
    return [value.asnumpy() for value in out]


def some_rois(rng, images, height, width, count=80):
    """RoIs of all sizes up to the map's; some at its end, inverted, or on half cells."""
    sides = np.array([width, height, width, height]) / SCALE
    corners = rng.uniform(0, 1, (count, 4)) * sides
    corners[::2, 2:] = corners[::2, :2] + rng.uniform(0, 80, (len(corners[::2]), 2))
    corners[::3] = np.round(corners[::3] * SCALE * 2) / 2 / SCALE
    corners = np.minimum(corners, sides)
    corners = np.concatenate([corners, [0 * sides, [0, 0, *sides[2:]], sides, -sides]])
    index = rng.integers(0, images, len(corners))
    return np.column_stack([index, corners]).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "height", "width", "size"),
    [
        (1, 38, 63, (7, 7)),
        (3, 9, 20, (7, 7)),
        (2, 64, 40, (14, 14)),
        (1, 13, 130, (3, 2)),
        (2, 1, 1, (7, 7)),
        (1, 2, 50, (1, 1)),
        (2, 12, 7, (7, 6)),
    ],
)
def test_the_same_bits_as_roi_pooling(images, height, width, size):
    rng = np.random.default_rng(height)
    shape = (images, FEATURES, height, width)
    data = rng.normal(size=shape).astype(np.float32)
    rois = some_rois(rng, images, height, width)
    tables = max_pool_rois(mx.sym.Variable("data"), mx.sym.Variable("rois"), shape, size, SCALE)
    (expected,), (found,) = (run(s, data=data, rois=rois) for s in (roi_pooling(size), tables))
    assert found.shape == expected.shape == (len(rois), FEATURES, *size)
    np.testing.assert_array_equal(found, expected)
    assert (expected == 0).any()  # some bins are empty


@pytest.mark.parametrize("bins", [1, 2, 7, 14])
@pytest.mark.parametrize("cells", [1, 2, 5, 13, 38, 63, 100, 400])
def test_two_windows_cover_every_bin(cells, bins):
    lengths = {
        min(cells, -(-(p + 1) * n // bins) - p * n // bins)
        for n in range(1, cells + 2)
        for p in range(bins)
    }
    widths = [2 * radius + 1 for radius in window_radii(cells, bins)]
    assert all(any(w <= length <= 2 * w for w in widths) for length in lengths)
    assert widths[-1] <= max(cells, 1)


def test_a_graph_s_other_nodes_stay():
    """The pooled map is its node's second output, and a head of the graph; names are kept."""
    halves = mx.sym.split(mx.sym.Variable("data"), num_outputs=2, axis=1, name="halves")
    pooled = roi_pooling((7, 7), halves[1])
    symbol = mx.sym.Group([mx.sym.sum(halves[0], axis=1, name="total"), pooled, 2 * pooled])
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 6, 20, 30)).astype(np.float32)
    inputs = {"data": data, "rois": some_rois(rng, 2, 20, 30)}
    tables = with_pooling_tables(symbol, {name: value.shape for name, value in inputs.items()})
    operators = {node["op"] for node in json.loads(tables.tojson())["nodes"]}
    assert "ROIPooling" not in operators
    assert tables.list_arguments() == symbol.list_arguments()
    assert tables.list_outputs()[0] == "total_output"
    for found, expected in zip(run(tables, **inputs), run(symbol, **inputs)):
        np.testing.assert_array_equal(found, expected)


def test_replaced_takes_inputs_by_number():
    a, b = mx.sym.Variable("a"), mx.sym.Variable("b")
    symbol = mx.sym.broadcast_sub(a, b, name="difference") * 10
    part = mx.sym.Variable("1") - 2 * mx.sym.Variable("0")
    (found,) = run(replaced(symbol, "difference", part), a=[3.0], b=[5.0])
    assert found == [(5 - 2 * 3) * 10]


def test_tables_that_float32_cannot_count_are_not_made(monkeypatch):
    symbol = roi_pooling((7, 7))
    shapes = {"data": (1, 8, 30, 40), "rois": (5, 5)}
    rows = table_rows(shapes["data"], (7, 7))
    assert rows == 1 + 30 * 40 * len(window_radii(30, 7)) * len(window_radii(40, 7))
    monkeypatch.setattr(rewrite, "MOST_ROWS", rows)
    assert with_pooling_tables(symbol, shapes).tojson() != symbol.tojson()
    monkeypatch.setattr(rewrite, "MOST_ROWS", rows - 1)
    assert with_pooling_tables(symbol, shapes).tojson() == symbol.tojson()
