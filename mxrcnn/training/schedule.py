"""The learning rate as a function of the step: linear warm-up, then steps down."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from mxrcnn.config import TrainConfig


@dataclass(frozen=True)
class StepSchedule:
    """lr * decay ** (milestones passed). Milestones and steps count updates.

    A milestone below 0 was passed before the data, and so the length of an epoch, changed.
    """

    lr: float
    milestones: tuple[int, ...]
    decay: float
    warmup_steps: int = 0
    warmup_factor: float = 1.0

    def __call__(self, step: int) -> float:
        """The learning rate of update number `step`, counted from 0."""
        lr = self.lr * self.decay ** bisect_right(self.milestones, step)
        if step < self.warmup_steps:
            lr *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return lr


#: warm-up steps to a scaled learning rate (Goyal et al. 2017, section 5.3, object detection)
SCALED_WARMUP = 500


def lr_scale(train: TrainConfig) -> int:
    """The factor for lr: how much larger the whole batch is than one worker's.

    1 with dist_async, where a step is one worker's batch and more workers mean more steps.
    """
    scaled = train.lr_scaling == "linear" and train.kvstore != "dist_async"
    return train.workers if scaled else 1


def make_schedule(train: TrainConfig, steps_per_epoch: int, first_step: int = 0) -> StepSchedule:
    """The schedule of a training configuration. first_step: see TrainState.first_step.

    A scaled learning rate starts at one worker's rate. It is reached after the configured warm-up,
    but not before SCALED_WARMUP steps, or one epoch if that is shorter.
    """
    scale, warmup_steps, factor = lr_scale(train), train.warmup_steps, train.warmup_factor
    if scale > 1:
        factor = (factor if warmup_steps else 1.0) / scale
        warmup_steps = max(warmup_steps, min(SCALED_WARMUP, steps_per_epoch))
    return StepSchedule(
        scale * train.lr,
        tuple(sorted(first_step + epoch * steps_per_epoch for epoch in train.lr_decay_epoch)),
        train.lr_decay,
        warmup_steps,
        factor,
    )
