"""The layers that all graphs are made of, and the one place that decides precision.

Letters: B images, H, W a map's size, R rows, L levels of a pyramid. A layer's parameters are called
NAME_weight and NAME_bias.

Precision is of the graph being built: `with precision("bf16"): symbol = ...`. Then convolutions and
fully connected layers take their inputs and weights in bfloat16 and hand their results on in it;
`float32` brings a result back where losses, proposals or normalisation begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from symnet.compat import mx

if TYPE_CHECKING:
    Symbol = mx.sym.Symbol

#: what `precision` takes. bf16: parameters stay float32 and are cast in the graph, as training
#: needs it. bf16_stored: the parameters are bfloat16 themselves, as inference wants it
PRECISIONS = ("fp32", "bf16", "bf16_stored")

#: as MXNet's Python spells bfloat16
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])

_precision: ContextVar[str] = ContextVar("precision", default="fp32")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Graphs built meanwhile compute in that precision; ValueError for an unknown one."""
    if name not in PRECISIONS:
        raise ValueError(f"precision {name!r}: there are {', '.join(PRECISIONS)}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def _low(data: Symbol) -> Symbol:
    """The data as convolutions take it."""
    return data if _precision.get() == "fp32" else mx.sym.amp_cast(data, dtype=BFLOAT16)


def float32(data: Symbol) -> Symbol:
    """The result of a convolution or fully connected layer in float32."""
    return data if _precision.get() == "fp32" else mx.sym.amp_cast(data, dtype="float32")


def _parameter(name: str) -> Symbol:
    """A weight or bias as convolutions take it."""
    if _precision.get() == "bf16_stored":
        return mx.sym.Variable(name, dtype=BFLOAT16)
    # the type is given because it cannot be inferred through a cast
    return _low(mx.sym.Variable(name, dtype="float32"))


def conv(data: Symbol, name: str, filters: int, kernel: int = 3) -> Symbol:
    """A convolution that keeps the map's size: (B, _, H, W) -> (B, filters, H, W)."""
    return conv_levels([data], name, filters, kernel)[0]


def conv_levels(levels: Sequence[Symbol], name: str, filters: int, kernel: int = 3) -> list[Symbol]:
    """One convolution applied to each of L maps, with the same parameters."""
    weight, bias = _parameter(f"{name}_weight"), _parameter(f"{name}_bias")
    return [
        mx.sym.Convolution(
            _low(data),
            weight,
            bias,
            name=f"{name}_level{number}" if number else name,
            num_filter=filters,
            kernel=(kernel, kernel),
            pad=(kernel // 2, kernel // 2),
            workspace=2048,
        )
        for number, data in enumerate(levels)
    ]


def relu(data: Symbol, name: str) -> Symbol:
    """max(data, 0)."""
    return mx.sym.Activation(data, act_type="relu", name=name)


def fc(data: Symbol, name: str, units: int) -> Symbol:
    """A fully connected layer: (R, ...) -> (R, units)."""
    weight, bias = _parameter(f"{name}_weight"), _parameter(f"{name}_bias")
    return mx.sym.FullyConnected(_low(data), weight, bias, name=name, num_hidden=units)


def mean_loss(loss: Symbol, name: str, samples: int) -> Symbol:
    """A loss whose gradient is that of its sum divided by the number of samples."""
    return mx.sym.MakeLoss(loss, name=name, grad_scale=1.0 / samples)
