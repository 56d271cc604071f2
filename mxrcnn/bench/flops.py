"""How many multiply-adds a graph's convolutions and fully connected layers need."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from symnet.machine import mx

if TYPE_CHECKING:
    Shape = tuple[int, ...]

#: what is counted; everything else is little in comparison
LAYERS = ("Convolution", "FullyConnected", "Deconvolution")


def multiply_adds(
    symbol: mx.sym.Symbol, inputs: Mapping[str, Shape], trained: Collection[str] = ()
) -> int:
    """Multiply-adds of one forward pass and, if parameters are trained, the backward pass.

    inputs: shapes of the graph's inputs; trained: the names of the parameters that move. A layer
    costs as much again for the gradient of its weight, if that moves, and for that of its data, if
    anything before it moves.
    """
    internals = symbol.get_internals()
    _, found, _ = internals.infer_shape(**inputs)
    shapes = dict(zip(internals.list_outputs(), found))
    nodes = json.loads(symbol.tojson())["nodes"]
    moves: list[bool] = []
    total = 0
    for node in nodes:
        before = [moves[source] for source, *_ in node["inputs"]]
        moves.append(node["name"] in trained if node["op"] == "null" else any(before))
        if node["op"] in LAYERS:
            total += _forward(node, nodes, shapes) * (1 + before[0] + before[1])
    return total


def _forward(node: dict[str, Any], nodes: list[dict[str, Any]], shapes: dict[str, Shape]) -> int:
    def shape(of: dict[str, Any]) -> Shape:
        return shapes[of["name"] if of["op"] == "null" else f"{of['name']}_output"]

    data, weight = (nodes[source] for source, *_ in node["inputs"][:2])
    # each value of the map on the side of the weight's first axis meets the rest of the weight
    values = shape(data if node["op"] == "Deconvolution" else node)
    return _product(values) * _product(shape(weight)[1:])


def _product(sizes: Shape) -> int:
    product = 1
    for size in sizes:
        product *= int(size)
    return product
