"""How the forms of two-stage detectors count the losses of boxes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from symnet.machine import mx

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

#: torchvision's, and Fast R-CNN's for the RPN (sigma 3)
BETA = 1 / 9


def smooth_l1(difference: Symbol, beta: float) -> Symbol:
    """0.5 x^2 / beta where |x| is below beta, else |x| - beta / 2: of the difference's shape.

    Fast R-CNN, equation 3, has beta 1. MXNet's operator takes sigma, 1 / sqrt(beta).
    """
    return mx.sym.smooth_l1(difference, scalar=1 / math.sqrt(beta))


def box_divisor(samples: Symbol, foreground: Symbol, mean: str) -> Symbol:
    """What a sum of box losses is divided by, (1,), of the numbers (1,) of samples.

    samples: by all of them (torchvision, gluoncv). foreground: by the four numbers of each that is
    foreground (matterport), which makes boxes weigh several times as much.
    """
    if mean == "samples":
        return mx.sym.maximum(samples, 1)
    if mean != "foreground":
        raise ValueError(f"box_loss_mean {mean!r}: there are samples, foreground")
    return 4 * mx.sym.maximum(foreground, 1)


def foreground_output(foreground: Symbol, mean: str, name: str) -> tuple[Symbol, ...]:
    """The number of foreground samples as an output, if it is what the box loss is a mean over.

    `DetectorDef.counts` needs it to weigh the parts of a batch.
    """
    return (mx.sym.BlockGrad(foreground, name=name),) if mean == "foreground" else ()
