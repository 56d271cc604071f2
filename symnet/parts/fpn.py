"""Feature pyramids (Lin et al. 2017), as in torchvision.

A pyramid is a list of feature maps (B, channels, H, W), finest first.
"""

from __future__ import annotations

from collections.abc import Sequence

from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.parts.layers import conv
from symnet.parts.norms import conv_norm

PREFIX = "backbone.fpn."


def fpn(
    maps: Sequence[Symbol],
    channels: int = 256,
    norm: str = "",
    extra: str = "pool",
    halved: bool = True,
) -> list[Symbol]:
    """The pyramid of feature maps such as c2..c5, each half the size of the one before it.

    halved: False if all have the same size.

    Every level has `channels` channels. norm: the normalisation after the convolutions, if any.
    extra: additional levels. "pool": the last level subsampled (p6 of Faster R-CNN). "conv": a
    convolution with stride 2 on the input of p5's last layer (gluoncv). "p6p7": two convolutions
    with stride 2, starting from p5 (FCOS; RetinaNet). "": none.
    """

    def layer(data: Symbol, name: str, kernel: int) -> Symbol:
        if norm:
            return conv_norm(data, f"{name}.0", f"{name}.1", channels, kernel, kind=norm)
        return conv(data, f"{name}.0", channels, kernel)

    count = len(maps)
    inner = [layer(data, f"{PREFIX}inner_blocks.{i}", 1) for i, data in enumerate(maps)]
    for i in reversed(range(count - 1)):
        above = float32(inner[i + 1])
        if halved:
            above = mx.sym.UpSampling(
                above, scale=2, sample_type="nearest", name=f"{PREFIX}upsample{i}"
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
