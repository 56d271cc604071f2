"""VGG16 (Simonyan and Zisserman, configuration D), as Faster R-CNN uses it.

Letters: B images, H, W the image's size, R RoIs. `width` thins every convolution (1.0 is VGG16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symnet.machine import mx
from symnet.parts.layers import conv, fc, float32, relu, row_side

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

#: convolutions of each block and their filters; blocks are separated by 2x2 max-pooling
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
STRIDE = 16
FC_DIM = 4096


def thin(filters: int, width: float) -> int:
    """Filters at that width, at least 8."""
    return filters if width == 1 else max(8, round(filters * width))


def get_vgg_feature(data: Symbol, width: float = 1.0) -> Symbol:
    """conv1_1 ... conv5_3: (B, 3, H, W) -> (B, 512, H/16, W/16), no pool5."""
    for block, (layers, filters) in enumerate(BLOCKS, start=1):
        for layer in range(1, layers + 1):
            data = conv(data, f"conv{block}_{layer}", thin(filters, width))
            data = relu(data, f"relu{block}_{layer}")
        if block < len(BLOCKS):
            data = mx.sym.Pooling(
                data, pool_type="max", kernel=(2, 2), stride=(2, 2), name=f"pool{block}"
            )
    return data


def get_vgg_top_feature(
    data: Symbol, fc_dim: int = FC_DIM, dropout: float = 0.5, pooled_size: int = 7
) -> Symbol:
    """fc6 and fc7 with dropout: (R, 512, 7, 7) -> (R, fc_dim)."""
    for name, side in (("6", pooled_size), ("7", row_side(fc_dim))):
        data = relu(fc(data, f"fc{name}", fc_dim, side), f"relu{name}")
        data = mx.sym.Dropout(float32(data), p=dropout, name=f"drop{name}")
    return data
