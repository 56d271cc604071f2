"""The layers that all graphs are made of, and the one place that decides precision.

Letters: B images, H, W a map's size, R rows, L levels of a pyramid. A layer's parameters are called
NAME_weight and NAME_bias.

Precision is of the graph being built: `with precision("bf16"): symbol = ...`. Then convolutions,
and for inference fully connected layers, take their inputs and weights in bfloat16 and hand their
results on in it; `float32` brings a result back where losses, proposals or normalisation begin.
Layers that predict (class scores, boxes, masks) are told so: int8 leaves them in float32, and
grouped convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from symnet.machine import mx
from symnet.machine.engine import uses_amx

if TYPE_CHECKING:
    Symbol = mx.sym.Symbol

#: what `precision` takes. bf16: parameters stay float32 and are cast in the graph, as training
#: needs it. bf16_stored: the parameters are bfloat16 themselves, as inference wants it. int8: still
#: a float32 graph, in the form that MXNet's quantization takes
PRECISIONS = ("fp32", "bf16", "bf16_stored", "int8")

#: as MXNet's Python spells bfloat16
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])

_precision: ContextVar[str] = ContextVar("precision", default="fp32")
_partial: ContextVar[bool] = ContextVar("partial", default=False)


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


@contextmanager
def partial_batches(partial: bool = True) -> Iterator[None]:
    """Graphs built meanwhile are for a part of a batch: see `with_share`."""
    token = _partial.set(partial)
    try:
        yield
    finally:
        _partial.reset(token)


#: layers with fewer outputs stay float32: bfloat16 gains nothing there
LEAST_BF16_FILTERS = 16

#: maps of so many cells that oneDNN 2.4, using AMX, writes beyond its memory in a 1x1 convolution
UNSAFE_CELLS = range(33, 49)


#: on a layer that int8 leaves in float32, as its outputs are the network's predictions
PREDICTS_ATTRIBUTE = "__predicts__"
_PREDICTS = {PREDICTS_ATTRIBUTE: "True"}


def _is_low(filters: int) -> bool:
    """Whether a layer with that many outputs computes in bfloat16."""
    return _precision.get().startswith("bf16") and filters >= LEAST_BF16_FILTERS


def _input(data: Symbol, filters: int) -> Symbol:
    """Data, or a weight, as a layer with that many outputs takes it."""
    return mx.sym.amp_cast(data, dtype=BFLOAT16) if _is_low(filters) else float32(data)


def unsafe_layers(symbol: Symbol, name: str, **shapes: tuple[int, ...]) -> list[str]:
    """The 1x1 convolutions that would corrupt memory in that precision with these input shapes.

    symbol: a graph built for it; for int8, not yet quantized.
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
    """The names of the layers that int8 leaves in float32: those that predict, and grouped ones.

    Grouped convolutions are a small part of the work, and cost RegNet most of what int8 costs it:
    FCOS on BCCD loses 5 points of mAP with them, half a point without; they gain a tenth of speed.
    """
    return [
        name
        for name, attributes in symbol.attr_dict().items()
        if PREDICTS_ATTRIBUTE in attributes or int(attributes.get("num_group", 1)) > 1
    ]


def as_stored(symbol: Symbol, params: Mapping[str, mx.nd.NDArray]) -> dict[str, mx.nd.NDArray]:
    """Parameters in the types that the graph takes them in: float32 or bfloat16."""
    types, _, _ = symbol.infer_type(data=np.float32)
    low = {name for name, dtype in zip(symbol.list_arguments(), types) if dtype == BFLOAT16}
    return {
        name: mx.nd.amp_cast(value, dtype=BFLOAT16) if name in low else value
        for name, value in params.items()
    }


def float32(data: Symbol) -> Symbol:
    """The result of a convolution or fully connected layer in float32."""
    if not _precision.get().startswith("bf16"):
        return data
    return mx.sym.amp_cast(data, dtype="float32")


#: the parameters of the graph being built, by name, where layers may share them
_shared: ContextVar[dict[str, Symbol] | None] = ContextVar("shared", default=None)


