"""The paired bootstrap over images: intervals, verdicts, and how many images would do.

Letters: N images, K classes, M metrics, R resamples.
Images are drawn, not objects: the objects of an image share its light, blur and crowding, so they
are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from tqdm import tqdm

from mxrcnn.evaluation.curves import Curves
from mxrcnn.tables import plain

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0
#: no interval is given for a number that rests on the objects of fewer images
FEWEST_IMAGES = 5
#: the chance to tell a difference that `images_needed` aims at
POWER = 0.8
_CELLS = 1 << 21  # detections or images, times resamples, in memory at once
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error and its interval; low and high are NaN if none can be given."""

    value: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether an interval can be given."""
        return not math.isnan(self.low)

    @property
    def sign(self) -> int:
        """1 if the interval is above 0, -1 if it is below, else 0: nothing can be told."""
        return int(self.low > 0) - int(self.high < 0)

    def to_json(self) -> dict[str, Any]:
        """value, interval [low, high] or null, standard_error."""
        interval = [self.low, self.high] if self.has_interval else None
        return plain({"value": self.value, "interval": interval, "standard_error": self.error})


def draws(images: int, resamples: int, seed: int, at_once: int) -> Iterator[np.ndarray]:
    """Weights (N, r) int32, r at most at_once: how often each image is in each of r resamples.

    A resample has N images, drawn with replacement. The draws do not depend on at_once.
    """
    rng = np.random.default_rng(seed)
    chances = np.full(images, 1 / images)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        yield np.ascontiguousarray(rng.multinomial(images, chances, count).T, np.int32)


def bias_corrected(
    samples: np.ndarray, value: float, images: int, level: float = LEVEL
) -> tuple[float, float]:
    """The bias-corrected percentile interval of bootstrap samples (R,) around an estimate.

    Efron (1981), "Nonparametric standard errors and confidence intervals": if a share p of the
    samples is below the estimate (those equal to it count half), the percentiles taken are those of
    2 z(p) -+ e under the normal distribution. p is kept within half a sample of 0 and 1.
    A bootstrap of few images is too narrow. So e is not the normal 1.96 but Student's t times
    sqrt(n / (n - 1)) for the n images that have objects to find, and percentiles are those of R + 1
    (Hesterberg 2015, "What teachers should know about the bootstrap", expanded percentiles).
    """
    count = len(samples)
    below = ((samples < value).sum() + (samples == value).sum() / 2) / count
    shift = 2 * _NORMAL.inv_cdf(min(max(below, 0.5 / count), 1 - 0.5 / count))
    edge = student_t((1 + level) / 2, images - 1) * math.sqrt(images / (images - 1))
    ends = [_NORMAL.cdf(shift - edge), _NORMAL.cdf(shift + edge)]
    low, high = np.quantile(samples, ends, method="weibull")
    return float(low), float(high)


def student_t(share: float, freedom: int) -> float:
    """The quantile of Student's t, by its expansion around the normal one.

    Abramowitz and Stegun (1964), 26.7.5; at 97.5 % it is right to 0.01 from 4 degrees of freedom.
    """
    z = _NORMAL.inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def bootstrap(
    sides: Sequence[Curves], resamples: int = RESAMPLES, seed: int = SEED
) -> list[list[Estimate]]:
    """Estimates by row (0: the mean over classes, then classes) and metric.

    sides: one detector, for its own numbers; or two on the same images, for second minus first,
    with the same draws for both. There is no interval where objects to find are in fewer than
    FEWEST_IMAGES images. A resample without any is left out. Time grows with detections times
    resamples; memory with classes times metrics times resamples, 8 bytes each. The rest of it is at
    most about 150 MB: resamples are computed in chunks.
    """
    first = sides[0]
    whole = _combined(sides, np.ones((first.images, 1), np.int32))[..., 0]
    longest = max(1, first.images, *(side.longest for side in sides))
    at_once = min(resamples, max(1, _CELLS // longest))
    samples = np.full((*whole.shape, resamples), np.nan)
    if (first.support >= FEWEST_IMAGES).any():
        done = 0
        with tqdm(total=resamples, desc="resamples", leave=False, disable=None) as bar:
            for weights in draws(first.images, resamples, seed, at_once):
                count = weights.shape[1]
                samples[..., done : done + count] = _combined(sides, weights)
                done += count
                bar.update(count)
    return [
        [_estimate(*cell) for cell in zip(values, rows, counts)]
        for values, rows, counts in zip(whole, samples, first.support)
    ]


def _combined(sides: Sequence[Curves], weights: np.ndarray) -> np.ndarray:
    values = [side.values(weights) for side in sides]
    return values[0] if len(values) == 1 else values[1] - values[0]


def _estimate(value: float, samples: np.ndarray, images: int) -> Estimate:
    """images: how many have objects to find."""
    value, samples = float(value), samples[~np.isnan(samples)]
    if images < FEWEST_IMAGES or math.isnan(value) or len(samples) < 2:
        return Estimate(value)
    ends = bias_corrected(samples, value, int(images))
    return Estimate(value, *ends, float(samples.std(ddof=1)))


def note_missing(estimates: Iterable[Estimate], what: str) -> list[str]:
    """A line that counts the measured numbers without an interval, if there are any.

    what: the numbers, such as "AP".
    """
    measured = [estimate for estimate in estimates if not math.isnan(estimate.value)]
    without = sum(not estimate.has_interval for estimate in measured)
    if not without:
        return []
    return [
        f"{without} of {len(measured)} {what} have no interval: fewer than {FEWEST_IMAGES} images "
        "have such objects"
    ]


def images_needed(difference: Estimate, images: int) -> int | None:
    """About how many images would tell a difference as large as this one; None if it is 0.

    The standard error e of N images shrinks with the square root of their number. A difference d is
    told at level 95 % with a chance of 80 % if d = (1.96 + 0.84) e', so about
    N ((1.96 + 0.84) e / d)^2 images are needed, at least N + 1. Rounded up to two digits: d itself
    is uncertain, and so is the number.
    """
    if not difference.has_interval or not difference.value or not difference.error:
        return None
    both = _NORMAL.inv_cdf((1 + LEVEL) / 2) + _NORMAL.inv_cdf(POWER)
    needed = images * (both * difference.error / difference.value) ** 2
    needed = max(needed, images + 1)
    unit = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * unit


def verdict(difference: Estimate, images: int, metric: str) -> str:
    """Whether B is better than A, in one sentence; metric: such as "AP"."""
    count = f"{images} image{'s' * (images != 1)}"
    if math.isnan(difference.value):
        return f"no {metric} can be compared: there are no objects to find in {count}"
    points = 100 * difference.value
    if not difference.has_interval:
        return (
            f"no interval can be given: fewer than {FEWEST_IMAGES} of {count} have objects to "
            f"find; B's {metric} is {points:+.1f} points from A's"
        )
    span = f"{points:+.1f} [{100 * difference.low:.1f}, {100 * difference.high:.1f}]"
    if difference.sign:
        better, factor = ("B", 100) if difference.sign > 0 else ("A", -100)
        ends = sorted((factor * difference.low, factor * difference.high))
        size = f"{factor * difference.value:.1f} [{ends[0]:.1f}, {ends[1]:.1f}]"
        return f"{better} is better by {size} {metric} points"
    needed = images_needed(difference, images)
    if needed is None:
        return f"no difference: both have the same {metric} in {count} ({span} points)"
    return (
        f"no difference can be told from {count} ({span} {metric} points); "
        f"about {needed:,} would do if the difference is as large as it looks"
    )
