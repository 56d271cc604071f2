"""MobileNetV3-Large (Howard et al. 2019), width 1.0, as in torchvision.

A block: a 1x1 layer that expands, a depthwise layer, squeeze and excitation in some, and a 1x1
layer that projects, without an activation. If its input has the shape of its output, it is added.

Letters: B images, H, W image size. Parameters have torchvision's names, translated as in resnet.py:
features.4.block.2.fc1.weight is PREFIX + 4.block.2.fc1_weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symnet.bodies.body import FIRST_OF_32, Body
from symnet.bodies.resnet import PREFIX
from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.parts.layers import conv, hard_sigmoid, hard_swish, relu
from symnet.parts.norms import conv_norm


@dataclass(frozen=True)
class Block:
    """A row of the paper's table 1: kernel, expanded channels, filters, stride.

    squeezed: channels between squeeze and excitation; 0: it has none. hard: hard-swish instead of
    ReLU.
    """

    kernel: int
    expanded: int
    filters: int
    squeezed: int
    hard: bool
    stride: int = 1


STEM, LAST = 16, 960
BLOCKS = (
    Block(3, 16, 16, 0, False),
    Block(3, 64, 24, 0, False, 2),
    Block(3, 72, 24, 0, False),
    Block(5, 72, 40, 24, False, 2),
    Block(5, 120, 40, 32, False),
    Block(5, 120, 40, 32, False),
    Block(3, 240, 80, 0, True, 2),
    Block(3, 200, 80, 0, True),
    Block(3, 184, 80, 0, True),
    Block(3, 184, 80, 0, True),
    Block(3, 480, 112, 120, True),
    Block(3, 672, 112, 168, True),
    Block(5, 672, 160, 168, True, 2),
    Block(5, 960, 160, 240, True),
    Block(5, 960, 160, 240, True),
)


def mobilenet_v3_large(data: Symbol, norm: str) -> dict[int | str, Symbol]:
    """c2, c3, c4, c5 of images (B, 3, H, W), by stride, and c5's first block.

    The stem is layer 0, the blocks are layers 1 to 15, and the last 1x1 layer is layer 16.
    """
    data = _layer(data, "0", 3, STEM, 3, 2, norm=norm, active=hard_swish)
    maps, channels, stride = {}, STEM, 2
    for number, block in enumerate(BLOCKS, start=1):
        data = _block(data, f"{number}.", channels, block, norm)
        channels, stride = block.filters, stride * block.stride
        maps[stride] = data
        if stride == 32:
            maps.setdefault(FIRST_OF_32, data)
    maps[32] = _layer(data, "16", channels, LAST, 1, norm=norm, active=hard_swish)
    return maps


def _block(data: Symbol, name: str, channels: int, block: Block, norm: str) -> Symbol:
    active = hard_swish if block.hard else relu
    place, wide, out = iter(f"{name}block.{i}" for i in range(4)), block.expanded, data
    if wide != channels:
        out = _layer(out, next(place), channels, wide, 1, norm=norm, active=active)
    out = _layer(
        out, next(place), wide, wide, block.kernel, block.stride, wide, norm=norm, active=active
    )
    if block.squeezed:
        out = _excite(out, next(place), wide, block.squeezed)
    out = _layer(out, next(place), wide, block.filters, 1, norm=norm)
    if block.stride > 1 or channels != block.filters:
        return out
    return float32(data) + float32(out)


def _layer(
    data: Symbol,
    name: str,
    channels: int,
    filters: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    norm: str,
    active: Callable[[Symbol, str], Symbol] | None = None,
) -> Symbol:
    """A normalised convolution and its activation, if it has one."""
    names = (f"{PREFIX}{name}.0", f"{PREFIX}{name}.1")
    data = conv_norm(data, *names, filters, kernel, stride, groups, norm, channels)
    return active(data, f"{PREFIX}{name}.2") if active else data


def _excite(data: Symbol, name: str, channels: int, fewer: int) -> Symbol:
    """Squeeze and excitation (Hu et al. 2018): each channel of data (B, channels, H, W), weighted.

    The weights come from the channels' means, by two layers. int8 leaves these in float32: they are
    one cell large, and what they compute multiplies every cell.
    """
    name = f"{PREFIX}{name}."
    data = float32(data)
    squeezed = mx.sym.Pooling(
        data, pool_type="avg", kernel=(1, 1), global_pool=True, name=f"{name}avgpool"
    )
    squeezed = relu(conv(squeezed, f"{name}fc1", fewer, 1, predicts=True), f"{name}activation")
    weights = float32(conv(squeezed, f"{name}fc2", channels, 1, predicts=True))
    return mx.sym.broadcast_mul(data, hard_sigmoid(weights, f"{name}scale_activation"))


#: the layers at which torchvision begins a stage: those with a stride, and the last
_STARTS = (0, *(n for n, block in enumerate(BLOCKS, start=1) if block.stride > 1), 16, 17)
STAGES = tuple(
    tuple(f"{PREFIX}{layer}." for layer in range(start, end))
    for start, end in zip(_STARTS, _STARTS[1:])
)

BODIES = {
    "mobilenet_v3_large": Body(
        mobilenet_v3_large, {4: 24, 8: 40, 16: 112, FIRST_OF_32: 160, 32: LAST}, STAGES
    )
}
