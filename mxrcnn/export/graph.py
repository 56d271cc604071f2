"""An ONNX graph under construction, and the registry of functions that add nodes to it.

The translators of MXNet's operators are in operators.py, boxes.py and rois.py; walk.py calls them
for each node of a symbol. A value is known by its name in the ONNX graph.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mxrcnn.export import ExportError

#: the end of a slice that reaches to the end of any axis
TO_END = np.iinfo(np.int64).max


class OnnxGraph:
    """The nodes and constants of an ONNX graph. Translators add to it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._by_value: dict[tuple[Any, ...], str] = {}
        self._numbers = count()
        self._prefix = ""

    def begin(self, name: str) -> None:
        """Set the prefix of the next nodes' names: the name of the MXNet node they come from."""
        self._prefix = name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node of operator `kind`. Returns its output's name, or a list of several names."""
        place = f"{self._prefix}/{kind}_{next(self._numbers)}"
        names = [place] if outputs == 1 else [f"{place}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=place, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a small array; equal arrays are stored once. Returns its name."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_value:
            name = f"constant_{next(self._numbers)}"
            self.constants[name] = array
            self._by_value[key] = name
        return self._by_value[key]

    def ints(self, *values: int) -> str:
        """A constant (len(values),) int64, the type of shapes and axes."""
        return self.constant(values, np.int64)

    def shape(self, data: str, begin: int = 0, end: int | None = None) -> str:
        """The lengths of axes begin..end-1 as int64; of all axes by default."""
        attributes = {"start": begin} if end is None else {"start": begin, "end": end}
        return self.op("Shape", data, **attributes)

    def cast(self, data: str, to: int = TensorProto.FLOAT) -> str:
        """Convert to another type; float32 by default."""
        return self.op("Cast", data, to=to)

    def slice(self, data: str, axis: int, begin: int, end: int = TO_END, step: int = 1) -> str:
        """data[begin:end:step] along an axis."""
        parts = (self.ints(value) for value in (begin, end, axis, step))
        return self.op("Slice", data, *parts)

    def concat(self, *parts: str, axis: int) -> str:
        """Concatenate along an axis. Constants are folded into one constant."""
        if all(part in self.constants for part in parts):
            values = np.concatenate([self.constants[part] for part in parts], axis)
            return self.constant(values, values.dtype)
        return self.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]

    def reshape(self, data: str, *shape: int) -> str:
        """Reshape; 0 keeps the length of that axis, -1 is inferred. A constant stays a constant."""
        if data in self.constants and 0 not in shape:
            values = self.constants[data].reshape(shape)
            return self.constant(values, values.dtype)
        return self.op("Reshape", data, self.ints(*shape))

    def unsqueeze(self, data: str, *axes: int) -> str:
        """Insert axes of length 1."""
        return self.op("Unsqueeze", data, self.ints(*axes))

    def filled(self, shape: str, value: float, dtype: Any = np.float32) -> str:
        """An array filled with one value; `shape` is the name of an int64 array."""
        tensor = numpy_helper.from_array(np.array([value], dtype))
        return self.op("ConstantOfShape", shape, value=tensor)

    def range(self, length: str) -> str:
        """0 .. length-1, int64, for a length (1,)."""
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        return self.op("Range", zero, self.op("Gather", length, zero), one)

    def used_constants(self, outputs: Sequence[str]) -> list[onnx.TensorProto]:
        """The constants that a node or an output uses."""
        used = {name for node in self.nodes for name in node.input} | set(outputs)
        kept = (item for item in self.constants.items() if item[0] in used)
        return [numpy_helper.from_array(v, name) for name, v in kept]


@dataclass(frozen=True)
class MXNode:
    """A node of the MXNet symbol: the ONNX names of its inputs, their ranks, its attributes.

    `node["axis"]` is an attribute as a Python value. `node.get("axis", 0)` returns the default if
    the symbol does not set it; pass MXNet's own default.
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
        """An attribute, or the default if it is not set."""
        return self[key] if key in self.attributes else default

    def refuse_unless(self, **wanted: Any) -> None:
        """ExportError if an attribute is set to another value than the wanted one."""
        for key, value in wanted.items():
            if self.get(key, value) != value:
                raise ExportError(
                    f"{self.name}: {self.op} with {key}={self[key]!r} cannot be exported to ONNX"
                )


Translator = Callable[[OnnxGraph, MXNode], Any]

#: MXNet operator -> function that adds ONNX nodes and returns the name(s) of the output(s)
TRANSLATORS: dict[str, Translator] = {}


def translates(*operators: str) -> Callable[[Translator], Translator]:
    """Register a function as the translator of MXNet operators."""

    def register(function: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(operators, function))
        return function

    return register