@contextmanager
def shared_parameters() -> Iterator[None]:
    """Layers of one name that are built meanwhile have the same parameters.

    MXNet refuses two variables of one name in a graph. The layers of the second pass need names of
    their own: `with mx.name.Prefix("again.")` gives them, and leaves the parameters' names alone.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def _variable(name: str, **attributes: Any) -> Symbol:
    """A parameter; inside `shared_parameters` the one of that name, if there is one already."""
    known = _shared.get()
    if known is None:
        return mx.sym.Variable(name, **attributes)
    if name not in known:
        known[name] = mx.sym.Variable(name, **attributes)
    return known[name]


def _parameters(name: str, filters: int) -> list[Symbol]:
    """Weight and bias as a layer with that many outputs takes them."""
    stored = _precision.get() == "bf16_stored" and _is_low(filters)
    variables = _variables(name, BFLOAT16 if stored else "float32")
    if stored or not _is_low(filters):
        return variables
    return [_input(variable, filters) for variable in variables]


def _variables(name: str, dtype: Any) -> list[Symbol]:
    # the type is given because it cannot be inferred through a cast
    return [_variable(f"{name}_{leaf}", dtype=dtype) for leaf in ("weight", "bias")]


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
    """A convolution, padded so that stride 1 keeps the size: (B, _, H, W) -> (B, filters, ...)."""
    parameters = _parameters(name, filters)[: 1 + bias]
    attr = _PREDICTS if predicts else None
    return _convolution(data, parameters, name, filters, kernel, stride, groups, pad, attr)


def conv_levels(
    levels: Sequence[Symbol], name: str, filters: int, kernel: int = 3, predicts: bool = False
) -> list[Symbol]:
    """One convolution applied to each of L maps, with the same parameters."""
    parameters = _parameters(name, filters)
    attr = _PREDICTS if predicts else None
    return [
        _convolution(data, parameters, f"{name}.{level}", filters, kernel, attr=attr)
        for level, data in enumerate(levels)
    ]


def _convolution(
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
        _input(data, filters),
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
    """A transposed 2x2 convolution that doubles the map: (B, _, H, W) -> (B, filters, 2H, 2W)."""
    return mx.sym.Deconvolution(
        _input(data, filters),
        *_parameters(name, filters),
        name=name,
        num_filter=filters,
        kernel=(2, 2),
        stride=(2, 2),
        no_bias=False,
        workspace=2048,
    )


#: what `norm` and `conv_norm` take: trained by batch or by groups of channels, or on stored
#: statistics; "folded" is "frozen" for training graphs, where it saves the pass over the maps
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

    Folded, the stored statistics go into the convolution's weights, W * gamma / sqrt(var + eps),
    and bias, in float32; gradients reach W through it. Only then `channels` must be told. Graphs
    for stored bfloat16 and int8 have the convolution alone: `fold_norms` makes its parameters.
    """
    if _precision.get() in ("bf16_stored", "int8") and kind in ("batch", "frozen"):
        return _convolution(
            data,
            _parameters(name, filters),
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
        _variable(f"{norm_name}_{leaf}", shape=(filters,), dtype="float32") for leaf in STATISTICS
    )
    shape = (filters, channels // groups, kernel, kernel)
    weight = _variable(f"{name}_weight", shape=shape, dtype="float32")
    parameters = [_input(part, filters) for part in _folded(mx.sym, weight, *statistics)]
    return _convolution(data, parameters, name, filters, kernel, stride, groups)


NORM_EPS = 1e-5
#: on a convolution: the name of the normalisation that its parameters contain
NORM_ATTRIBUTE = "__norm__"
#: endings of what a normalisation on stored statistics is made of
STATISTICS = ("gamma", "beta", "moving_mean", "moving_var")


def _folded(ops: Any, weight: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> tuple[Any, Any]:
    """Weight and bias of a convolution with its normalisation; ops is mx.sym or mx.nd."""
    scale = gamma * ops.rsqrt(var + NORM_EPS)
    weight = ops.broadcast_mul(weight, ops.reshape(scale, shape=(-1, 1, 1, 1)))
    return weight, beta - mean * scale


def fold_norms(symbol: Symbol, params: Mapping[str, mx.nd.NDArray]) -> dict[str, mx.nd.NDArray]:
    """Parameters with those normalisations, on stored statistics, put into their convolutions.

    For graphs built for stored bfloat16 or int8; of others the parameters stay as they are.
    """
    folded = dict(params)
    for name, attributes in symbol.attr_dict().items():
        norm_name = attributes.get(NORM_ATTRIBUTE)
        # a second pass through the layer has another name and the same parameters
        if norm_name is not None and {f"{norm_name}_gamma", f"{name}_weight"} <= params.keys():
            statistics = (params[f"{norm_name}_{leaf}"] for leaf in STATISTICS)
            weight, bias = _folded(mx.nd, params[f"{name}_weight"], *statistics)
            folded.update({f"{name}_weight": weight, f"{name}_bias": bias})
    return folded


def norm(data: Symbol, name: str, kind: str, channels: int, groups: int = 32) -> Symbol:
    """Normalisation of maps (B, channels, H, W) in float32, with NAME_gamma and NAME_beta.

    batch, frozen: Ioffe and Szegedy 2015, with NAME_moving_mean and NAME_moving_var. group: Wu and
    He 2018, of as many groups as divide the channels, up to `groups`, a power of two.
    """
    data = float32(data)
    if kind in ("batch", "frozen"):
        return mx.sym.BatchNorm(
            data,
            *(_variable(f"{name}_{leaf}") for leaf in STATISTICS),
            name=name,
            eps=NORM_EPS,
            momentum=0.9,
            fix_gamma=False,
            use_global_stats=kind == "frozen",
        )
    if kind != "group":
        raise ValueError(f"normalisation {kind!r}: there are {', '.join(NORMS)}")
    return _group_norm(data, _scale_and_shift(name, channels), name, gcd(channels, groups))


def group_norm_levels(
    levels: Sequence[Symbol], name: str, channels: int, groups: int = 32
) -> list[Symbol]:
    """Group normalisation of each of L maps (B, channels, H, W), with the same parameters."""
    parameters = _scale_and_shift(name, channels)
    return [
        _group_norm(float32(data), parameters, f"{name}.{level}", gcd(channels, groups))
        for level, data in enumerate(levels)
    ]


def _scale_and_shift(name: str, channels: int) -> list[Symbol]:
    return [
        mx.sym.reshape(_variable(f"{name}_{leaf}", shape=(channels,)), shape=(1, -1, 1, 1))
        for leaf in ("gamma", "beta")
    ]


def _group_norm(data: Symbol, parameters: Sequence[Symbol], name: str, groups: int) -> Symbol:
    """Of a map (B, C, H, W), with a scale and a shift (1, C, 1, 1).

    MXNet's own GroupNorm has one scale a group, not one a channel, and is slower.
    """
    rows = mx.sym.reshape(data, shape=(0, -4, groups, -1, 0, 0))  # (B, groups, C/groups, H, W)
    rows = mx.sym.reshape(rows, shape=(-3, -1))
    ones = mx.sym.ones_like(mx.sym.slice_axis(rows, axis=0, begin=0, end=1))
    ones = mx.sym.BlockGrad(mx.sym.reshape(ones, shape=(-1,)))
    rows = mx.sym.LayerNorm(rows, ones, mx.sym.zeros_like(ones), axis=-1, eps=NORM_EPS)
    gamma, beta = parameters
    data = mx.sym.broadcast_mul(mx.sym.reshape_like(rows, data), gamma)
    return mx.sym.broadcast_add(data, beta, name=name)


def relu(data: Symbol, name: str) -> Symbol:
    """max(data, 0)."""
    return mx.sym.Activation(data, act_type="relu", name=name)


def fc(data: Symbol, name: str, units: int, side: int = 1, predicts: bool = False) -> Symbol:
    """A fully connected layer: (R, ...) -> (R, units), or (R, units, 1, 1) where int8 computes it.

    MXNet quantizes no fully connected layer with a ReLU, so in int8 it is the convolution that is
    the same sum: each row as maps of `side` x `side` under a kernel of that size. In training such
    layers are float32, whatever the precision: oneDNN sums a bfloat16 weight's gradient in float32
    and then converts it, which takes as long and 0.8 GB more for VGG16's fc6.
    """
    if _precision.get() == "int8" and not predicts:
        data = mx.sym.reshape(data, shape=(0, -1, side, side))
        return conv(data, name, units, kernel=side, pad=0)
    attr = _PREDICTS if predicts else None
    if _precision.get() == "bf16":
        data, parameters = float32(data), _variables(name, "float32")
    else:
        data, parameters = _input(data, units), _parameters(name, units)
    return mx.sym.FullyConnected(data, *parameters, name=name, num_hidden=units, attr=attr)


def row_side(values: int) -> int:
    """The `side` that `fc` should take for rows of so many values.

    Of 8x8 kernels oneDNN makes a matrix product; 2x2 and 4x4 are 15 times slower.
    """
    return 8 if values % 64 == 0 else 1


#: ending of the inputs that weigh the losses of a part of a batch
SHARE = "_share"


def with_share(data: Symbol, loss: str, ndim: int = 1) -> Symbol:
    """Data, whose gradient is multiplied by an input LOSS_share, in `partial_batches`.

    The loss is a mean over as many samples as this part of the batch happens to have. The whole
    batch's mean weighs the parts by those numbers, which are known after the forward pass: the
    input is 1 until then, and the part's weight when the gradients are computed.
    """
    if not _partial.get():
        return data
    share = mx.sym.Variable(f"{loss}{SHARE}", shape=(1,) * ndim, dtype="float32")
    return mx.sym.broadcast_mul(data, share)


def own_mean_loss(loss: Symbol, name: str) -> Symbol:
    """A loss (1,) that is a mean over samples whose number the graph finds out itself."""
    return mx.sym.MakeLoss(with_share(loss, name), name=name)


def mean_loss(loss: Symbol, name: str, samples: int) -> Symbol:
    """A loss whose gradient is that of its sum divided by the number of samples."""
    return mx.sym.MakeLoss(loss, name=name, grad_scale=1.0 / samples)


def binary_cross_entropy(logits: Symbol, target: Symbol) -> Symbol:
    """-target log p - (1 - target) log (1 - p) of p = sigmoid(logits), finite for any logit."""
    return mx.sym.relu(logits) - logits * target + softplus(-mx.sym.abs(logits))


def softplus(data: Symbol) -> Symbol:
    """log(1 + exp(data))."""
    return mx.sym.Activation(data, act_type="softrelu")


def constant(values: np.ndarray) -> Symbol:
    """A small array as a symbol (MXNet has no literals)."""
    parts = [mx.sym.full((1,), float(value)) for value in np.ravel(values)]
    return mx.sym.reshape(mx.sym.concat(*parts, dim=0), shape=np.shape(values))
