"""Feature pyramids (Lin et al. 2017), as in torchvision: the neck, and RoIAlign over its levels.

Letters: B images, H, W a map's size, A what a map has at a position, M = H*W*A, K the best of them,
R RoIs, L levels. A pyramid is a list of maps, finest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from symnet.machine import mx
from symnet.parts.layers import conv, conv_norm, float32
from symnet.parts.roi import crop_and_resize

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

PREFIX = "backbone.fpn."


def fpn(
    maps: Sequence[Symbol], channels: int = 256, norm: str = "", extra: str = "pool"
) -> list[Symbol]:
    """The pyramid of maps such as c2..c5, each half the size of the one before it.

    Every level has `channels`; norm: a kind of normalisation after the convolutions, or none.
    extra: "pool" adds a subsampled last level (p6 of Faster R-CNN), "conv" one by a convolution of
    stride 2 on what p5 is made of (gluoncv's), "p6p7" two by such convolutions on p5 (FCOS;
    RetinaNet), "" none.
    """

    def layer(data: Symbol, name: str, kernel: int) -> Symbol:
        if norm:
            return conv_norm(data, f"{name}.0", f"{name}.1", channels, kernel, kind=norm)
        return conv(data, f"{name}.0", channels, kernel)

    count = len(maps)
    inner = [layer(data, f"{PREFIX}inner_blocks.{i}", 1) for i, data in enumerate(maps)]
    for i in reversed(range(count - 1)):
        above = mx.sym.UpSampling(
            float32(inner[i + 1]), scale=2, sample_type="nearest", name=f"{PREFIX}upsample{i}"
        )
        inner[i] = float32(inner[i]) + above
    levels = [layer(inner[i], f"{PREFIX}layer_blocks.{i}", 3) for i in range(count)]
    if extra == "pool":
        levels.append(
            mx.sym.Pooling(
                levels[-1], pool_type="max", kernel=(1, 1), stride=(2, 2), name=f"{PREFIX}pool"
            )
        )
    if extra == "conv":
        levels.append(conv(inner[-1], f"{PREFIX}extra_blocks.p6", channels, stride=2))
    if extra == "p6p7":
        p6 = conv(levels[-1], f"{PREFIX}extra_blocks.p6", channels, stride=2)
        p7 = conv(mx.sym.relu(p6), f"{PREFIX}extra_blocks.p7", channels, stride=2)
        levels += [p6, p7]
    return levels


def roi_levels(
    rois: Symbol, levels: int, canonical_size: float, canonical_level: float, offset: float = 0
) -> Symbol:
    """The level (R,) in 0..levels-1 of rois (R, 5), level 0 having stride 4.

    FPN paper, equation 1: floor(canonical_level + log2(sqrt(area) / canonical_size)), which for 224
    and 4 takes a RoI of ImageNet's size to p4; the paper's p2 is level 0. A width is x2 - x1 +
    offset.
    """
    x1, y1, x2, y2 = (mx.sym.slice_axis(rois, axis=1, begin=i, end=i + 1) for i in range(1, 5))
    side = mx.sym.sqrt(mx.sym.relu((x2 - x1 + offset) * (y2 - y1 + offset)))
    level = mx.sym.floor(canonical_level + mx.sym.log2(side / canonical_size + 1e-30) + 1e-6) - 2
    return mx.sym.reshape(mx.sym.clip(level, 0, levels - 1), shape=(-1,))


def roi_align_levels(
    pyramid: Sequence[Symbol],
    rois: Symbol,
    size: int,
    name: str,
    sampling_ratio: int = 2,
    canonical_size: float = 224,
    canonical_level: float = 4,
    offset: float = 0,
) -> Symbol:
    """RoIAlign (He et al. 2017) of rois (R, 5), each from its level: (R, channels, size, size).

    sampling_ratio 0: crop_and_resize, see `_crop`. ValueError for a size below 2.

    Each level pools its own RoIs and skips the others, whose batch index is -1 for it. For row n
    that it skips, MXNet's operator sets element n of its whole output to 0 and leaves the row as it
    was in memory: so rows are chosen, not added, and guard rows stand before them. A RoI that has
    batch index -1 itself is pooled from image 0: what comes of it must not be used.

    Of R RoIs and G guard rows, elements 0 to R + G - 1 may be set to 0, and they must all belong to
    guard rows, which have G * channels * size * size. One guard row for every size * size - 1 RoIs
    is enough, whatever the number of channels.
    """
    if size < 2:
        raise ValueError(f"RoIs pooled to {size} x {size}: at least 2 x 2 is needed")
    guards = -mx.sym.ones_like(
        mx.sym.slice(rois, begin=(None,), end=(None,), step=(size * size - 1,))
    )
    behind = mx.sym.contrib.arange_like(rois, axis=0)
    behind = mx.sym.BlockGrad(mx.sym.broadcast_add(behind, side(guards, 0)))
    rois = mx.sym.concat(guards, rois, dim=0)
    level = roi_levels(rois, len(pyramid), canonical_size, canonical_level, offset)
    image = mx.sym.relu(mx.sym.slice_axis(rois, axis=1, begin=0, end=1))
    boxes = mx.sym.slice_axis(rois, axis=1, begin=1, end=5)
    out = None
    for number, data in reversed(list(enumerate(pyramid))):
        ours = level == number
        index = mx.sym.where(mx.sym.expand_dims(ours, axis=1), image, -mx.sym.ones_like(image))
        if sampling_ratio:
            pooled = mx.sym.contrib.ROIAlign(
                float32(data),
                mx.sym.concat(index, boxes, dim=1),
                pooled_size=(size, size),
                spatial_scale=1 / 2 ** (number + 2),
                sample_ratio=sampling_ratio,
                name=f"{name}.{number}",
            )
        else:
            pooled = _crop(float32(data), index, boxes, size, pyramid[0], f"{name}.{number}")
        out = pooled if out is None else mx.sym.where(ours, pooled, out, name=f"{name}_to{number}")
    return mx.sym.take(out, behind, name=name)


def _crop(
    data: Symbol, index: Symbol, boxes: Symbol, size: int, finest: Symbol, name: str
) -> Symbol:
    """crop_and_resize of boxes (R, 4), in pixels, in images index (R, 1): (R, _, size, size).

    The image's last pixel is the map's last cell. The image is four times the finest map.
    """
    scale = mx.sym.concat(
        *(
            mx.sym.reshape((side(data, axis) - 1) / (4 * side(finest, axis) - 1), shape=(1, 1))
            for axis in (3, 2, 3, 2)
        ),
        dim=1,
    )
    return crop_and_resize(data, index, mx.sym.broadcast_mul(boxes, scale), size, name)


def rows(data: Symbol, columns: int) -> Symbol:
    """(B, A * columns, H, W) -> (B, M, columns), along the map's rows: row, column, A."""
    return mx.sym.reshape(mx.sym.transpose(data, axes=(0, 2, 3, 1)), shape=(0, -1, columns))


