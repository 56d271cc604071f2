"""Training metrics, read from the device a few steps late so that the device never waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mxrcnn.data.records import ImageId
from symnet.machine import mx

#: the newest steps, which are not read because the device may still be computing them
IN_FLIGHT = 2
#: the number of unread steps from which `add` starts to read
MOST_WAITING = 10


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names the step, the images and the loss."""


@dataclass(frozen=True)
class _Step:
    step: int
    image_ids: tuple[ImageId, ...]
    names: tuple[str, ...]
    values: mx.nd.NDArray


class RunningMetrics:
    """Means of the metrics over the steps since the last `take`."""

    def __init__(self, losses: Sequence[str]) -> None:
        self._losses = frozenset(losses)
        self._waiting: list[_Step] = []
        self._totals: dict[str, np.ndarray] = {}

    def add(
        self,
        step: int,
        image_ids: tuple[ImageId, ...],
        pairs: dict[str, list[tuple[mx.nd.NDArray, mx.nd.NDArray]]],
    ) -> None:
        """Queue one step's pairs (sum, count), one per device, without waiting for them."""
        arrays = [array.as_in_context(mx.cpu()) for ps in pairs.values() for p in ps for array in p]
        values = mx.nd.concat(*arrays, dim=0)
        self._waiting.append(_Step(step, image_ids, tuple(pairs), values))
        if len(self._waiting) > MOST_WAITING:  # each keeps its batch's arrays in memory
            self.absorb()

    def absorb(self, everything: bool = False) -> None:
        """Add queued steps to the totals; the newest IN_FLIGHT only with `everything`.

        Raises NonFiniteLossError for the first step with a loss that is not finite.
        """
        ready = len(self._waiting) if everything else max(0, len(self._waiting) - IN_FLIGHT)
        for noted in self._waiting[:ready]:
            values = noted.values.asnumpy().reshape(len(noted.names), -1, 2).sum(axis=1)
            for name, pair in zip(noted.names, values.astype(np.float64)):
                if name in self._losses and not np.isfinite(pair).all():
                    raise NonFiniteLossError(
                        f"{name} is {pair[0] / max(pair[1], 1)} at step {noted.step}, images: "
                        + ", ".join(map(str, noted.image_ids))
                    )
                self._totals[name] = self._totals.get(name, 0) + pair
        del self._waiting[:ready]

    @property
    def has_news(self) -> bool:
        """True if any step was absorbed since the last `take`."""
        return bool(self._totals)

    def take(
        self, total: Callable[[str, mx.nd.NDArray], mx.nd.NDArray] | None = None
    ) -> dict[str, float | None]:
        """The means since the last `take`, over all workers if `total` is Workers.total.

        None for a metric without samples, or with a mean that is not finite (losses raise before).
        """
        names, pairs = list(self._totals), np.array(list(self._totals.values()))
        self._totals = {}
        if total is not None and names:
            pairs = total("metrics", mx.nd.array(pairs)).asnumpy().astype(np.float64)
        return {
            name: float(s / c) if c and np.isfinite(s) else None
            for name, (s, c) in zip(names, pairs)
        }
