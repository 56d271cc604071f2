"""Counts the multiply-adds of a graph's convolutions and fully connected layers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

from symnet.machine import mx

Shape = tuple[int, ...]

#: the operators that are counted; the others are small in comparison
LAYERS = ("Convolution", "FullyConnected", "Deconvolution")


def multiply_adds(
    symbol: mx.sym.Symbol, inputs: Mapping[str, Shape], trained: Collection[str] = ()
) -> int:
    """The multiply-adds of one forward pass and, if parameters are trained, the backward pass.

    inputs: shapes of the graph's inputs. trained: names of the trained parameters. The gradient of
    a layer's weight costs as much as its forward pass, if the weight is trained; so does that of
    its data, if anything before it is trained.
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
    # each output value (input value of a Deconvolution) is multiplied with weight[0]'s values
    values = shape(data if node["op"] == "Deconvolution" else node)
    return prod(values) * prod(shape(weight)[1:])
