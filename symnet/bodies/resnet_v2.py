"""ResNet v2 (He et al. 2016, "Identity mappings in deep residual networks"), with bottlenecks.

Letters: B images, H, W the image's size, R RoIs. Names, strides (on the 3x3 convolutions) and the
normalisation of the input itself are those of MXNet's own ImageNet models and the original MXNet
example: files of both load. `units` are the units of the four stages: (3, 4, 6, 3) is ResNet-50,
(3, 4, 23, 3) ResNet-101. `width` thins every convolution (1.0 is ResNet). `norm` is "frozen", on
stored statistics, or "batch", trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from symnet.bodies.vgg import thin
from symnet.machine import mx
from symnet.parts.layers import conv, float32, relu

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

#: channels of the first convolution, and of the four stages
STEM = 64
FILTERS = (256, 512, 1024, 2048)


def _norm(data: Symbol, name: str, norm: str, fix_gamma: bool = False) -> Symbol:
    return mx.sym.BatchNorm(
        float32(data),
        name=name,
        eps=2e-5,
        momentum=0.9,
        fix_gamma=fix_gamma,
        use_global_stats=norm == "frozen",
    )


def _unit(
    data: Symbol, name: str, filters: int, width: float, stride: int, project: bool, norm: str
) -> Symbol:
    """A bottleneck: normalisation and relu before each convolution; its shortcut is a convolution
    of the first relu's output, or nothing."""

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


def get_resnet_feature(
    data: Symbol, units: Sequence[int], width: float = 1.0, norm: str = "frozen"
) -> Symbol:
    """bn_data ... stage 3 (C4), a sum without relu: (B, 3, H, W) -> (B, 1024, H/16, W/16)."""
    data = _norm(data, "bn_data", norm, fix_gamma=True)
    data = conv(data, "conv0", thin(STEM, width), kernel=7, stride=2, bias=False)
    data = relu(_norm(data, "bn0", norm), "relu0")
    data = mx.sym.Pooling(
        data, pool_type="max", kernel=(3, 3), stride=(2, 2), pad=(1, 1), name="pool0"
    )
    for number in (1, 2, 3):
        data = _stage(data, number, units[number - 1], width, norm)
    return data


def get_resnet_top_feature(
    data: Symbol, units: Sequence[int], width: float = 1.0, norm: str = "frozen"
) -> Symbol:
    """Stage 4 and the mean over its map: (R, 1024, 14, 14) -> (R, 2048, 1, 1)."""
    data = relu(_norm(_stage(data, 4, units[3], width, norm), "bn1", norm), "relu1")
    return mx.sym.Pooling(data, pool_type="avg", global_pool=True, kernel=(7, 7), name="pool1")
