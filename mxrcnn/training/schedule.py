"""The learning rate as a function of the step: linear warm-up, then step, cosine or poly decay."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from mxrcnn.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each update. All counts are updates.

    kind step: lr * decay ** (milestones passed). A milestone below 0 was passed before the data,
    and so the length of an epoch, changed.
    kind cosine (SGDR, equation 5) and poly: lr falls to final * lr over `steps` updates, of which
    number `start` is the first; power belongs to poly. They equal torch's CosineAnnealingLR and
    PolynomialLR, which has no final rate.
    """

    lr: float
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_steps: int = 0
    warmup_factor: float = 1.0
    kind: str = "step"
    start: int = 0
    steps: int = 0
    power: float = 0.9
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """The learning rate of update number `step`, counted from 0."""
        if self.kind == "step":
            lr = self.lr * self.decay ** bisect_right(self.milestones, step)
        else:
            lr = self.lr * (self.final + (1 - self.final) * self._left(step))
        if step < self.warmup_steps:
            lr *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return lr

    def _left(self, step: int) -> float:
        """What is left of the fall from 1 to 0."""
        done = min(1.0, max(0, step - self.start) / max(1, self.steps))
        return (
            (1 + math.cos(math.pi * done)) / 2
            if self.kind == "cosine"
            else (1 - done) ** self.power
        )


#: warm-up steps to a scaled learning rate (Goyal et al. 2017, section 5.3, object detection)
SCALED_WARMUP = 500


def rate_factor(scaling: str, ratio: float) -> float:
    """The factor for lr if a step has `ratio` times the images. scaling: as train.lr_scaling.

    linear is Goyal et al. 2017; sqrt is for Adam (Malladi et al. 2022, "On the SDEs and scaling
    rules for adaptive gradient algorithms").
    """
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1}[scaling]


def lr_scale(train: TrainConfig) -> float:
    """The factor for lr because of several workers, whose batch is larger than one worker's.

    1 with dist_async, where a step is one worker's batch and more workers mean more steps.
    """
    return 1 if train.kvstore == "dist_async" else rate_factor(train.lr_scaling, train.workers)


def make_schedule(train: TrainConfig, steps_per_epoch: int, first_step: int = 0) -> Schedule:
    """The schedule of a training configuration. first_step: see TrainState.first_step.

    A scaled learning rate starts at one worker's rate. It is reached after the configured warm-up,
    but not before SCALED_WARMUP steps, or one epoch if that is shorter.
    """
    scale, warmup_steps, factor = lr_scale(train), train.warmup_steps, train.warmup_factor
    if scale > 1:
        factor = (factor if warmup_steps else 1.0) / scale
        warmup_steps = max(warmup_steps, min(SCALED_WARMUP, steps_per_epoch))
    return Schedule(
        scale * train.lr,
        tuple(sorted(first_step + epoch * steps_per_epoch for epoch in train.lr_decay_epoch)),
        train.lr_decay,
        warmup_steps,
        factor,
        train.schedule,
        first_step,
        train.epochs * steps_per_epoch,
        train.poly_power,
        train.lr_final,
    )
