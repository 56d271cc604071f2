"""An ONNX graph in the making, and the walk over an MXNet symbol that fills it.

`to_onnx` visits the nodes of a symbol's JSON in order and lets the translator of each operator
(operators.py, boxes.py, rois.py) add ONNX nodes. Values are known by their names in the ONNX graph.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mxrcnn.export import ExportError
from symnet.machine import mx

#: the newest that needs no more than onnxruntime 1.12; has LayerNormalization and RoiAlign's modes
OPSET = 17
#: of the file format; the one that came with that opset
IR_VERSION = 8

#: an end that lies beyond every axis
TO_END = np.iinfo(np.int64).max


class OnnxGraph:
    """Nodes and constants of an ONNX graph, to which translators add."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._by_value: dict[tuple[Any, ...], str] = {}
        self._numbers = count()
        self._prefix = ""

    def begin(self, name: str) -> None:
        """What is added from now on belongs to the MXNet node of that name."""
        self._prefix = name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node of operator `kind`; the name of its output, or a list of several."""
        place = f"{self._prefix}/{kind}_{next(self._numbers)}"
        names = [place] if outputs == 1 else [f"{place}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=place, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A small array; equal ones are stored once."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_value:
            name = f"constant_{next(self._numbers)}"
            self.constants[name] = array
            self._by_value[key] = name
        return self._by_value[key]

    def ints(self, *values: int) -> str:
        """A constant (len(values),) int64, as shapes and axes are."""
        return self.constant(values, np.int64)

    def shape(self, data: str, begin: int = 0, end: int | None = None) -> str:
        """The lengths of axes begin..end-1, int64; of all by default."""
        attributes = {"start": begin} if end is None else {"start": begin, "end": end}
        return self.op("Shape", data, **attributes)

    def cast(self, data: str, to: int = TensorProto.FLOAT) -> str:
        """Data in another type."""
        return self.op("Cast", data, to=to)

    def slice(self, data: str, axis: int, begin: int, end: int = TO_END, step: int = 1) -> str:
        """data[begin:end:step] along an axis."""
        parts = (self.ints(value) for value in (begin, end, axis, step))
        return self.op("Slice", data, *parts)

    def concat(self, *parts: str, axis: int) -> str:
        """Parts put together along an axis; constants are put together here."""
        if all(part in self.constants for part in parts):
            values = np.concatenate([self.constants[part] for part in parts], axis)
            return self.constant(values, values.dtype)
        return self.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]

    def reshape(self, data: str, *shape: int) -> str:
        """Data in a shape whose zeros are copied lengths and whose -1 is what is left."""
        if data in self.constants and 0 not in shape:
            values = self.constants[data].reshape(shape)
            return self.constant(values, values.dtype)
        return self.op("Reshape", data, self.ints(*shape))

    def unsqueeze(self, data: str, *axes: int) -> str:
        """Data with new axes of length 1."""
        return self.op("Unsqueeze", data, self.ints(*axes))

    def filled(self, shape: str, value: float, dtype: Any = np.float32) -> str:
        """An array of a shape, itself an array, with one value everywhere."""
        tensor = numpy_helper.from_array(np.array([value], dtype))
        return self.op("ConstantOfShape", shape, value=tensor)

    def range(self, length: str) -> str:
        """0 .. length-1, int64, for a length (1,)."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.op("Range", zero, self.op("Gather", length, zero), one)

    def used_constants(self, outputs: Sequence[str]) -> list[onnx.TensorProto]:
        """The constants that some node or output needs."""
        used = {name for node in self.nodes for name in node.input} | set(outputs)
        kept = (item for item in self.constants.items() if item[0] in used)
        return [numpy_helper.from_array(v, name) for name, v in kept]


@dataclass(frozen=True)
class MXNode:
    """A node of the symbol: its inputs' and outputs' names in the ONNX graph, and their ranks.

    `node["axis"]` is an attribute as a Python value; `node.get("axis", 0)` has a default, which is
    MXNet's own.
    """

    name: str
    op: str
    inputs: list[str]
    ranks: list[int]
    attributes: Mapping[str, str]

    def __getitem__(self, key: str) -> Any:
        text = self.attributes[key]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def get(self, key: str, default: Any) -> Any:
        """An attribute, or the default where it is not given."""
        return self[key] if key in self.attributes else default

    def refuse_unless(self, **wanted: Any) -> None:
        """ExportError for an attribute that is given with another value than the wanted one."""
        for key, value in wanted.items():
            if self.get(key, value) != value:
                raise ExportError(
                    f"{self.name}: {self.op} with {key}={self[key]!r} cannot be exported to ONNX"
                )


Translator = Callable[[OnnxGraph, MXNode], Any]

#: MXNet operator -> function that adds its ONNX nodes and returns its output's name, or several
TRANSLATORS: dict[str, Translator] = {}


def translates(*operators: str) -> Callable[[Translator], Translator]:
    """Register a function as the translator of MXNet operators."""

    def register(function: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(operators, function))
        return function

    return register


def _ranks(symbol: mx.sym.Symbol, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Of all values in a symbol, by MXNet's name of the value."""
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
    """Add a symbol's nodes to a graph; the ONNX names of its outputs.

    params: the values of its parameters; shapes: of its other inputs, any that fit it, from which
    ranks follow. Raises ExportError for an operator without translator.
    """
    # imported here because they import this module
    from mxrcnn.export import boxes, operators, rois  # noqa: F401

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
    """An ONNX model of a symbol with parameters.

    inputs and outputs: names and shapes, in which a text is a length that is free; shapes: an
    example of the inputs' shapes. Raises ExportError for what has no translation.
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
