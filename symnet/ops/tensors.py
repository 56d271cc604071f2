"""Small tensor helpers that MXNet's symbols lack: rows of maps, top k, gathers, constants.

Letters: B images, H, W feature map size, A values per position, M = H*W*A, K the best of them.
"""

from __future__ import annotations

import numpy as np

from symnet.machine import Symbol, mx


def rows(data: Symbol, columns: int) -> Symbol:
    """Reshape (B, A * columns, H, W) to (B, M, columns), ordered by row, column, A."""
    return mx.sym.reshape(mx.sym.transpose(data, axes=(0, 2, 3, 1)), shape=(0, -1, columns))


def side(data: Symbol, axis: int) -> Symbol:
    """The length (1,) of an axis as float32."""
    return mx.sym.cast(_length(data, axis), dtype="float32")


def _length(data: Symbol, axis: int) -> Symbol:
    """The length (1,) of an axis as int32."""
    shape = mx.sym.slice_axis(mx.sym.shape_array(data), axis=0, begin=axis, end=axis + 1)
    return mx.sym.cast(shape, dtype="int32")


def best(scores: Symbol, count: int, filling: float) -> tuple[Symbol, Symbol]:
    """The K = count highest of scores (B, M), and their indices in 0..M-1, int32: (B, K) each.

    If M is less than K, the rest has the score `filling` and the last index. float32 indices would
    be rounded from 2^24 on, which 1,200 classes on 100 x 168 cells exceed.
    """
    rest = mx.sym.broadcast_like(
        mx.sym.full((1, count), filling), scores, lhs_axes=(0,), rhs_axes=(0,)
    )
    score, index = mx.sym.topk(
        mx.sym.concat(scores, rest, dim=1), k=count, ret_typ="both", dtype="int32"
    )
    last = mx.sym.broadcast_sub(_length(scores, 1), mx.sym.full((1,), 1, dtype="int32"))
    return score, mx.sym.broadcast_minimum(index, last)


def quotient(index: Symbol, count: int) -> tuple[Symbol, Symbol]:
    """Divide indices (B, K) int32 by a number: quotient and remainder, (B, K) float32 each."""
    divisor = mx.sym.full((1, 1), count, dtype="int32")
    whole = mx.sym.broadcast_div(index, divisor)  # int32 division rounds down
    rest = mx.sym.broadcast_sub(index, mx.sym.broadcast_mul(whole, divisor))
    return tuple(mx.sym.cast(x, dtype="float32") for x in (whole, rest))


def take_rows(data: Symbol, index: Symbol) -> Symbol:
    """The rows (B, K, columns) of data (B, M, columns) at indices (B, K), per image.

    Indices are int32, because a batch may have more rows than float32 can count.
    """
    image = mx.sym.reshape(mx.sym.contrib.arange_like(data, axis=0), shape=(-1, 1))
    image, index = (mx.sym.cast(x, dtype="int32") for x in (image, index))
    place = mx.sym.broadcast_add(index, mx.sym.broadcast_mul(image, _length(data, 1)))
    return mx.sym.take(mx.sym.reshape(data, shape=(-3, 0)), place)


def columns_and_rows(cell: Symbol, feature: Symbol) -> tuple[Symbol, Symbol]:
    """Column and row (B, K) of cells (B, K), which count row by row, in a map (B, _, H, W)."""
    columns = side(feature, 3)
    y = mx.sym.floor(mx.sym.broadcast_div(cell, columns))
    return cell - mx.sym.broadcast_mul(y, columns), y


def cell_size(feature: Symbol, data: Symbol) -> tuple[Symbol, Symbol]:
    """torchvision's stride (1,) in x and y: image side / feature map side, rounded down."""
    return tuple(mx.sym.floor(side(data, axis) / side(feature, axis)) for axis in (3, 2))


def softplus(data: Symbol) -> Symbol:
    """log(1 + exp(data))."""
    return mx.sym.Activation(data, act_type="softrelu")


def constant(values: np.ndarray) -> Symbol:
    """A small array as a symbol (MXNet has no literals)."""
    parts = [mx.sym.full((1,), float(value)) for value in np.ravel(values)]
    return mx.sym.reshape(mx.sym.concat(*parts, dim=0), shape=np.shape(values))


def columns(data: Symbol, begin: int, end: int | None) -> Symbol:
    """Columns begin..end of the last axis."""
    return mx.sym.slice_axis(data, axis=-1, begin=begin, end=end)
