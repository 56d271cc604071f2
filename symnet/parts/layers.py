"""The layers of all graphs.

Letters: B images, H, W feature map size, R rows, L levels of a pyramid. A layer's parameters are
NAME_weight and NAME_bias. symnet/ops/precision.py decides their precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from symnet.machine import Symbol, mx
from symnet.ops.precision import BFLOAT16, PREDICTS, as_input, current, float32, is_low

#: the parameters of the graph being built, by name, if layers may share them
_shared: ContextVar[dict[str, Symbol] | None] = ContextVar("shared", default=None)


@contextmanager
def shared_parameters() -> Iterator[None]:
    """Inside this context, layers with the same name share their parameters.

    MXNet refuses two variables with the same name in a graph. The second layer itself needs another
    name: `with mx.name.Prefix("again.")` changes it without changing the parameters' names.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def variable(name: str, **attributes: Any) -> Symbol:
    """A parameter; inside `shared_parameters` an existing one with this name, if any."""
    known = _shared.get()
    if known is None:
        return mx.sym.Variable(name, **attributes)
    if name not in known:
        known[name] = mx.sym.Variable(name, **attributes)
    return known[name]


def layer_parameters(name: str, filters: int) -> list[Symbol]:
    """Weight and bias, in the type that a layer with this many outputs needs."""
    stored = current() == "bf16_stored" and is_low(filters)
    variables = _variables(name, BFLOAT16 if stored else "float32")
    if stored or not is_low(filters):
        return variables
    return [as_input(part, filters) for part in variables]


def _variables(name: str, dtype: Any) -> list[Symbol]:
    # the type is set because it cannot be inferred through a cast
    return [variable(f"{name}_{leaf}", dtype=dtype) for leaf in ("weight", "bias")]


def conv(
    data: Symbol,
    name: str,
    filters: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    pad: int | None = None,
    predicts: bool = False,
) -> Symbol:
    """A convolution, by default padded to keep the size: (B, _, H, W) -> (B, filters, ...)."""
    parameters = layer_parameters(name, filters)[: 1 + bias]
    attr = PREDICTS if predicts else None
    return convolution(data, parameters, name, filters, kernel, stride, groups, pad, attr)


def conv_levels(
    levels: Sequence[Symbol], name: str, filters: int, kernel: int = 3, predicts: bool = False
) -> list[Symbol]:
    """Apply one convolution, with the same parameters, to each of L feature maps."""
    parameters = layer_parameters(name, filters)
    attr = PREDICTS if predicts else None
    return [
        convolution(data, parameters, f"{name}.{level}", filters, kernel, attr=attr)
        for level, data in enumerate(levels)
    ]


def convolution(
    data: Symbol,
    parameters: Sequence[Symbol],
    name: str,
    filters: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    pad: int | None = None,
    attr: Mapping[str, str] | None = None,
) -> Symbol:
    pad = kernel // 2 if pad is None else pad
    return mx.sym.Convolution(
        as_input(data, filters),
        *parameters,
        name=name,
        num_filter=filters,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(pad, pad),
        num_group=groups,
        no_bias=len(parameters) == 1,
        workspace=2048,
        attr=attr,
    )


def deconv(data: Symbol, name: str, filters: int) -> Symbol:
    """A transposed 2x2 convolution: (B, _, H, W) -> (B, filters, 2H, 2W)."""
    return mx.sym.Deconvolution(
        as_input(data, filters),
        *layer_parameters(name, filters),
        name=name,
        num_filter=filters,
        kernel=(2, 2),
        stride=(2, 2),
        no_bias=False,
        workspace=2048,
    )


def thin(filters: int, width: float) -> int:
    """Scale a layer's number of filters by the network's width, to at least 8."""
    return filters if width == 1 else max(8, round(filters * width))


def relu(data: Symbol, name: str) -> Symbol:
    """max(data, 0)."""
    return mx.sym.Activation(data, act_type="relu", name=name)


def hard_sigmoid(data: Symbol, name: str) -> Symbol:
    """min(max(data + 3, 0), 6) / 6."""
    return mx.sym.hard_sigmoid(data, alpha=1 / 6, beta=0.5, name=name)


def hard_swish(data: Symbol, name: str) -> Symbol:
    """data * hard_sigmoid(data), in float32 (Howard et al. 2019, section 5.2)."""
    data = float32(data)
    return mx.sym.elemwise_mul(data, hard_sigmoid(data, f"{name}.gate"), name=name)


def fc(data: Symbol, name: str, units: int, side: int = 1, predicts: bool = False) -> Symbol:
    """A fully connected layer: (R, ...) -> (R, units), or (R, units, 1, 1) in int8.

    MXNet cannot quantize a fully connected layer with a ReLU. In int8 it becomes the equivalent
    convolution: each row as feature maps of `side` x `side`, with a kernel of that size. In
    training it is always float32: oneDNN sums a bfloat16 weight's gradient in float32 and then
    converts it, which takes as long, and 0.8 GB more for VGG16's fc6.
    """
    if current() == "int8" and not predicts:
        data = mx.sym.reshape(data, shape=(0, -1, side, side))
        return conv(data, name, units, kernel=side, pad=0)
    attr = PREDICTS if predicts else None
    if current() == "bf16":
        data, parameters = float32(data), _variables(name, "float32")
    else:
        data, parameters = as_input(data, units), layer_parameters(name, units)
    return mx.sym.FullyConnected(data, *parameters, name=name, num_hidden=units, attr=attr)


def row_side(values: int) -> int:
    """The best `side` of `fc` for rows with this many values.

    oneDNN runs 8x8 kernels as a matrix product; 2x2 and 4x4 are 15 times slower.
    """
    return 8 if values % 64 == 0 else 1
