"""ResNet (He et al. 2015) in three forms, which differ in where they stride.

torchvision: a bottleneck strides in its 3x3 layer. keras: it strides in its first 1x1 layer, and
the stem's pooling only pads after the last pixel. v1d (ResNet-D; T. He et al. 2018, section 4.2):
the stem has three 3x3 layers, and shortcuts use average pooling before a 1x1 layer of stride 1.

Letters: B images, H, W image size. Parameters have torchvision's names: layer1.0.conv1.weight is
PREFIX + layer1.0.conv1_weight here, and bn1.weight, bias, running_mean and running_var are
bn1_gamma, bn1_beta, bn1_moving_mean and bn1_moving_var. Layers that only v1d has have gluoncv's
names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from symnet.bodies.body import Body
from symnet.machine import Symbol, mx
from symnet.parts.layers import relu
from symnet.parts.norms import conv_norm

Form = Literal["torchvision", "keras", "v1d"]

#: residual blocks in the four stages; True if they are bottlenecks
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
PREFIX = "backbone.body."
#: name prefixes of the parameters of the stem and the four stages
STAGES = (
    (f"{PREFIX}conv1", f"{PREFIX}bn1"),
    *((f"{PREFIX}layer{number}.",) for number in (1, 2, 3, 4)),
)
#: the stem's layers: names of convolution, normalisation, ReLU; channels, filters, kernel, stride
_STEM = (("conv1", "bn1", "relu", 3, 64, 7, 2),)
_DEEP_STEM = (
    ("conv1.0", "conv1.1", "conv1.2", 3, 32, 3, 2),
    ("conv1.3", "conv1.4", "conv1.5", 32, 32, 3, 1),
    ("conv1.6", "bn1", "relu", 32, 64, 3, 1),
)


def resnet(data: Symbol, norm: str, depth: int, form: Form = "torchvision") -> dict[int, Symbol]:
    """c2, c3, c4, c5 of images (B, 3, H, W), by stride."""
    for layer, normed, active, channels, *sizes in _DEEP_STEM if form == "v1d" else _STEM:
        names = (f"{PREFIX}{layer}", f"{PREFIX}{normed}")
        data = conv_norm(data, *names, *sizes, kind=norm, channels=channels)
        data = relu(data, f"{PREFIX}{active}")
    ends = {"pooling_convention": "full"} if form == "keras" else {"pad": (1, 1)}
    data = mx.sym.Pooling(
        data, pool_type="max", kernel=(3, 3), stride=(2, 2), name=f"{PREFIX}maxpool", **ends
    )
    maps = {}
    for number in range(1, 5):
        data = stage(data, norm, depth, form, number)
        maps[2 ** (number + 1)] = data
    return maps


def stage(
    data: Symbol, norm: str, depth: int, form: Form = "torchvision", number: int = 4
) -> Symbol:
    """Stage 1 ... 4, whose output is c2 ... c5. All but the first halve the feature map."""
    blocks, bottleneck = DEPTHS[depth]
    width, block = 32 * 2**number, _basic_block
    if bottleneck:
        block = _keras_bottleneck if form == "keras" else _bottleneck
    shortcut = _averaged_projection if form == "v1d" else projection
    out_channels = 4 * width if bottleneck else width
    channels = 64 if number == 1 else out_channels // 2
    for place in range(blocks[number - 1]):
        stride = 2 if number > 1 and place == 0 else 1
        name = f"{PREFIX}layer{number}.{place}."
        branch = block(data, name, channels, width, stride, norm)
        if stride > 1 or channels != out_channels:
            data = shortcut(data, f"{name}downsample", channels, out_channels, stride, norm)
        data = relu(branch + data, f"{name}relu")
        channels = out_channels
    return data


def projection(
    data: Symbol, name: str, channels: int, filters: int, stride: int, norm: str
) -> Symbol:
    """A shortcut that changes the shape: a 1x1 convolution NAME.0, normalised by NAME.1."""
    return conv_norm(
        data, f"{name}.0", f"{name}.1", filters, 1, stride, kind=norm, channels=channels
    )


def _averaged_projection(
    data: Symbol, name: str, channels: int, filters: int, stride: int, norm: str
) -> Symbol:
    """Like `projection`, after pooling: NAME.0 averages, NAME.1 convolves, NAME.2 normalises."""
    if stride > 1:
        data = mx.sym.Pooling(
            data,
            pool_type="avg",
            kernel=(stride, stride),
            stride=(stride, stride),
            pooling_convention="full",  # a last, smaller window averages its own cells
            count_include_pad=False,
            name=f"{name}.0",
        )
    return conv_norm(data, f"{name}.1", f"{name}.2", filters, 1, kind=norm, channels=channels)


def _bottleneck(
    data: Symbol, name: str, channels: int, width: int, stride: int, norm: str
) -> Symbol:
    layers = ((channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
    return _layers(data, name, layers, norm)


def _keras_bottleneck(
    data: Symbol, name: str, channels: int, width: int, stride: int, norm: str
) -> Symbol:
    layers = ((channels, width, 1, stride), (width, width, 3, 1), (width, 4 * width, 1, 1))
    return _layers(data, name, layers, norm)


def _basic_block(
    data: Symbol, name: str, channels: int, width: int, stride: int, norm: str
) -> Symbol:
    return _layers(data, name, ((channels, width, 3, stride), (width, width, 3, 1)), norm)


def _layers(
    data: Symbol, name: str, layers: Sequence[tuple[int, int, int, int]], norm: str
) -> Symbol:
    """Normalised convolutions (channels, filters, kernel, stride), with a ReLU in between."""
    for number, (channels, filters, kernel, stride) in enumerate(layers, start=1):
        data = conv_norm(
            data,
            f"{name}conv{number}",
            f"{name}bn{number}",
            filters,
            kernel,
            stride,
            kind=norm,
            channels=channels,
        )
        if number < len(layers):
            data = relu(data, f"{name}relu{number}")
    return data


def _body(depth: int, form: Form) -> Body:
    widest = 2048 if DEPTHS[depth][1] else 512
    return Body(
        partial(resnet, depth=depth, form=form),
        {stride: widest * stride // 32 for stride in (4, 8, 16, 32)},
        STAGES,
        head=partial(stage, depth=depth, form=form),
    )


BODIES = {
    f"resnet{depth}" + ("" if form == "torchvision" else f"_{form}"): _body(depth, form)
    for depth in DEPTHS
    for form in get_args(Form)
}
