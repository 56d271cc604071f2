"""VGG16 (Simonyan and Zisserman, configuration D), as used by Faster R-CNN.

Letters: B images, H, W image size, R RoIs. `width` scales the filters of every convolution (1.0 is
VGG16).
"""

from __future__ import annotations

from collections.abc import Callable

from symnet.bodies.body import Body
from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.parts.layers import conv, fc, relu, row_side, thin
from symnet.parts.norms import conv_norm

#: (convolutions, filters) of each block; 2x2 max-pooling separates the blocks
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
#: outputs of fc6 and fc7
FC_DIM = 4096


def vgg16(data: Symbol, norm: str = "frozen", width: float = 1.0) -> dict[int, Symbol]:
    """The feature maps before each pooling, and conv5_3, by stride. No pool5, no normalisation."""

    def layer(data: Symbol, number: str, filters: int, channels: int) -> Symbol:
        return conv(data, f"conv{number}", filters)

    return _blocks(data, layer, width)


def vgg16_bn(data: Symbol, norm: str = "frozen", width: float = 1.0) -> dict[int, Symbol]:
    """VGG16 with a normalisation after each convolution, as torchvision's vgg16_bn."""

    def layer(data: Symbol, number: str, filters: int, channels: int) -> Symbol:
        return conv_norm(
            data, f"conv{number}", f"bn{number}", filters, kind=norm, channels=channels
        )

    return _blocks(data, layer, width)


def _blocks(data: Symbol, layer: Callable, width: float) -> dict[int, Symbol]:
    """The feature maps before each pooling, and conv5_3, by stride.

    layer(data, number, filters, channels): what comes before the ReLU with this number, such as
    "3_1"; it has `filters` outputs and `channels` inputs.
    """
    maps, channels = {}, 3
    for block, (layers, filters) in enumerate(BLOCKS, start=1):
        filters = thin(filters, width)
        for number in (f"{block}_{i}" for i in range(1, layers + 1)):
            data = relu(layer(data, number, filters, channels), f"relu{number}")
            channels = filters
        maps[2 ** (block - 1)] = data
        if block < len(BLOCKS):
            data = mx.sym.Pooling(
                data, pool_type="max", kernel=(2, 2), stride=(2, 2), name=f"pool{block}"
            )
    return maps


def get_vgg_feature(data: Symbol, width: float = 1.0) -> Symbol:
    """conv1_1 ... conv5_3: (B, 3, H, W) -> (B, 512, H/16, W/16)."""
    return vgg16(data, width=width)[16]


def get_vgg_top_feature(
    data: Symbol, fc_dim: int = FC_DIM, dropout: float = 0.5, pooled_size: int = 7
) -> Symbol:
    """fc6 and fc7 with dropout: (R, 512, 7, 7) -> (R, fc_dim)."""
    for name, side in (("6", pooled_size), ("7", row_side(fc_dim))):
        data = relu(fc(data, f"fc{name}", fc_dim, side), f"relu{name}")
        data = mx.sym.Dropout(float32(data), p=dropout, name=f"drop{name}")
    return data


_STAGES = tuple((f"conv{block}_",) for block in range(1, 6))
_CHANNELS = {2 ** (block - 1): filters for block, (_, filters) in enumerate(BLOCKS, start=1)}

BODIES = {
    "vgg16": Body(vgg16, _CHANNELS, _STAGES, options=("width",)),
    "vgg16_bn": Body(
        vgg16_bn,
        _CHANNELS,
        tuple((f"conv{block}_", f"bn{block}_") for block in range(1, 6)),
        options=("width",),
    ),
}
