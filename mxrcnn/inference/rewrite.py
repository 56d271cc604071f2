"""Replaces operators of a test graph by faster ones, once the input shapes are known."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

from symnet.machine import mx
from symnet.ops.roi_pool import MOST_ROWS, max_pool_rois, table_rows

Shape = tuple[int, ...]
Node = dict[str, Any]


def with_pooling_tables(symbol: mx.sym.Symbol, shapes: Mapping[str, Shape]) -> mx.sym.Symbol:
    """Replace each ROIPooling by `max_pool_rois`. Valid for inputs of these shapes only.

    The outputs have the same bits. The new operators have no useful gradients.
    """
    for node in json.loads(symbol.tojson(remove_amp_cast=False))["nodes"]:
        if node["op"] == "ROIPooling":
            part = _pooling_tables(symbol, node, shapes)
            symbol = symbol if part is None else replaced(symbol, node["name"], part)
    return symbol


def _pooling_tables(
    symbol: mx.sym.Symbol, node: Node, shapes: Mapping[str, Shape]
) -> mx.sym.Symbol | None:
    """The replacement of one ROIPooling, with variables `0` and `1`; None if too large."""
    feature = symbol.get_internals()[f"{node['name']}_output"].get_children()[0]
    known = {name: shapes[name] for name in feature.list_arguments() if name in shapes}
    shape = feature.infer_shape(**known)[1][0]
    size = ast.literal_eval(node["attrs"]["pooled_size"])
    if table_rows(shape, size) > MOST_ROWS:
        return None
    inputs = (mx.sym.Variable(name) for name in "01")
    with mx.name.Prefix(f"{node['name']}."):
        return max_pool_rois(*inputs, shape, size, float(node["attrs"]["spatial_scale"]))


def replaced(symbol: mx.sym.Symbol, name: str, part: mx.sym.Symbol) -> mx.sym.Symbol:
    """Replace the operator of that name by the graph `part`; both have one output.

    The variables `0`, `1`, ... of part are the operator's inputs.
    """
    graph, inner = (
        json.loads(symbol.tojson(remove_amp_cast=False)),
        json.loads(part.tojson(remove_amp_cast=False)),
    )
    nodes: list[Node] = []
    moved: dict[int, int] = {}  # old index -> new index of the graph's nodes

    def append(node: Node, entry: Callable[..., list[int]]) -> int:
        nodes.append({**node, "inputs": [entry(*source) for source in node["inputs"]]})
        return len(nodes) - 1

    def of_graph(source: int, *which: int) -> list[int]:
        return [moved[source], *which]

    def insert(inputs: list[list[int]]) -> int:
        """Append part's nodes; returns the index of its output."""
        within: dict[int, int] = {}

        def of_part(source: int, *which: int) -> list[int]:
            if source in within:
                return [within[source], *which]
            return of_graph(*inputs[int(inner["nodes"][source]["name"])])

        for number, piece in enumerate(inner["nodes"]):
            if piece["op"] != "null":
                within[number] = append(piece, of_part)
        return within[inner["heads"][0][0]]

    for number, node in enumerate(graph["nodes"]):
        here = node["name"] == name and node["op"] != "null"
        moved[number] = insert(node["inputs"]) if here else append(node, of_graph)
    graph["heads"] = [of_graph(*head) for head in graph["heads"]]
    graph["arg_nodes"] = [i for i, node in enumerate(nodes) if node["op"] == "null"]
    graph["nodes"] = nodes
    del graph["node_row_ptr"]
    return mx.sym.load_json(json.dumps(graph))
