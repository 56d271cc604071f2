"""Which anchors would reach more objects than a network's own.

Letters: K objects. Sizes are square roots of areas in network pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from mxrcnn.data.check.anchors import best_overlaps, coverage
from mxrcnn.data.check.objects import Objects
from symnet.config.classic import STRIDE

#: objects that suggestions are made from, at most
MOST_OBJECTS = 5_000
#: factors that each scale and ratio is tried with, and how often all of them are tried
STEPS, ROUNDS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25), 6


def kmeans(values: np.ndarray, k: int, rounds: int = 50) -> np.ndarray:
    """Centres (k,), ascending, of values (K,) on a line: Lloyd's algorithm from their quantiles."""
    centres = np.quantile(values, (np.arange(k) + 0.5) / k)
    for _ in range(rounds):
        borders = (centres[1:] + centres[:-1]) / 2
        group = np.searchsorted(borders, values)
        count = np.bincount(group, minlength=k)
        total = np.bincount(group, values, minlength=k)
        moved = np.where(count > 0, total / np.maximum(count, 1), centres)
        if np.allclose(moved, centres):
            break
        centres = np.sort(moved)
    return centres


def _spreads(values: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Name of a way to cluster -> its k centres of positive values, on a logarithmic scale."""
    logs = np.log(values)
    low, high = np.quantile(logs, (0.02, 0.98))
    steps = (np.arange(k) + 0.5) / k
    ways = {
        "k-means": kmeans(logs, k),
        "quantiles": np.quantile(logs, steps),
        "even steps": low + steps * (high - low),
    }
    return {name: np.exp(centres) for name, centres in ways.items()}


def _rounded(values: Sequence[float], digits: int) -> tuple[float, ...]:
    return tuple(float(f"{value:.{digits}g}") for value in values)


@dataclass(frozen=True)
class Suggestion:
    """Anchors that reach more objects: model settings, how they were found, best overlaps (K,)."""

    settings: dict[str, tuple[float, ...]]
    how: str
    overlaps: np.ndarray

    def words(self) -> str:
        """The settings as words for --set."""
        return " ".join(
            f"{name}={','.join(f'{value:g}' for value in values)}"
            for name, values in self.settings.items()
        )


def suggest(model: Any, objects: Objects) -> Suggestion | None:
    """Anchors for these objects, as many as the model has; None if nothing reaches more.

    Sizes and ratios (height / width) of the objects are clustered in a few ways, into as many
    centres as the model has scales (or sizes) and ratios. The start is the pair of ways, or the
    model's own anchors, with the largest coverage, the mean over THRESHOLDS. Then each number is
    moved by STEPS for as long as coverage grows.
    """
    if len(objects) == 0:
        return None
    some = objects
    if len(objects) > MOST_OBJECTS:
        some = objects[np.linspace(0, len(objects) - 1, MOST_OBJECTS).astype(int)]
    widths, heights = np.maximum(some.sides, 1e-3).T
    in_pixels = hasattr(model, "anchor_sizes")  # else in strides
    name = "anchor_sizes" if in_pixels else "anchor_scales"
    unit = 1 if in_pixels else STRIDE
    sizes = _spreads(np.sqrt(widths * heights) / unit, len(getattr(model, name)))
    ratios = _spreads(heights / widths, len(model.anchor_ratios))
    own = {key: tuple(getattr(model, key)) for key in (name, "anchor_ratios")}
    inside_only = getattr(getattr(model, "form", None), "rpn_inside_only", False)

    def score(settings: dict[str, Any]) -> float:
        overlaps = best_overlaps(replace(model, **settings).anchors, some, inside_only)
        return float(np.mean(list(coverage(overlaps).values())))

    tried = {"the anchors as they are": own}
    for (size_way, size), (ratio_way, ratio) in product(sizes.items(), ratios.items()):
        settings = {name: _rounded(size, 3), "anchor_ratios": _rounded(ratio, 2)}
        tried[f"{size_way} of sizes, {ratio_way} of ratios"] = settings
    how = max(tried, key=lambda way: score(tried[way]))
    settings = _climb(tried[how], score)
    if score(settings) <= score(own):
        return None
    overlaps = best_overlaps(replace(model, **settings).anchors, objects, inside_only)
    return Suggestion(settings, f"{how}, moved in steps", overlaps)


def _climb(
    settings: dict[str, tuple[float, ...]], score: Callable[[dict[str, Any]], float]
) -> dict[str, tuple[float, ...]]:
    """The settings after moving one number at a time for as long as the score rises."""
    best = score(settings)
    for _ in range(ROUNDS):
        before = best
        places = [(name, i) for name, values in settings.items() for i in range(len(values))]
        for (name, i), step in product(places, STEPS):
            values = list(settings[name])
            values[i] = float(f"{values[i] * step:.3g}")
            moved = {**settings, name: tuple(sorted(values))}
            reached = score(moved)
            if reached > best:
                settings, best = moved, reached
        if best == before:
            break
    return settings
