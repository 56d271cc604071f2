"""Normalisation of feature maps: batch, group, or with stored statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

from symnet.machine import Symbol, mx
from symnet.ops.precision import as_input, current, float32
from symnet.parts.layers import conv, convolution, layer_parameters, variable

#: kinds of normalisation: trained batch or group normalisation, or stored statistics (frozen);
#: "folded" is "frozen" for training graphs, where it saves a pass over the feature maps
NORMS = ("batch", "group", "frozen", "folded")


def conv_norm(
    data: Symbol,
    name: str,
    norm_name: str,
    filters: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    kind: str = "batch",
    channels: int = 0,
) -> Symbol:
    """A convolution without bias and its normalisation: (B, channels, H, W) -> (B, filters, ...).

    kind "folded": the stored statistics are folded into the convolution's weights, W * gamma /
    sqrt(var + eps), and bias, in float32; W still gets gradients. Only this needs `channels`.
    Graphs for stored bfloat16 and int8 only have the convolution; `fold_norms` computes its
    parameters.
    """
    if current() in ("bf16_stored", "int8") and kind in ("batch", "frozen"):
        return convolution(
            data,
            layer_parameters(name, filters),
            name,
            filters,
            kernel,
            stride,
            groups,
            attr={NORM_ATTRIBUTE: norm_name},
        )
    if kind != "folded":
        out = conv(data, name, filters, kernel, stride, groups, bias=False)
        return norm(out, norm_name, kind, filters)
    statistics = (
        variable(f"{norm_name}_{leaf}", shape=(filters,), dtype="float32") for leaf in STATISTICS
    )
    shape = (filters, channels // groups, kernel, kernel)
    weight = variable(f"{name}_weight", shape=shape, dtype="float32")
    parameters = [as_input(part, filters) for part in _folded(mx.sym, weight, *statistics)]
    return convolution(data, parameters, name, filters, kernel, stride, groups)


NORM_EPS = 1e-5
#: attribute of a convolution: the name of the normalisation folded into its parameters
NORM_ATTRIBUTE = "__norm__"
#: endings of the parameters and states of a batch normalisation
STATISTICS = ("gamma", "beta", "moving_mean", "moving_var")


def _folded(ops: Any, weight: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> tuple[Any, Any]:
    """Fold a normalisation into a convolution's weight and bias; ops is mx.sym or mx.nd."""
    scale = gamma * ops.rsqrt(var + NORM_EPS)
    weight = ops.broadcast_mul(weight, ops.reshape(scale, shape=(-1, 1, 1, 1)))
    return weight, beta - mean * scale


def fold_norms(symbol: Symbol, params: Mapping[str, mx.nd.NDArray]) -> dict[str, mx.nd.NDArray]:
    """Fold normalisations, with their stored statistics, into the convolutions before them.

    For graphs built for stored bfloat16 or int8; other graphs' parameters are returned unchanged.
    """
    folded = dict(params)
    for name, attributes in symbol.attr_dict().items():
        norm_name = attributes.get(NORM_ATTRIBUTE)
        # a layer used twice has a second name, but no parameters of that name
        if norm_name is not None and {f"{norm_name}_gamma", f"{name}_weight"} <= params.keys():
            statistics = (params[f"{norm_name}_{leaf}"] for leaf in STATISTICS)
            weight, bias = _folded(mx.nd, params[f"{name}_weight"], *statistics)
            folded.update({f"{name}_weight": weight, f"{name}_bias": bias})
    return folded


def norm(data: Symbol, name: str, kind: str, channels: int, groups: int = 32) -> Symbol:
    """Normalise feature maps (B, channels, H, W) in float32, with NAME_gamma and NAME_beta.

    batch, frozen: Ioffe and Szegedy 2015, with NAME_moving_mean and NAME_moving_var. group: Wu and
    He 2018; `groups` is reduced to its greatest common divisor with the channels.
    """
    data = float32(data)
    if kind in ("batch", "frozen"):
        return mx.sym.BatchNorm(
            data,
            *(variable(f"{name}_{leaf}") for leaf in STATISTICS),
            name=name,
            eps=NORM_EPS,
            momentum=0.9,
            fix_gamma=False,
            use_global_stats=kind == "frozen",
        )
    if kind != "group":
        raise ValueError(f"unknown normalisation {kind!r}: choose from {', '.join(NORMS)}")
    return _group_norm(data, _scale_and_shift(name, channels), name, gcd(channels, groups))


def group_norm_levels(
    levels: Sequence[Symbol], name: str, channels: int, groups: int = 32
) -> list[Symbol]:
    """Apply one group normalisation to each of L feature maps (B, channels, H, W)."""
    parameters = _scale_and_shift(name, channels)
    return [
        _group_norm(float32(data), parameters, f"{name}.{level}", gcd(channels, groups))
        for level, data in enumerate(levels)
    ]


def _scale_and_shift(name: str, channels: int) -> list[Symbol]:
    return [
        mx.sym.reshape(variable(f"{name}_{leaf}", shape=(channels,)), shape=(1, -1, 1, 1))
        for leaf in ("gamma", "beta")
    ]


def _group_norm(data: Symbol, parameters: Sequence[Symbol], name: str, groups: int) -> Symbol:
    """Group normalisation of a feature map (B, C, H, W), with scale and shift (1, C, 1, 1).

    MXNet's own GroupNorm has one scale per group instead of per channel, and is slower.
    """
    rows = mx.sym.reshape(data, shape=(0, -4, groups, -1, 0, 0))  # (B, groups, C/groups, H, W)
    rows = mx.sym.reshape(rows, shape=(-3, -1))
    ones = mx.sym.ones_like(mx.sym.slice_axis(rows, axis=0, begin=0, end=1))
    ones = mx.sym.BlockGrad(mx.sym.reshape(ones, shape=(-1,)))
    rows = mx.sym.LayerNorm(rows, ones, mx.sym.zeros_like(ones), axis=-1, eps=NORM_EPS)
    gamma, beta = parameters
    data = mx.sym.broadcast_mul(mx.sym.reshape_like(rows, data), gamma)
    return mx.sym.broadcast_add(data, beta, name=name)
