"""Which objects a network's anchors can reach, and which anchors would suit them better.

Letters: K objects of a data set, A anchors a position, L levels. Boxes are xyxy in network pixels.

An anchor of given sides overlaps an object most at the position of its grid that is nearest to the
object's centre, in x and in y independently, as the shared area is the product of two lengths. So
the best overlap of an object needs no grid: one position for each of the A shapes and L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from symnet.classic import OFFSET
from symnet.config.classic import STRIDE
from symnet.config.fcos import FCOSConfig
from symnet.geometry.anchors import AnchorSpec, ClassicLevels, PyramidAnchors, pyramid_sizes
from symnet.geometry.targets import PointMatching, match_points

#: the first and last position (K, A) of anchors along an axis
_Range = tuple[np.ndarray, np.ndarray]

#: overlaps at which coverage is told
THRESHOLDS = (0.5, 0.7)
#: objects that suggestions are made from, and images that FCOS's points are matched in
MOST_OBJECTS, MOST_IMAGES = 5_000, 2_000
#: factors that a scale or ratio is tried with, one after the other, and how often all of them are
STEPS, ROUNDS = (0.8, 0.9, 0.95, 1.05, 1.1, 1.25), 6


@dataclass(frozen=True)
class Objects:
    """Objects as the network sees them.

    boxes (K, 4) float32; image (K,) index of the image; size (K, 2) its height and width without
    padding; padded (K, 2) with it; classes (K,) index into all class names.
    """

    boxes: np.ndarray
    image: np.ndarray
    size: np.ndarray
    padded: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Any) -> Objects:
        return Objects(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    @property
    def sides(self) -> np.ndarray:
        """Widths and heights (K, 2)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]


@dataclass(frozen=True)
class _Level:
    """Anchors of a level: base (A, 4) at its first position; step and count (K, 2) of y and x."""

    base: np.ndarray
    step: np.ndarray
    count: np.ndarray


