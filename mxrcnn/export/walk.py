"""From an MXNet symbol to an ONNX model: walks the nodes of the symbol's JSON in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mxrcnn.export import ExportError, boxes, operators, rois  # noqa: F401 - they register translators
from mxrcnn.export.graph import TRANSLATORS, MXNode, OnnxGraph
from symnet.machine import mx

#: the newest opset of onnxruntime 1.12; has LayerNormalization and RoiAlign's coordinate modes
OPSET = 17
#: the version of the file format that came with that opset
IR_VERSION = 8


def _ranks(symbol: mx.sym.Symbol, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The rank of each value in a symbol, by MXNet's name of the value."""
    internals = symbol.get_internals()
    _, found, _ = internals.infer_shape(**shapes)
    return {name: len(shape) for name, shape in zip(internals.list_outputs(), found)}


def _rank(ranks: Mapping[str, int], node: Mapping[str, Any], place: int) -> int:
    name = node["name"]
    names = (name,) if node["op"] == "null" else (f"{name}_output{place}", f"{name}_output")
    return next(ranks[name] for name in names if name in ranks)


def add_symbol(
    graph: OnnxGraph,
    symbol: mx.sym.Symbol,
    params: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """Add a symbol's nodes to a graph. Returns the ONNX names of its outputs.

    params: its parameters. shapes: example shapes of its other inputs, used to infer ranks. Raises
    ExportError for an operator without a translator.
    """
    stored = json.loads(symbol.tojson(remove_amp_cast=False))
    nodes, ranks = stored["nodes"], _ranks(symbol, shapes)
    missing = sorted({node["op"] for node in nodes} - {"null"} - set(TRANSLATORS))
    if any("quantize" in name for name in missing):
        raise ExportError("a quantized detector cannot be exported: export its float32 run")
    if missing:
        raise ExportError(f"operators that cannot be exported to ONNX: {', '.join(missing)}")
    graph.constants.update(params)
    values: dict[tuple[int, int], str] = {}
    for number, node in enumerate(nodes):
        if node["op"] == "null":
            values[number, 0] = node["name"]
            continue
        graph.begin(node["name"])
        sources = [(source, place) for source, place, *_ in node["inputs"]]
        inputs = [values[source] for source in sources]
        input_ranks = [_rank(ranks, nodes[source], place) for source, place in sources]
        given = MXNode(node["name"], node["op"], inputs, input_ranks, node.get("attrs", {}))
        made = TRANSLATORS[node["op"]](graph, given)
        for place, name in enumerate([made] if isinstance(made, str) else made):
            values[number, place] = name
    return [values[source, place] for source, place, *_ in stored["heads"]]


def to_onnx(
    symbol: mx.sym.Symbol,
    params: Mapping[str, np.ndarray],
    inputs: Mapping[str, Sequence[int | str]],
    shapes: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, Sequence[int | str | None]],
) -> onnx.ModelProto:
    """Build the ONNX model of a symbol and its parameters.

    inputs, outputs: names and shapes, where a string is the name of a dynamic length. shapes: an
    example of the inputs' shapes. Raises ExportError for an operator without a translator.
    """
    graph = OnnxGraph()
    found = add_symbol(graph, symbol, params, shapes)
    graph.begin("outputs")
    for value, name in zip(found, outputs):
        graph.nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def described(values: Mapping[str, Sequence[Any]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in values.items()
        ]

    proto = helper.make_graph(
        graph.nodes,
        symbol.name or "detector",
        described(inputs),
        described(outputs),
        graph.used_constants(list(outputs)),
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model
