"""A moving average of the weights, which train.ema validates and saves in their place."""

from __future__ import annotations

from collections.abc import Mapping

from mxrcnn.runs.checkpoint import Params
from symnet.machine import mx


def ema_decay(decay: float, update: int) -> float:
    """The decay after update number `update`, counted from 1.

    It rises to `decay`, so that the first weights are soon forgotten, as in TensorFlow's
    ExponentialMovingAverage with num_updates.
    """
    return min(decay, (1 + update) / (10 + update))


class Average:
    """The moving averages of arrays, by name: average = decay * average + (1 - decay) * value."""

    def __init__(self, decay: float, first: Params) -> None:
        self._decay = decay
        self.arrays = {name: value.copy() for name, value in first.items()}

    def update(self, count: int, values: Mapping[str, mx.nd.NDArray]) -> None:
        """Average the values after update number `count`, counted from 1. Does not wait."""
        rate = 1 - ema_decay(self._decay, count)
        for name, average in self.arrays.items():
            value = values[name].as_in_context(average.context)
            # not decay * average + rate * value: rounding 1 - rate would scale the average
            way = value - average
            mx.nd.sgd_update(average, way, out=average, lr=rate, wd=0.0, rescale_grad=-1.0)
