"""ZF (Zeiler and Fergus 2013), as used by Faster R-CNN (py-faster-rcnn, models/pascal_voc/ZF).

Letters: B images, H, W image size. `width` scales the filters of every convolution (1.0 is ZF).
"""

from __future__ import annotations

from symnet.bodies.body import Body
from symnet.machine import Symbol, mx
from symnet.ops.precision import float32
from symnet.parts.layers import conv, relu, thin

#: (filters, kernel) of convolutions with stride 2, followed by normalisation and pooling
REDUCING = ((96, 7), (256, 5))
#: filters of 3x3 convolutions
KEEPING = (384, 384, 256)


def _local_norm(data: Symbol, name: str) -> Symbol:
    """Caffe's normalisation within a channel: x / (1 + alpha * mean of x^2 over 3x3) ^ beta.

    Cells outside the feature map count as 0.
    """
    data = float32(data)
    mean = mx.sym.Pooling(
        mx.sym.square(data),
        pool_type="avg",
        kernel=(3, 3),
        stride=(1, 1),
        pad=(1, 1),
        count_include_pad=True,
        name=f"{name}_mean",
    )
    return mx.sym.elemwise_mul(data, (1 + 5e-5 * mean) ** -0.75, name=name)


def zf(data: Symbol, norm: str = "frozen", width: float = 1.0) -> dict[int, Symbol]:
    """conv1 ... conv5: (B, 3, H, W) -> {16: (B, 256, H/16, W/16)}.

    Pooling rounds sizes down, so that there is one cell per 16 pixels, as in all other bodies.
    Caffe's rounds up, which adds a row and a column at the end.
    """
    for number, (filters, kernel) in enumerate(REDUCING, start=1):
        data = conv(data, f"conv{number}", thin(filters, width), kernel=kernel, stride=2)
        data = _local_norm(relu(data, f"relu{number}"), f"norm{number}")
        data = mx.sym.Pooling(
            data, pool_type="max", kernel=(3, 3), stride=(2, 2), pad=(1, 1), name=f"pool{number}"
        )
    for number, filters in enumerate(KEEPING, start=len(REDUCING) + 1):
        data = relu(conv(data, f"conv{number}", thin(filters, width)), f"relu{number}")
    return {16: data}


BODIES = {
    "zf": Body(
        zf,
        {16: KEEPING[-1]},
        tuple((f"conv{number}_",) for number in range(1, 6)),
        options=("width",),
    )
}
