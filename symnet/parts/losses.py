"""Losses, and how losses of parts of a batch combine to the mean over the whole batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from symnet.machine import Symbol, mx
from symnet.ops.tensors import constant, softplus

_partial: ContextVar[bool] = ContextVar("partial", default=False)


@contextmanager
def partial_batches(partial: bool = True) -> Iterator[None]:
    """Graphs built inside this context are for a part of a batch: see `with_share`."""
    token = _partial.set(partial)
    try:
        yield
    finally:
        _partial.reset(token)


#: weights by class id, and a list that gets an entry when a graph uses them
_weights: ContextVar[tuple[Sequence[float], list[bool]] | None]
_weights = ContextVar("weights", default=None)


@contextmanager
def class_weights(weights: Sequence[float]) -> Iterator[list[bool]]:
    """Graphs built inside this context weight their class loss, see `class_weight`.

    weights: by class id, that of the background first; () for none. Yields a list that is empty as
    long as no graph has used them.
    """
    used: list[bool] = []
    token = _weights.set((weights, used) if weights else None)
    try:
        yield used
    finally:
        _weights.reset(token)


def class_weight(label: Symbol, first: int = 0) -> Symbol | None:
    """The weight of each sample by its label; None if classes have no weights.

    The label 0 is that of class id `first`. What is below class 1 has the background's weight. A
    sample's class loss is multiplied by it; the number that losses are divided by stays (as in
    mmdetection's CrossEntropyLoss with class_weight).
    """
    there = _weights.get()
    if there is None:
        return None
    weights, used = there
    used.append(True)
    return mx.sym.BlockGrad(mx.sym.take(constant(np.array(weights)), mx.sym.relu(label + first)))


#: ending of the inputs that weight the losses of a part of a batch
SHARE = "_share"


def with_share(data: Symbol, loss: str, ndim: int = 1) -> Symbol:
    """In `partial_batches`, multiply data, and so its gradient, by an input LOSS_share.

    The loss is the mean over the samples that this part of the batch has. The mean over the whole
    batch has to weight the parts by their numbers of samples, which are only known after the
    forward pass. So the input is 1 in the forward pass, and the part's weight when gradients are
    computed.
    """
    if not _partial.get():
        return data
    share = mx.sym.Variable(f"{loss}{SHARE}", shape=(1,) * ndim, dtype="float32")
    return mx.sym.broadcast_mul(data, share)


def own_mean_loss(loss: Symbol, name: str) -> Symbol:
    """A loss (1,) that is the mean over a number of samples that the graph computes."""
    return mx.sym.MakeLoss(with_share(loss, name), name=name)


def mean_loss(loss: Symbol, name: str, samples: int) -> Symbol:
    """A loss whose gradient is that of its sum divided by the number of samples."""
    return mx.sym.MakeLoss(loss, name=name, grad_scale=1.0 / samples)


def binary_cross_entropy(logits: Symbol, target: Symbol) -> Symbol:
    """-target log p - (1 - target) log (1 - p) for p = sigmoid(logits); finite for any logit."""
    return mx.sym.relu(logits) - logits * target + softplus(-mx.sym.abs(logits))


#: torchvision's, and Fast R-CNN's for the RPN (sigma 3)
BETA = 1 / 9


def smooth_l1(difference: Symbol, beta: float) -> Symbol:
    """0.5 x^2 / beta where |x| is below beta, else |x| - beta / 2, element by element.

    Fast R-CNN, equation 3, has beta 1. MXNet's operator takes sigma = 1 / sqrt(beta).
    """
    return mx.sym.smooth_l1(difference, scalar=1 / math.sqrt(beta))


def box_divisor(samples: Symbol, foreground: Symbol, mean: str) -> Symbol:
    """The divisor (1,) of a sum of box losses, given the numbers (1,) of samples and foreground.

    mean "samples": the number of samples (torchvision, gluoncv). "foreground": four times the
    number of foreground samples (matterport), which gives boxes several times the weight.
    """
    if mean == "samples":
        return mx.sym.maximum(samples, 1)
    if mean != "foreground":
        raise ValueError(f"unknown box_loss_mean {mean!r}: choose samples or foreground")
    return 4 * mx.sym.maximum(foreground, 1)


def foreground_output(foreground: Symbol, mean: str, name: str) -> tuple[Symbol, ...]:
    """Output the number of foreground samples, if the box loss is the mean over them.

    `DetectorDef.counts` needs it to weight the parts of a batch.
    """
    return (mx.sym.BlockGrad(foreground, name=name),) if mean == "foreground" else ()


def focal_loss(logits: Symbol, target: Symbol, alpha: float, gamma: float) -> Symbol:
    """Lin et al. 2017, equation 5, element by element; targets are 0 or 1.

    -alpha_t (1 - p_t)^gamma log p_t. 1 - p_t is the probability of the opposite target, and its
    logarithm the negative cross-entropy for that target. So the power is finite and has a gradient
    for any logit.
    """
    opposite = binary_cross_entropy(logits, 1 - target)
    balance = (1 - alpha) + (2 * alpha - 1) * target
    return balance * mx.sym.exp(-gamma * opposite) * binary_cross_entropy(logits, target)


def giou_loss(ltrb: Symbol, target: Symbol) -> Symbol:
    """1 - GIoU (Rezatofighi et al. 2019) of boxes around the same points: (B, N, 4) -> (B, N).

    Boxes are distances to left, top, right, bottom, at least 0. Both contain the point, so they
    always overlap.
    """

    def area(distances: Symbol) -> Symbol:
        left, top, right, bottom = mx.sym.split(distances, 4, axis=2, squeeze_axis=True)
        return (left + right) * (top + bottom)

    shared, hull = area(mx.sym.minimum(ltrb, target)), area(mx.sym.maximum(ltrb, target))
    union = area(ltrb) + area(target) - shared
    tiny = 1e-7
    return 1 - shared / (union + tiny) + (hull - union) / (hull + tiny)


def l1_loss(ltrb: Symbol, target: Symbol) -> Symbol:
    """The sum of the absolute differences of the four distances: (B, N, 4) -> (B, N).

    The FCOS of the course EECS 498 uses their mean: set `box_loss_weight` to 0.25.
    """
    return mx.sym.sum(mx.sym.abs(ltrb - target), axis=2)
