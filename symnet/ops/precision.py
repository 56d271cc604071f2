"""Decides which layers compute in bfloat16 or int8.

The precision applies to the graph being built: `with precision("bf16"): symbol = ...`.
Convolutions (and, for inference, fully connected layers) then take inputs and weights in bfloat16
and return bfloat16. `float32` casts back where losses, proposals or normalisation begin. int8
leaves grouped convolutions, squeeze and excitation, and prediction layers (class scores, boxes,
masks) in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from symnet.machine import Symbol, mx
from symnet.machine.engine import uses_amx

#: bf16: parameters stay float32 and are cast in the graph, for training. bf16_stored: parameters
#: are stored as bfloat16, for inference. int8: a float32 graph, ready for MXNet's quantization
PRECISIONS = ("fp32", "bf16", "bf16_stored", "int8")

#: MXNet's Python notation of bfloat16
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])

_current: ContextVar[str] = ContextVar("precision", default="fp32")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Graphs built inside this context use this precision; ValueError for an unknown one."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> str:
    """The precision of the graph being built."""
    return _current.get()


#: layers with fewer outputs stay float32, because bfloat16 gains nothing there
LEAST_BF16_FILTERS = 16

#: feature map sizes, in cells, for which oneDNN 2.4's 1x1 convolutions with AMX corrupt memory
UNSAFE_CELLS = range(33, 49)


#: attribute of layers that int8 leaves in float32: prediction layers, squeeze and excitation
PREDICTS_ATTRIBUTE = "__predicts__"
PREDICTS = {PREDICTS_ATTRIBUTE: "True"}


def is_low(filters: int) -> bool:
    """True if a layer with this many outputs computes in bfloat16."""
    return _current.get().startswith("bf16") and filters >= LEAST_BF16_FILTERS


def as_input(data: Symbol, filters: int) -> Symbol:
    """Cast data, or a weight, to the type that a layer with this many outputs needs."""
    return mx.sym.amp_cast(data, dtype=BFLOAT16) if is_low(filters) else float32(data)


def unsafe_layers(symbol: Symbol, name: str, **shapes: tuple[int, ...]) -> list[str]:
    """The 1x1 convolutions that would corrupt memory in this precision with these input shapes.

    symbol: a graph built for the precision; for int8, not yet quantized.
    """
    if name == "fp32" or not uses_amx():
        return []
    internals = symbol.get_internals()
    _, found, _ = internals.infer_shape(**shapes)
    sizes = dict(zip(internals.list_outputs(), found))
    exact = exact_layers(symbol) if name == "int8" else ()
    convolutions = {
        layer: sizes[f"{layer}_output"]
        for layer, attributes in symbol.attr_dict().items()
        if attributes.get("kernel") == "(1, 1)"
        and int(attributes.get("num_filter", 0)) >= (1 if name == "int8" else LEAST_BF16_FILTERS)
        and layer not in exact
    }
    return [layer for layer, (_, _, h, w) in convolutions.items() if h * w in UNSAFE_CELLS]


def exact_layers(symbol: Symbol) -> list[str]:
    """The layers that int8 leaves in float32: those with PREDICTS, and grouped convolutions.

    Grouped convolutions are a small part of the work, but cause most of RegNet's loss in int8: FCOS
    on BCCD loses 5 points of mAP with them in int8, and half a point without. They would only add a
    tenth of the speed.
    """
    return [
        name
        for name, attributes in symbol.attr_dict().items()
        if PREDICTS_ATTRIBUTE in attributes or int(attributes.get("num_group", 1)) > 1
    ]


def as_stored(symbol: Symbol, params: Mapping[str, mx.nd.NDArray]) -> dict[str, mx.nd.NDArray]:
    """Convert parameters to the types that the graph needs: float32 or bfloat16."""
    types, _, _ = symbol.infer_type(data=np.float32)
    low = {name for name, dtype in zip(symbol.list_arguments(), types) if dtype == BFLOAT16}
    return {
        name: mx.nd.amp_cast(value, dtype=BFLOAT16) if name in low else value
        for name, value in params.items()
    }


def float32(data: Symbol) -> Symbol:
    """Cast the result of a convolution or fully connected layer to float32."""
    if not _current.get().startswith("bf16"):
        return data
    return mx.sym.amp_cast(data, dtype="float32")
