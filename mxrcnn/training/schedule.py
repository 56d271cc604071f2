"""The learning rate as a function of the step: linear warm-up, then steps down."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from mxrcnn.config import TrainConfig


@dataclass(frozen=True)
class StepSchedule:
    """lr times decay to the power of the milestones passed; milestones and steps count updates."""

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


def make_schedule(train: TrainConfig, steps_per_epoch: int) -> StepSchedule:
    """The schedule that a training configuration describes."""
    return StepSchedule(
        train.lr,
        tuple(sorted(epoch * steps_per_epoch for epoch in train.lr_decay_epoch)),
        train.lr_decay,
        train.warmup_steps,
        train.warmup_factor,
    )
