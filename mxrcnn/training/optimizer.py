"""The optimizers, for updates in the worker and on the servers alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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


class _Ours(mx.optimizer.Optimizer):
    """What our optimizers share: which parameters decay, and the arguments of MXNet's kernels.

    MXNet lets weights and the scales of norms (`_gamma`) decay, not biases. decay_norms: if False,
    the scales of norms don't either.
    """

    def __init__(self, decay_norms: bool = True, **options: Any) -> None:
        self._decay_norms = decay_norms
        super().__init__(**options)

    def set_wd_mult(self, args_wd_mult: Mapping[str, float]) -> None:
        """As MXNet's, which calls it in __init__."""
        norms = {} if self._decay_norms else {n for n in self.idx2name.values() if _is_scale(n)}
        super().set_wd_mult({**dict.fromkeys(norms, 0.0), **args_wd_mult})

    def _options(self, index: int) -> dict[str, float]:
        self._update_count(index)
        return {
            "lr": self._get_lr(index),
            "wd": self._get_wd(index),
            "rescale_grad": self.rescale_grad,
            "clip_gradient": self.clip_gradient or -1.0,
        }


def _is_scale(name: str) -> bool:
    return name.endswith("_gamma")


@mx.optimizer.Optimizer.register
class MxrcnnSGD(_Ours, mx.optimizer.SGD):
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
        options = self._options(index)
        if state is None:
            mx.nd.sgd_update(weight, grad, out=weight, **options)
        else:
            mx.nd.sgd_mom_update(weight, grad, state, out=weight, momentum=self.momentum, **options)


@mx.optimizer.Optimizer.register
class MxrcnnAdamW(_Ours):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    Equals torch.optim.AdamW: a step shrinks a weight by lr * wd, whatever its gradient is. MXNet's
    kernel has no bias correction, so lr and epsilon are corrected here.
    """

    def __init__(self, betas: Sequence[float] = (0.9, 0.999), **options: Any) -> None:
        super().__init__(**options)
        self.betas = tuple(betas)

    def create_state(self, index: int, weight: mx.nd.NDArray) -> tuple[mx.nd.NDArray, ...]:
        """Means of the gradient and of its square."""
        return tuple(mx.nd.zeros_like(weight) for _ in range(2))

    create_state_multi_precision = create_state

    def update_multi_precision(
        self,
        index: int,
        weight: mx.nd.NDArray,
        grad: mx.nd.NDArray,
        state: tuple[mx.nd.NDArray, mx.nd.NDArray],
    ) -> None:
        """Update a parameter and its two means. The updater calls this."""
        options = self._options(index)
        count = self._index_update_count[index]
        first, second = (1 - beta**count for beta in self.betas)
        lr = options.pop("lr")
        mx.nd.contrib.adamw_update(
            weight,
            grad,
            *state,
            out=weight,
            eta=1.0,
            lr=lr * math.sqrt(second) / first,
            wd=lr * options.pop("wd"),
            beta1=self.betas[0],
            beta2=self.betas[1],
            epsilon=1e-8 * math.sqrt(second),
            **options,
        )


@dataclasses.dataclass(frozen=True)
class _Kind:
    """An optimizer: its name in MXNet's registry, and the prefixes of its arrays' names."""

    name: str
    arrays: tuple[str, ...]


#: the optimizers by train.optimizer
KINDS = {
    "sgd": _Kind(MxrcnnSGD.__name__.lower(), ("",)),
    "adamw": _Kind(MxrcnnAdamW.__name__.lower(), ("mean:", "var:")),
}


def optimizer_options(
    train: TrainConfig, schedule: Schedule, step: int, parts: int, updates_a_step: int
) -> dict[str, Any]:
    """The arguments of `make_optimizer` as plain values that fit into JSON.

    step: steps already done. parts: how many gradients are added up, each that of the mean over its
    part of the batch. updates_a_step: updates of each parameter per step.
    """
    own = {"sgd": {"momentum": train.momentum}, "adamw": {"betas": train.betas}}
    return {
        "schedule": dataclasses.asdict(schedule),
        "updates_a_step": updates_a_step,
        **own[train.optimizer],
        "wd": train.weight_decay,
        "decay_norms": train.decay_norms,
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


def make_optimizer(
    kind: str, names: Sequence[str], options: Mapping[str, Any]
) -> mx.optimizer.Optimizer:
    """The optimizer for these parameters; MXNet numbers them in this order."""
    by_number = dict(enumerate(names))
    name = KINDS[kind].name
    return mx.optimizer.create(name, param_idx2name=by_number, **optimizer_params(options))


def named_arrays(kind: str, name: str, state: Any) -> dict[str, mx.nd.NDArray]:
    """A parameter's arrays in the optimizer, by the names that `find_arrays` takes."""
    state = state if isinstance(state, tuple) else () if state is None else (state,)
    return {prefix + name: array for prefix, array in zip(KINDS[kind].arrays, state)}


def find_arrays(kind: str, name: str, arrays: Mapping[str, mx.nd.NDArray], context: Any) -> Any:
    """The inverse of `named_arrays`: a parameter's state on a device; None if it is not there."""
    found = [arrays.get(prefix + name) for prefix in KINDS[kind].arrays]
    if any(array is None for array in found):
        return None
    found = [array.as_in_context(context) for array in found]
    return found[0] if len(found) == 1 else tuple(found)


#: elements that are added up in float32; `mx.nd.norm` of 1e8 elements is 15 % too small
_CHUNK = 1 << 16


def gradient_norm(grads: Sequence[mx.nd.NDArray]) -> float:
    """The Euclidean norm of all gradients together. Waits for them."""
    parts = []
    for grad in grads:
        flat = grad.reshape(-1)
        pieces = [flat[i : i + _CHUNK] for i in range(0, flat.size, _CHUNK)]
        parts += [mx.nd.dot(piece, piece) for piece in pieces]
    return math.sqrt(mx.nd.concat(*parts, dim=0).asnumpy().astype(np.float64).sum())


class NormClipper:
    """Stands in for MXNet's updater: limits the norm of the whole gradient, then updates.

    As torch's clip_grad_norm_: the gradient is multiplied by limit / (norm + 1e-6) if that is below
    1. Its elements are clipped after that.
    """

    def __init__(self, updater: mx.optimizer.Updater, limit: float) -> None:
        self._updater, self._limit = updater, limit
        self._norms: list[float] = []

    def __call__(
        self,
        indices: Sequence[int],
        grads: Sequence[mx.nd.NDArray],
        weights: Sequence[mx.nd.NDArray],
    ) -> None:
        """Update one device's parameters."""
        optimizer = self._updater.optimizer
        whole = optimizer.rescale_grad
        norm = whole * gradient_norm(grads)
        self._norms.append(norm)
        optimizer.rescale_grad = whole * min(1.0, self._limit / (norm + 1e-6))
        self._updater(indices, grads, weights)
        optimizer.rescale_grad = whole

    def take(self) -> dict[str, float]:
        """The mean norm since the last call, and the share of steps that were clipped."""
        norms, self._norms = np.array(self._norms), []
        if not len(norms):
            return {}
        return {"grad_norm": float(norms.mean()), "clipped": float((norms > self._limit).mean())}
