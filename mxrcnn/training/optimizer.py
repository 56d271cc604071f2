"""The optimizer, for updates in the worker and on the servers alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mxrcnn.config import TrainConfig
from mxrcnn.training.schedule import Schedule
from symnet.machine import mx


class _Scheduler(mx.lr_scheduler.LRScheduler):
    """A Schedule as an MXNet scheduler, which counts updates from 1."""

    def __init__(self, schedule: Schedule, updates_a_step: int = 1) -> None:
        super().__init__(schedule.lr)
        self._schedule = schedule
        self._updates_a_step = updates_a_step

    def __call__(self, num_update: int) -> float:
        return self._schedule((num_update - 1) // self._updates_a_step)


@mx.optimizer.Optimizer.register
class MxrcnnSGD(mx.optimizer.SGD):
    """MXNet's SGD with momentum, one call per parameter.

    MXNet's kernel for several parameters at once takes twice as long for large ones.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.aggregate_num = 0

    def update_multi_precision(
        self, index: int, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: mx.nd.NDArray | None
    ) -> None:
        """Update a parameter, and its momentum if there is any. The updater calls this."""
        self._update_count(index)
        options = {"lr": self._get_lr(index), "wd": self._get_wd(index)}
        options.update(rescale_grad=self.rescale_grad, clip_gradient=self.clip_gradient or -1.0)
        if state is None:
            mx.nd.sgd_update(weight, grad, out=weight, **options)
        else:
            mx.nd.sgd_mom_update(weight, grad, state, out=weight, momentum=self.momentum, **options)


#: the optimizer's name in MXNet's registry
NAME = MxrcnnSGD.__name__.lower()


def optimizer_options(
    train: TrainConfig, schedule: Schedule, step: int, parts: int, updates_a_step: int
) -> dict[str, Any]:
    """The arguments of `make_optimizer` as plain values that fit into JSON.

    step: steps already done. parts: how many gradients are added up, each that of the mean over its
    part of the batch. updates_a_step: updates of each parameter per step.
    """
    return {
        "schedule": dataclasses.asdict(schedule),
        "updates_a_step": updates_a_step,
        "momentum": train.momentum,
        "wd": train.weight_decay,
        "clip_gradient": train.clip_gradient or None,
        "rescale_grad": 1.0 / parts,
        "begin_num_update": step * updates_a_step,
    }


def optimizer_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as keyword arguments of MXNet's optimizer."""
    options = dict(options)
    schedule = Schedule(**options.pop("schedule"))
    scheduler = _Scheduler(schedule, options.pop("updates_a_step"))
    return {**options, "learning_rate": schedule.lr, "lr_scheduler": scheduler}


def make_optimizer(names: Sequence[str], options: Mapping[str, Any]) -> mx.optimizer.Optimizer:
    """The optimizer for these parameters; MXNet numbers them in this order."""
    by_number = dict(enumerate(names))
    return mx.optimizer.create(NAME, param_idx2name=by_number, **optimizer_params(options))
