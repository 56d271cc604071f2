"""The learning rate as a function of the step: linear warm-up, then steps down."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from mxrcnn.config import TrainConfig


@dataclass(frozen=True)
class StepSchedule:
    """lr times decay to the power of the milestones passed; milestones and steps count updates.

    A milestone below 0 was passed before the data, and with them an epoch's length, changed.
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


#: steps of warm-up to a learning rate that is scaled (Goyal et al. 2017, section 5.3, detection)
SCALED_WARMUP = 500


def lr_scale(train: TrainConfig) -> int:
    """What lr is multiplied by: how much larger the whole batch is than one worker's.

    1 with dist_async: there a step is one worker's batch, and there are more of them instead.
    """
    scaled = train.lr_scaling == "linear" and train.kvstore != "dist_async"
    return train.workers if scaled else 1


def make_schedule(train: TrainConfig, steps_per_epoch: int, first_step: int = 0) -> StepSchedule:
    """The schedule that a training configuration describes; see TrainState.first_step.

    A scaled learning rate begins where one worker's would, and is reached after the configuration's
    own warm-up, but no sooner than after SCALED_WARMUP steps, or an epoch if that is shorter.
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