def side(data: Symbol, axis: int) -> Symbol:
    """The length (1,) of an axis as float32."""
    return mx.sym.cast(_length(data, axis), dtype="float32")


def _length(data: Symbol, axis: int) -> Symbol:
    """The length (1,) of an axis as int32."""
    shape = mx.sym.slice_axis(mx.sym.shape_array(data), axis=0, begin=axis, end=axis + 1)
    return mx.sym.cast(shape, dtype="int32")


def best(scores: Symbol, count: int, filling: float) -> tuple[Symbol, Symbol]:
    """The K = count highest of scores (B, M), and their places in 0..M-1, int32: (B, K) each.

    Where M is less than K the rest has the score `filling`, and the last place. Places are whole
    numbers: float32 would round those from 2^24 on, as 1,200 classes on 100 x 168 cells have them.
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
    """Places (B, K) int32 divided by a number: quotient and remainder, (B, K) float32 each."""
    divisor = mx.sym.full((1, 1), count, dtype="int32")
    whole = mx.sym.broadcast_div(index, divisor)  # of int32: rounded down
    rest = mx.sym.broadcast_sub(index, mx.sym.broadcast_mul(whole, divisor))
    return tuple(mx.sym.cast(x, dtype="float32") for x in (whole, rest))


def take_rows(data: Symbol, index: Symbol) -> Symbol:
    """The rows (B, K, columns) of data (B, M, columns) at places (B, K), each image its own.

    Rows are counted in int32: a batch may have more of them than float32 can count.
    """
    image = mx.sym.reshape(mx.sym.contrib.arange_like(data, axis=0), shape=(-1, 1))
    image, index = (mx.sym.cast(x, dtype="int32") for x in (image, index))
    place = mx.sym.broadcast_add(index, mx.sym.broadcast_mul(image, _length(data, 1)))
    return mx.sym.take(mx.sym.reshape(data, shape=(-3, 0)), place)


def columns_and_rows(cell: Symbol, feature: Symbol) -> tuple[Symbol, Symbol]:
    """Column and row (B, K) of cells (B, K), counted along the rows of a map (B, _, H, W)."""
    columns = side(feature, 3)
    y = mx.sym.floor(mx.sym.broadcast_div(cell, columns))
    return cell - mx.sym.broadcast_mul(y, columns), y


def cell_size(feature: Symbol, data: Symbol) -> tuple[Symbol, Symbol]:
    """torchvision's stride (1,) across and down: the image's side over the map's, rounded down."""
    return tuple(mx.sym.floor(side(data, axis) / side(feature, axis)) for axis in (3, 2))
