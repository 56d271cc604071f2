"""MobileNet (Howard et al. 2017), width 1.0: depthwise 3x3 layers, each followed by a 1x1 layer.

Letters: B images, H, W image size. Parameters are named as in resnet.py: in a block, conv1 and bn1
are the 3x3 layer, conv2 and bn2 the 1x1 layer.
"""

from __future__ import annotations

from symnet.bodies.body import Body
from symnet.bodies.resnet import PREFIX, STAGES
from symnet.machine import Symbol
from symnet.parts.layers import relu
from symnet.parts.norms import conv_norm

#: filters of the stem; (filters, stride) of each block in the four stages (the paper's table 1)
STEM = 32
BLOCKS = (
    ((64, 1), (128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)


def mobilenet(data: Symbol, norm: str) -> dict[int, Symbol]:
    """c2, c3, c4, c5 of images (B, 3, H, W), by stride."""
    stem = (f"{PREFIX}conv1", f"{PREFIX}bn1")
    data = relu(conv_norm(data, *stem, STEM, 3, 2, kind=norm, channels=3), f"{PREFIX}relu")
    maps, channels = {}, STEM
    for number, blocks in enumerate(BLOCKS, start=1):
        for place, (filters, stride) in enumerate(blocks):
            name = f"{PREFIX}layer{number}.{place}."
            data = _block(data, name, channels, filters, stride, norm)
            channels = filters
        maps[2 ** (number + 1)] = data
    return maps


def _block(data: Symbol, name: str, channels: int, filters: int, stride: int, norm: str) -> Symbol:
    layers = ((channels, 3, stride, channels), (filters, 1, 1, 1))
    for number, (outputs, kernel, step, groups) in enumerate(layers, start=1):
        names = (f"{name}conv{number}", f"{name}bn{number}")
        data = conv_norm(data, *names, outputs, kernel, step, groups, norm, channels)
        data = relu(data, f"{name}relu{number}")
    return data


BODIES = {
    "mobilenet1_0": Body(
        mobilenet, {4 * 2**i: blocks[-1][0] for i, blocks in enumerate(BLOCKS)}, STAGES
    )
}
