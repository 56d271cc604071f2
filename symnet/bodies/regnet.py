"""RegNetX (Radosavovic et al. 2020) as in torchvision: stages of X blocks, figure 4 of the paper.

Letters: B images, H, W image size. Parameters have torchvision's names, translated as in resnet.py:
trunk_output.block1.block1-0.f.a.0.weight is PREFIX + trunk_output.block1.block1-0.f.a.0_weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from symnet.bodies.body import Body
from symnet.bodies.resnet import PREFIX, projection
from symnet.machine import Symbol
from symnet.parts.layers import relu
from symnet.parts.norms import conv_norm

STEM = 32


@dataclass(frozen=True)
class Stages:
    """Blocks and channels of the four stages, and the channels per group of their 3x3 layers."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    group_width: int


#: the paper's (appendix D), and torchvision's, which rounds 392 up to a multiple of 16
X_400MF = Stages((1, 2, 7, 12), (32, 64, 160, 384), 16)
X_400MF_TORCHVISION = Stages((1, 2, 7, 12), (32, 64, 160, 400), 16)


def regnet(data: Symbol, norm: str, stages: Stages) -> dict[int, Symbol]:
    """c2, c3, c4, c5 of images (B, 3, H, W), by stride."""
    data = conv_norm(data, f"{PREFIX}stem.0", f"{PREFIX}stem.1", STEM, 3, 2, kind=norm, channels=3)
    data = relu(data, f"{PREFIX}stem.2")
    maps, channels = {}, STEM
    for stage, (depth, width) in enumerate(zip(stages.depths, stages.widths), start=1):
        for number in range(depth):
            name = f"{PREFIX}trunk_output.block{stage}.block{stage}-{number}."
            stride = 2 if number == 0 else 1
            branch = _x_block(
                data, name, channels, width, stride, width // stages.group_width, norm
            )
            if stride > 1 or channels != width:
                data = projection(data, f"{name}proj", channels, width, stride, norm)
            data = relu(data + branch, f"{name}activation")
            channels = width
        maps[2 ** (stage + 1)] = data
    return maps


def _x_block(
    data: Symbol, name: str, channels: int, width: int, stride: int, groups: int, norm: str
) -> Symbol:
    """1x1, grouped 3x3 with the stride, 1x1; each is normalised, with a ReLU in between."""
    layers = (("a", 1, 1, 1), ("b", 3, stride, groups), ("c", 1, 1, 1))
    for letter, kernel, step, parts in layers:
        place = f"{name}f.{letter}."
        data = conv_norm(
            data,
            f"{place}0",
            f"{place}1",
            width,
            kernel,
            step,
            groups=parts,
            kind=norm,
            channels=channels,
        )
        if letter != "c":
            data = relu(data, f"{place}2")
        channels = width
    return data


#: name prefixes of the stem and the four stages
_STAGES = (
    (f"{PREFIX}stem.",),
    *((f"{PREFIX}trunk_output.block{stage}.",) for stage in (1, 2, 3, 4)),
)

BODIES = {
    name: Body(
        partial(regnet, stages=stages),
        {4 * 2**i: width for i, width in enumerate(stages.widths)},
        _STAGES,
    )
    for name, stages in (
        ("regnetx_400mf", X_400MF),
        ("regnetx_400mf_torchvision", X_400MF_TORCHVISION),
    )
}