def _levels(anchors: Any, objects: Objects) -> Iterator[_Level]:
    """The levels of a network's anchors in the objects' images."""
    padded = objects.padded
    if isinstance(anchors, PyramidAnchors):
        sizes = pyramid_sizes(padded[:, 0], padded[:, 1], len(anchors.sizes))
        for level, size in enumerate(sizes):
            count = np.stack(size, axis=1)
            yield _Level(anchors.base(level), padded // count, count)
        return
    for spec in anchors.levels if isinstance(anchors, ClassicLevels) else (anchors,):
        step = np.full(padded.shape, spec.stride)
        yield _Level(spec.base(), step, -(-padded // spec.stride))


def anchor_sides(anchors: Any) -> np.ndarray:
    """Widths and heights (A * L, 2) of all anchors of a network, in network pixels."""
    nobody = np.zeros((0, 2), np.int64)
    nothing = Objects(np.zeros((0, 4), np.float32), nobody[:, 0], nobody, nobody, nobody[:, 0])
    base = np.concatenate([level.base for level in _levels(anchors, nothing)])
    inclusive = 0 if isinstance(anchors, PyramidAnchors) else OFFSET
    return base[:, 2:] - base[:, :2] + inclusive


def best_overlaps(anchors: Any, objects: Objects, inside_only: bool = False) -> np.ndarray:
    """The largest IoU (K,) that any anchor of its image has with each object.

    The rules are those of the RPN's targets: the classic networks count a width as x2 - x1 + 1 and
    leave out anchors that cross the image's border, unless all do; with inside_only all networks
    leave those out.
    """
    classic = isinstance(anchors, AnchorSpec)
    levels = list(_levels(anchors, objects))
    axes = [tuple(_Axis.of(level, objects, axis) for axis in (0, 1)) for level in levels]
    ranges = [tuple(axis.everywhere() for axis in both) for both in axes]
    if classic or inside_only:
        ranges = _inside_ranges(axes)
    best = np.zeros(len(objects))
    for parts in zip(levels, axes, ranges):
        overlaps = _level_overlaps(objects, *parts, classic)
        best = np.maximum(best, overlaps.max(axis=1, initial=0))
    return best


def _inside_ranges(axes: list[tuple[_Axis, _Axis]]) -> list[tuple[_Range, _Range]]:
    """For each level, of y and x: the positions at which its anchors are inside the image.

    Those at which they touch it, for images in which no anchor of any level is inside.
    """
    inside = [tuple(axis.inside() for axis in both) for both in axes]
    fits = [
        ((y_low <= y_high) & (x_low <= x_high)).any(axis=1)
        for (y_low, y_high), (x_low, x_high) in inside
    ]
    none = ~np.any(fits, axis=0)[:, None]
    return [
        tuple(
            tuple(np.where(none, there, here) for there, here in zip(axis.touching(), found))
            for axis, found in zip(both, level)
        )
        for both, level in zip(axes, inside)
    ]


def _level_overlaps(
    objects: Objects,
    level: _Level,
    axes: tuple[_Axis, _Axis],
    ranges: tuple[_Range, _Range],
    classic: bool,
) -> np.ndarray:
    """IoU (K, A) of each object with each anchor of a level at its best position."""
    offset = OFFSET if classic else 0
    shared = np.ones((len(objects), len(level.base)))
    for axis, (low, high) in zip(axes, ranges):
        shared *= axis.shared(low, high, offset)
    sides = level.base[:, 2:] - level.base[:, :2] + offset
    union = np.prod(objects.sides + offset, axis=1)[:, None] + np.prod(sides, axis=1) - shared
    return shared / union


@dataclass(frozen=True)
class _Axis:
    """Objects (K, 1) and anchors (A,) along x or y: where they begin and end; the grid's step,
    count and the image's end (K, 1). Position p moves an anchor by p steps."""

    begin: np.ndarray
    end: np.ndarray
    base_begin: np.ndarray
    base_end: np.ndarray
    step: np.ndarray
    count: np.ndarray
    limit: np.ndarray

    @classmethod
    def of(cls, level: _Level, objects: Objects, axis: int) -> _Axis:
        """Axis 0 is y, 1 is x."""
        x = 1 - axis
        columns = objects.boxes[:, x], objects.boxes[:, x + 2]
        grid = level.step[:, axis], level.count[:, axis], objects.size[:, axis]
        begin, end = (column[:, None].astype(np.float64) for column in columns)
        base = level.base.astype(np.float64)
        return cls(begin, end, base[:, x], base[:, x + 2], *(value[:, None] for value in grid))

    def everywhere(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and last position (K, A) of the grid."""
        shape = (len(self.begin), len(self.base_begin))
        return np.zeros(shape), np.broadcast_to(self.count - 1, shape)

    def inside(self) -> tuple[np.ndarray, np.ndarray]:
        """Those at which the anchor begins at 0 or later and ends before the limit."""
        low, high = self.everywhere()
        first = np.ceil(-self.base_begin / self.step)
        last = np.ceil((self.limit - self.base_end) / self.step) - 1
        return np.maximum(low, first), np.minimum(high, last)

    def touching(self) -> tuple[np.ndarray, np.ndarray]:
        """Those at which the anchor ends at 0 or later and begins before the limit."""
        low, high = self.everywhere()
        first = np.ceil(-self.base_end / self.step)
        last = np.ceil((self.limit - self.base_begin) / self.step) - 1
        return np.maximum(low, first), np.minimum(high, last)

    def shared(self, low: np.ndarray, high: np.ndarray, offset: float) -> np.ndarray:
        """The length (K, A) shared at the best position of low..high; 0 where there is none."""
        centred = (self.begin + self.end - self.base_begin - self.base_end) / (2 * self.step)
        moved = np.clip(np.round(centred), low, high) * self.step
        length = np.minimum(self.end, self.base_end + moved)
        length -= np.maximum(self.begin, self.base_begin + moved)
        return np.where(low <= high, np.maximum(length + offset, 0), 0)


def coverage(overlaps: np.ndarray) -> dict[str, float]:
    """The share of objects whose overlap (K,) reaches each of THRESHOLDS; NaN for no objects."""
    return {
        f"{at:g}": float((overlaps >= at).mean()) if len(overlaps) else float("nan")
        for at in THRESHOLDS
    }


# Suggestions


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
    """Ways to put k centres among positive values, by name: all on a logarithmic scale."""
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
    """Anchors that reach more objects: settings of the model, how found, best overlaps (K,)."""

    settings: dict[str, tuple[float, ...]]
    how: str
    overlaps: np.ndarray

    def words(self) -> str:
        """As for --set."""
        return " ".join(
            f"{name}={','.join(f'{value:g}' for value in values)}"
            for name, values in self.settings.items()
        )


def suggest(model: Any, objects: Objects) -> Suggestion | None:
    """As many anchors as the model has, where its objects are; None if nothing reaches more.

    Square roots of areas, and ratios of height to width, are each gathered into as many centres as
    there are scales (sizes) and ratios, in a few ways. Of all pairs of ways, and the own anchors,
    the one with the largest coverage (the mean over THRESHOLDS) is taken; then each number of
    it is moved by STEPS for as long as that helps.
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
    """Settings whose numbers were moved, one at a time, for as long as the score rose."""
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


# FCOS


@dataclass(frozen=True)
class PointReach:
    """FCOS: by level the share of objects of its size, the share of objects that have a point, and
    whether each object (K,) of the images that were looked at has one."""

    levels: dict[str, float]
    matched: float
    images: int


def point_reach(model: FCOSConfig, objects: Objects) -> PointReach:
    """What FCOS learns from: an object without a point is background to it."""
    strides = np.array(model.points.strides)
    longest = objects.sides.max(axis=1, initial=0) / 2
    level = np.searchsorted(strides[:-1] * model.size_range[1], longest)
    shares = np.bincount(level, minlength=len(strides)) / max(1, len(objects))
    images = np.unique(objects.image)
    if len(images) > MOST_IMAGES:
        images = images[np.linspace(0, len(images) - 1, MOST_IMAGES).astype(int)]
    rule = PointMatching(tuple(model.size_range), model.center_sampling_radius)
    found, total = 0, 0
    for image in images:
        here = objects[objects.image == image]
        points, levels = model.points.grid(*here.padded[0].tolist())
        matched = match_points(points, levels, strides, here.boxes, rule)
        found += len(np.unique(matched[matched >= 0]))
        total += len(here)
    names = [f"stride {stride}" for stride in strides]
    share = found / total if total else float("nan")
    return PointReach(dict(zip(names, shares.tolist())), share, len(images))
