"""Translators of MXNet's arithmetic, layers and shape operators to ONNX, one function each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from mxrcnn.export import ExportError
from mxrcnn.export.graph import TO_END, MXNode, OnnxGraph, translates

# ---- arithmetic ----

_RENAMED = {
    **dict(relu="Relu", sigmoid="Sigmoid", exp="Exp", sqrt="Sqrt", floor="Floor"),
    **dict(elemwise_add="Add", elemwise_sub="Sub", elemwise_mul="Mul", elemwise_div="Div"),
    **dict(broadcast_add="Add", broadcast_sub="Sub", broadcast_mul="Mul", broadcast_div="Div"),
    **dict(broadcast_minimum="Min", broadcast_maximum="Max"),
}
_SCALAR = {
    **dict(_plus_scalar="Add", _minus_scalar="Sub", _mul_scalar="Mul", _div_scalar="Div"),
    **dict(_power_scalar="Pow"),
}
_COMPARISON = {
    **dict(_greater_scalar="Greater", _greater_equal_scalar="GreaterOrEqual"),
    **dict(_lesser_scalar="Less", _lesser_equal_scalar="LessOrEqual", _equal_scalar="Equal"),
}


@translates(*_RENAMED)
def _renamed(g: OnnxGraph, node: MXNode) -> str:
    return g.op(_RENAMED[node.op], *node.inputs)


@translates(*_SCALAR)
def _scalar(g: OnnxGraph, node: MXNode) -> str:
    return g.op(_SCALAR[node.op], *node.inputs, g.constant(node["scalar"]))


@translates(*_COMPARISON)
def _comparison(g: OnnxGraph, node: MXNode) -> str:
    return g.cast(g.op(_COMPARISON[node.op], *node.inputs, g.constant(node["scalar"])))


@translates("BlockGrad", "Dropout")
def _identity(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(mode="training")
    return node.inputs[0]


@translates("square")
def _square(g: OnnxGraph, node: MXNode) -> str:
    return g.op("Mul", node.inputs[0], node.inputs[0])


@translates("log2")
def _log2(g: OnnxGraph, node: MXNode) -> str:
    return g.op("Div", g.op("Log", *node.inputs), g.constant(np.log(2)))


@translates("clip")
def _clip(g: OnnxGraph, node: MXNode) -> str:
    return g.op("Clip", *node.inputs, g.constant(node["a_min"]), g.constant(node["a_max"]))


@translates("min", "max")
def _extreme(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(exclude=False)
    axes = node["axis"] if isinstance(node["axis"], tuple) else (node["axis"],)
    kind = {"min": "ReduceMin", "max": "ReduceMax"}[node.op]
    return g.op(kind, *node.inputs, axes=axes, keepdims=int(node.get("keepdims", False)))


@translates("_np_cumsum")
def _cumsum(g: OnnxGraph, node: MXNode) -> str:
    return g.op("CumSum", *node.inputs, g.constant(node["axis"], np.int64))


@translates("softmax")
def _softmax(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(temperature=None, use_length=False)
    return g.op("Softmax", *node.inputs, axis=node.get("axis", -1))


@translates("where")
def _where(g: OnnxGraph, node: MXNode) -> str:
    condition, chosen, other = node.inputs
    if node.ranks[0] < node.ranks[1]:  # MXNet: a condition (N,) selects whole rows
        condition = g.unsqueeze(condition, *range(1, node.ranks[1]))
    return g.op("Where", g.cast(condition, TensorProto.BOOL), chosen, other)


#: MXNet's type names -> ONNX's; indices are int32
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


def _type(node: MXNode) -> int:
    """The ONNX type of a node's output; ExportError for others than float32 and int32."""
    dtype = node.get("dtype", "float32")
    if dtype not in _TYPES:
        raise ExportError(
            f"{node.name}: values of {dtype} cannot be exported to ONNX: "
            "export the detector in float32"
        )
    return _TYPES[dtype]


@translates("Cast", "amp_cast")
def _cast(g: OnnxGraph, node: MXNode) -> str:
    return g.cast(node.inputs[0], _type(node))


# ---- layers ----


def _window(node: MXNode) -> dict[str, tuple[int, ...]]:
    """ONNX's kernel_shape, strides and pads of a convolution or pooling."""
    kernel = node["kernel"]
    pad = node.get("pad", None) or (0,) * len(kernel)
    strides = node.get("stride", None) or (1,) * len(kernel)
    return {"kernel_shape": kernel, "strides": strides, "pads": (*pad, *pad)}


