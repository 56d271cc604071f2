"""Arithmetic of a training's time: what it takes, and what fits into a given time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mxrcnn.training.choose.recipes import ENOUGH_UPDATES, SLOWER, VAL_TIME, VALIDATIONS


@dataclass(frozen=True)
class Measured:
    """What was measured, in seconds, and in bytes of memory.

    step: one update. start: from opened data to the end of the first update. checkpoint: writing
    one. image, validation: validating one image, and what each validation takes besides. allowed:
    the memory that training may take.
    """

    step: float
    start: float = 0.0
    checkpoint: float = 0.0
    image: float = 0.0
    validation: float = 0.0
    memory: int = 0
    allowed: int = 0


@dataclass(frozen=True)
class Job:
    """The size of a training. every: epochs between validations; 0: none."""

    steps: int
    val_images: int = 0
    every: int = 1

    def validations(self, epochs: int) -> int:
        """How many validations there are; the last epoch always has one."""
        return -(-epochs // self.every) if self.val_images and self.every else 0

    def validation(self, measured: Measured) -> float:
        """The seconds of one validation."""
        return measured.validation + self.val_images * measured.image

    def seconds(self, epochs: int, measured: Measured) -> float:
        """The seconds of the whole training."""
        trained = epochs * (self.steps * measured.step + measured.checkpoint)
        validated = self.validations(epochs) * self.validation(measured)
        return measured.start + trained + validated

    def most_epochs(self, measured: Measured, limit: float, most: int) -> int:
        """The most epochs, at most `most`, that end within `limit` seconds; 0 if none does."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.seconds(middle, measured) <= limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def spaced(self, epochs: int, measured: Measured) -> Job:
        """The same with validations that take at most VAL_TIME of training, at most VALIDATIONS."""
        if not self.val_images:
            return self
        epoch = self.steps * measured.step + measured.checkpoint
        by_time = self.validation(measured) / max(1e-9, VAL_TIME * epoch)
        every = max(-(-epochs // VALIDATIONS), int(-(-by_time // 1)), 1)
        return replace(self, every=min(every, max(1, epochs)))


def pick_side(
    sides: Sequence[int],
    wanted: int,
    updates: int,
    seconds: Callable[[int, float], float],
    limit: float,
    strict: bool,
) -> int:
    """The side of network images, from `sides`, in ascending order.

    The largest from `wanted` on at which `updates` end within `limit` seconds. If none does:
    `wanted`, or, if the limit is strict, the largest at which ENOUGH_UPDATES of them do, else the
    smallest. seconds(side, updates): what training takes.
    """
    fitting = [side for side in sides if side >= wanted and seconds(side, updates) <= limit]
    if fitting:
        return fitting[-1]
    if not strict:
        return wanted
    few = ENOUGH_UPDATES * updates
    fitting = [side for side in sides if side <= wanted and seconds(side, few) <= limit]
    return fitting[-1] if fitting else sides[0]


class Pace:
    """Notices, once, that a training is slower than was expected.

    expected: the seconds of the whole command, which began at `began` (time.monotonic()). epochs:
    all of them, of which the first starts now. clock: for tests.
    """

    def __init__(
        self,
        expected: float,
        began: float,
        epochs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected, self._epochs, self._clock = expected, epochs, clock
        self._began, self._start, self._told = began, clock(), False

    def __call__(self, done: int) -> str:
        """A line for the user after so many epochs, or ""."""
        now = self._clock()
        epoch = (now - self._start) / done
        whole = self._start - self._began + epoch * self._epochs
        if self._told or done == self._epochs or whole <= SLOWER * self._expected:
            return ""
        self._told = True
        fits = int((self._began + self._expected - self._start) / epoch)
        line = f"slower than measured: {span(whole)} in all instead of {span(self._expected)}"
        if done < fits < self._epochs:
            line += f"; Ctrl-C, then --resume with --epochs {fits}, ends in time"
        return line


def span(seconds: float) -> str:
    """A time for people: 45 s, 34 minutes, 2.5 hours, 3.1 days."""
    for unit, size, least in (("days", 86400, 172800), ("hours", 3600, 7200), ("minutes", 60, 100)):
        if seconds >= least:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
