"""Pooling RoIs from one feature map or a pyramid: RoI pooling, RoIAlign, crop and resize.

Letters: B images, H, W feature map size, F its channels, R RoIs of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.ops.tensors import columns, side


def pool_rois(feature: Symbol, rois: Symbol, op: str, stride: float, size: int) -> Symbol:
    """Pool rois (R, 5), in pixels, from a map (B, F, H/stride, W/stride): (R, F, size, size).

    roi_pool: the maximum over the whole cells of each bin (Fast R-CNN, section 2.1).
    roi_align: the mean of 2 x 2 bilinear samples of each bin (Mask R-CNN, section 3).
    crop_resize: bilinear samples on a grid of twice the size, then 2x2 max-pooling.
    """
    feature = float32(feature)
    scale = 1.0 / stride
    if op == "roi_pool":
        return mx.sym.ROIPooling(
            feature, rois, pooled_size=(size, size), spatial_scale=scale, name="roi_pool"
        )
    if op == "roi_align":
        return mx.sym.contrib.ROIAlign(
            feature,
            rois,
            pooled_size=(size, size),
            spatial_scale=scale,
            sample_ratio=2,
            name="roi_align",
        )
    if op != "crop_resize":
        raise ValueError(f"unknown RoI operator {op!r}: choose roi_pool, roi_align or crop_resize")
    return _crop_resize(feature, rois, scale, size)


def _crop_resize(feature: Symbol, rois: Symbol, scale: float, size: int) -> Symbol:
    """crop_and_resize to 2 size x 2 size, then 2x2 max-pooling (Chen and Gupta 2017).

    A sample beyond the last cell's centre repeats the edge; in TensorFlow it is 0.
    """
    index, boxes = (
        mx.sym.slice_axis(rois, axis=1, begin=begin, end=end) for begin, end in ((0, 1), (1, 5))
    )
    crop = crop_and_resize(feature, index, boxes, 2 * size, "roi_crop", scale)
    return mx.sym.Pooling(crop, pool_type="max", kernel=(2, 2), stride=(2, 2), name="roi_crop_pool")


def roi_levels(
    rois: Symbol, levels: int, canonical_size: float, canonical_level: float, offset: float = 0
) -> Symbol:
    """The level (R,) of rois (R, 5), in 0..levels-1; level 0 has stride 4 (p2).

    FPN paper, equation 1: floor(canonical_level + log2(sqrt(area) / canonical_size)). With 224 and
    4, a RoI of ImageNet's size is on p4. A width is x2 - x1 + offset.
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
    stride: int = 4,
) -> Symbol:
    """RoIAlign (He et al. 2017) of rois (R, 5), each from its level: (R, channels, size, size).

    sampling_ratio: samples per bin in each direction; 0: crop_and_resize, see `_crop`. stride: that
    of the finest level. Raises ValueError for a size below 2.

    Each level pools its own RoIs and skips the others by giving them batch index -1. If MXNet's
    operator skips row n, it sets element n of its whole output to 0, and leaves row n
    uninitialised. So rows are selected instead of added, and guard rows are put in front of them. A
    RoI whose own batch index is -1 is pooled from image 0; its result must not be used.

    With R RoIs and G guard rows, elements 0 to R + G - 1 may be set to 0. They must all lie in the
    guard rows, which have G * channels * size * size elements. One guard row for every size * size
    - 1 RoIs is enough for any number of channels.
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
                spatial_scale=1 / (stride * 2**number),
                sample_ratio=sampling_ratio,
                name=f"{name}.{number}",
            )
        else:
            place = f"{name}.{number}"
            pooled = _crop(float32(data), index, boxes, size, pyramid[0], place, stride)
        out = pooled if out is None else mx.sym.where(ours, pooled, out, name=f"{name}_to{number}")
    return mx.sym.take(out, behind, name=name)


def _crop(
    data: Symbol,
    index: Symbol,
    boxes: Symbol,
    size: int,
    finest: Symbol,
    name: str,
    stride: int,
) -> Symbol:
    """crop_and_resize of boxes (R, 4), in pixels, in images index (R, 1): (R, _, size, size).

    The image's last pixel is at the feature map's last cell. The image is `stride` times as large
    as the finest map.
    """
    scale = mx.sym.concat(
        *(
            mx.sym.reshape((side(data, axis) - 1) / (stride * side(finest, axis) - 1), shape=(1, 1))
            for axis in (3, 2, 3, 2)
        ),
        dim=1,
    )
    return crop_and_resize(data, index, mx.sym.broadcast_mul(boxes, scale), size, name)


def crop_and_resize(
    data: Symbol, index: Symbol, boxes: Symbol, size: int, name: str, scale: float = 1.0
) -> Symbol:
    """TensorFlow's crop_and_resize of boxes (R, 4) in images index (R, 1): (R, _, size, size).

    scale: cells per unit of the boxes. Bilinear samples are at x1 + i * (x2 - x1) / (size - 1), so
    the outer ones are on the box's edges. ROIAlign with one sample per bin samples the bins'
    centres, so boxes are enlarged by half a bin on each side. A box narrower than about one cell is
    sampled over one cell. No gradient flows to the boxes.
    """
    first, last = columns(boxes, 0, 2), columns(boxes, 2, 4)
    half_bin = (last - first) * (0.5 / (size - 1))
    return mx.sym.contrib.ROIAlign(
        data,
        mx.sym.BlockGrad(mx.sym.concat(index, first - half_bin, last + half_bin, dim=1)),
        pooled_size=(size, size),
        spatial_scale=scale,
        sample_ratio=1,
        name=name,
    )