@translates("Convolution")
def _convolution(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(layout="NCHW")
    return g.op(
        "Conv",
        *node.inputs,
        **_window(node),
        dilations=node.get("dilate", None) or (1,) * len(node["kernel"]),
        group=node.get("num_group", 1),
    )


@translates("Deconvolution")
def _deconvolution(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(target_shape=(), adj=(), dilate=(), layout="NCHW")
    return g.op("ConvTranspose", *node.inputs, **_window(node), group=node.get("num_group", 1))


@translates("FullyConnected")
def _fully_connected(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(flatten=True)
    data, *parameters = node.inputs
    return g.op("Gemm", g.op("Flatten", data, axis=1), *parameters, transB=1)


@translates("Pooling")
def _pooling(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(layout="NCHW")
    kind = {"max": "MaxPool", "avg": "AveragePool"}.get(node.get("pool_type", "max"))
    if kind is None:
        raise ExportError(f"{node.name}: {node['pool_type']} pooling cannot be exported to ONNX")
    if node.get("global_pool", False):
        return g.op(f"Global{kind}", *node.inputs)
    more = {"ceil_mode": int(node.get("pooling_convention", "valid") == "full")}
    if kind == "AveragePool":
        more["count_include_pad"] = int(node.get("count_include_pad", True))
    return g.op(kind, *node.inputs, **_window(node), **more)


@translates("Activation")
def _activation(g: OnnxGraph, node: MXNode) -> str:
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus"}
    if node["act_type"] not in kinds:
        raise ExportError(f"{node.name}: {node['act_type']} cannot be exported to ONNX")
    return g.op(kinds[node["act_type"]], *node.inputs)


@translates("hard_sigmoid")
def _hard_sigmoid(g: OnnxGraph, node: MXNode) -> str:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    return g.op("HardSigmoid", *node.inputs, alpha=alpha, beta=beta)


@translates("BatchNorm")
def _batch_norm(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(axis=1, output_mean_var=False)
    data, gamma, *others = node.inputs
    if node.get("fix_gamma", True):
        gamma = g.constant(np.ones_like(g.constants[gamma]))
    return g.op("BatchNormalization", data, gamma, *others, epsilon=float(node["eps"]))


@translates("LayerNorm")
def _layer_norm(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(axis=-1, output_mean_var=False)
    return g.op("LayerNormalization", *node.inputs, axis=-1, epsilon=float(node["eps"]))


@translates("UpSampling")
def _up_sampling(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(sample_type="nearest", num_args=1)
    scales = g.constant([1, 1, node["scale"], node["scale"]])
    return g.op(
        "Resize",
        *(node.inputs[0], "", scales),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


# ---- shapes ----


@translates("Reshape")
def _reshape(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(reverse=False)
    data, pieces = node.inputs[0], list(_pieces(node["shape"], node.ranks[0]))
    simple = all(
        isinstance(piece, int) or (len(piece) == 1 and piece[0] == place)
        for place, piece in enumerate(pieces)
    )
    if simple:
        return g.reshape(data, *(piece if isinstance(piece, int) else 0 for piece in pieces))
    lengths = [
        g.ints(piece) if isinstance(piece, int) else _length(g, data, piece) for piece in pieces
    ]
    return g.op("Reshape", data, g.concat(*lengths, axis=0))


def _pieces(target: tuple[int, ...], rank: int) -> Iterator[int | tuple[int, ...]]:
    """Expand MXNet's special lengths: a number, or the input axes whose lengths are multiplied."""
    codes, axis = iter(target), 0
    for code in codes:
        if code == -2:  # all remaining axes
            yield from ((rest,) for rest in range(axis, rank))
            axis = rank
        elif code == -3:  # merge two axes
            yield (axis, axis + 1)
            axis += 2
        elif code == -4:  # split an axis into two
            yield next(codes)
            yield next(codes)
            axis += 1
        else:
            yield (axis,) if code == 0 else code
            axis += 1


def _length(g: OnnxGraph, data: str, axes: tuple[int, ...]) -> str:
    lengths = g.shape(data, axes[0], axes[-1] + 1)
    return lengths if len(axes) == 1 else g.op("ReduceProd", lengths, axes=[0], keepdims=1)


@translates("reshape_like")
def _reshape_like(g: OnnxGraph, node: MXNode) -> str:
    """Replace axes lhs_begin..lhs_end of the first shape by rhs_begin..rhs_end of the second."""
    data, like = node.inputs
    ends = []
    for side, rank in zip(("lhs", "rhs"), node.ranks):
        begin, end = node.get(f"{side}_begin", None) or 0, node.get(f"{side}_end", None)
        ends.append((begin, rank if end is None else end))
    (begin, end), (like_begin, like_end) = ends
    parts = [g.shape(like, like_begin, like_end)]
    if begin:
        parts.insert(0, g.shape(data, 0, begin))
    if end < node.ranks[0]:
        parts.append(g.shape(data, end))
    return g.op("Reshape", data, g.concat(*parts, axis=0))


@translates("broadcast_like")
def _broadcast_like(g: OnnxGraph, node: MXNode) -> str:
    data, like = node.inputs
    if "lhs_axes" not in node.attributes:
        return g.op("Expand", data, g.shape(like))
    axes = dict(zip(node["lhs_axes"], node["rhs_axes"]))
    lengths = [
        g.shape(like, axes[axis], axes[axis] + 1) if axis in axes else g.shape(data, axis, axis + 1)
        for axis in range(node.ranks[0])
    ]
    return g.op("Expand", data, g.concat(*lengths, axis=0))


@translates("transpose")
def _transpose(g: OnnxGraph, node: MXNode) -> str:
    return g.op("Transpose", *node.inputs, perm=node["axes"])


@translates("expand_dims")
def _expand_dims(g: OnnxGraph, node: MXNode) -> str:
    return g.unsqueeze(node.inputs[0], node["axis"])


@translates("Concat")
def _concat(g: OnnxGraph, node: MXNode) -> str:
    return g.concat(*node.inputs, axis=node.get("dim", 1))


@translates("stack")
def _stack(g: OnnxGraph, node: MXNode) -> str:
    axis = node.get("axis", 0)
    return g.concat(*(g.unsqueeze(data, axis) for data in node.inputs), axis=axis)


@translates("slice_axis")
def _slice_axis(g: OnnxGraph, node: MXNode) -> str:
    end = TO_END if node["end"] is None else node["end"]
    return g.slice(node.inputs[0], node["axis"], node["begin"], end)


@translates("slice")
def _slice(g: OnnxGraph, node: MXNode) -> str:
    data, steps = node.inputs[0], node.get("step", ())
    if not all(step and step > 0 for step in steps):
        node.refuse_unless(step=())
    steps = (*steps, *[1] * len(node["begin"]))
    for axis, (begin, end, step) in enumerate(zip(node["begin"], node["end"], steps)):
        if (begin, end, step) != (None, None, 1):
            data = g.slice(data, axis, begin or 0, TO_END if end is None else end, step)
    return data


@translates("reverse")
def _reverse(g: OnnxGraph, node: MXNode) -> str:
    axis = node["axis"]
    axis, *more = axis if isinstance(axis, tuple) else (axis,)
    if more:
        node.refuse_unless(axis=axis)
    return g.slice(node.inputs[0], axis, -1, -TO_END, -1)


@translates("shape_array")
def _shape_array(g: OnnxGraph, node: MXNode) -> str:
    return g.shape(node.inputs[0])


# ---- constants and indexing ----


@translates("_full")
def _full(g: OnnxGraph, node: MXNode) -> str:
    dtype = np.int32 if _type(node) == TensorProto.INT32 else np.float32
    return g.constant(np.full(node["shape"], node["value"]), dtype)


@translates("ones_like", "zeros_like")
def _filled_like(g: OnnxGraph, node: MXNode) -> str:
    return g.filled(g.shape(node.inputs[0]), float(node.op == "ones_like"))


@translates("_contrib_arange_like")
def _arange_like(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(start=0.0, step=1.0, repeat=1)
    axis = node["axis"]
    return g.cast(g.range(g.shape(node.inputs[0], axis, axis + 1)))


@translates("topk")
def _topk(g: OnnxGraph, node: MXNode) -> list[str]:
    if node.get("ret_typ", "indices") != "both":
        raise ExportError(f"{node.name}: topk without ret_typ='both' cannot be exported to ONNX")
    score, index = g.op(
        "TopK",
        *(node.inputs[0], g.ints(node["k"])),
        outputs=2,
        axis=node.get("axis", -1),
        largest=int(not node.get("is_ascend", False)),
    )
    return [score, g.cast(index, _type(node))]


def _index(g: OnnxGraph, index: str, data: str, axis: int) -> str:
    """Indices as int64, clipped to the length of an axis of data."""
    last = g.op("Sub", g.shape(data, axis, axis + 1), g.ints(1))
    index = g.op("Max", g.cast(index, TensorProto.INT64), g.ints(0))
    return g.op("Min", index, last)


@translates("take")
def _take(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(mode="clip", axis=0)
    data, index = node.inputs
    return g.op("Gather", data, _index(g, index, data, 0), axis=0)


@translates("pick")
def _pick(g: OnnxGraph, node: MXNode) -> str:
    node.refuse_unless(mode="clip", keepdims=False)
    data, index = node.inputs
    axis = node.get("axis", -1) % node.ranks[0]
    index = g.unsqueeze(_index(g, index, data, axis), axis)
    return g.op("Squeeze", g.op("GatherElements", data, index, axis=axis), g.ints(axis))
