"""ResNet v2 (He et al. 2016, "Identity mappings in deep residual networks"), with bottlenecks.

Letters: B images, H, W image size, R RoIs. Names, strides (on the 3x3 convolutions) and the
normalisation of the input are those of MXNet's ImageNet models and the original MXNet example, so
files of both load. `units`: the units of the four stages. `width` scales the filters of every
convolution (1.0 is ResNet). `norm`: "frozen" (or "folded", which means the same here) for stored
statistics, or "batch", trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from symnet.bodies.body import Body
from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.parts.layers import conv, relu, thin

#: channels of the first convolution, and of the four stages
STEM = 64
FILTERS = (256, 512, 1024, 2048)
#: residual units of the four stages
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _norm(data: Symbol, name: str, norm: str, fix_gamma: bool = False) -> Symbol:
    return mx.sym.BatchNorm(
        float32(data),
        name=name,
        eps=2e-5,
        momentum=0.9,
        fix_gamma=fix_gamma,
        use_global_stats=norm != "batch",
    )


def _unit(
    data: Symbol, name: str, filters: int, width: float, stride: int, project: bool, norm: str
) -> Symbol:
    """A bottleneck with normalisation and ReLU before each convolution.

    project: the shortcut is a convolution of the first ReLU's output, instead of the identity.
    """

    def active(data: Symbol, number: int) -> Symbol:
        return relu(_norm(data, f"{name}_bn{number}", norm), f"{name}_relu{number}")

    inner, outer = thin(filters // 4, width), thin(filters, width)
    first = active(data, 1)
    out = conv(first, f"{name}_conv1", inner, kernel=1, bias=False)
    out = conv(active(out, 2), f"{name}_conv2", inner, stride=stride, bias=False)
    out = conv(active(out, 3), f"{name}_conv3", outer, kernel=1, bias=False)
    if project:
        data = conv(first, f"{name}_sc", outer, kernel=1, stride=stride, bias=False)
    return mx.sym.elemwise_add(float32(out), float32(data), name=f"{name}_plus")


def _stage(data: Symbol, number: int, units: int, width: float, norm: str) -> Symbol:
    """Stage 1 ... 4: (B, _, H, W) -> (B, FILTERS, H/2, W/2); stage 1 keeps the size."""
    for unit in range(1, units + 1):
        first = unit == 1
        stride = 2 if first and number > 1 else 1
        name = f"stage{number}_unit{unit}"
        data = _unit(data, name, FILTERS[number - 1], width, stride, first, norm)
    return data


def resnet_v2(
    data: Symbol, norm: str, units: Sequence[int], width: float = 1.0
) -> dict[int, Symbol]:
    """c2, c3, c4 (sums without ReLU) and c5 of images (B, 3, H, W), by stride."""
    data = _norm(data, "bn_data", norm, fix_gamma=True)
    data = conv(data, "conv0", thin(STEM, width), kernel=7, stride=2, bias=False)
    data = relu(_norm(data, "bn0", norm), "relu0")
    data = mx.sym.Pooling(
        data, pool_type="max", kernel=(3, 3), stride=(2, 2), pad=(1, 1), name="pool0"
    )
    maps = {}
    for number in (1, 2, 3):
        data = maps[2 ** (number + 1)] = _stage(data, number, units[number - 1], width, norm)
    return {**maps, 32: last_stage(data, norm, units, width)}


def last_stage(data: Symbol, norm: str, units: Sequence[int], width: float = 1.0) -> Symbol:
    """Stage 4 with the last normalisation and ReLU: (R, 1024, 14, 14) -> (R, 2048, 7, 7)."""
    return relu(_norm(_stage(data, 4, units[3], width, norm), "bn1", norm), "relu1")


BODIES = {
    f"resnet{depth}_v2": Body(
        partial(resnet_v2, units=units),
        dict(zip((4, 8, 16, 32), FILTERS)),
        (("conv0",), *((f"stage{number}_",) for number in (1, 2, 3, 4))),
        unstaged=("bn_data", "bn0", "bn1"),
        head=partial(last_stage, units=units),
        options=("width", "units"),
        norms=("frozen", "batch"),
        fixed=("bn_data_gamma",),
    )
    for depth, units in UNITS.items()
}
