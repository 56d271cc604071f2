"""What a network can learn from: the objects that its anchors, or FCOS's points, reach.

Letters: K objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mxrcnn.config import Config
from mxrcnn.data.check.anchors import best_overlaps
from mxrcnn.data.check.objects import Objects
from mxrcnn.data.check.suggest import Suggestion, suggest
from symnet.config.fcos import FCOSConfig
from symnet.geometry.targets import PointMatching, match_points

#: images that FCOS's points are matched in, at most
MOST_IMAGES = 2_000


@dataclass(frozen=True)
class PointReach:
    """What FCOS's points reach.

    levels: level -> share of the objects that are of its size. matched: share of the objects that
    have a point, measured in `images` images.
    """

    levels: dict[str, float]
    matched: float
    images: int


def point_reach(model: FCOSConfig, objects: Objects) -> PointReach:
    """Which objects FCOS can learn: an object without a point is background to it."""
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


@dataclass(frozen=True)
class Reach:
    """Which objects a network reaches.

    overlaps: largest IoU (K,) of each object with an anchor. suggestion: better anchors, if any
    were found. points: for FCOS, which has no anchors.
    """

    network: str
    overlaps: np.ndarray
    suggestion: Suggestion | None
    points: PointReach | None


def find_reach(config: Config, objects: Objects, training: Objects) -> Reach:
    """Which objects a network reaches; better anchors are sought for the training objects."""
    model = config.model
    if hasattr(model, "points"):
        return Reach(config.network, np.zeros(0), None, point_reach(model, objects))
    inside_only = getattr(getattr(model, "form", None), "rpn_inside_only", False)
    overlaps = best_overlaps(model.anchors, objects, inside_only)
    best = suggest(model, training)
    if best is not None and training is not objects:
        anchors = replace(model, **best.settings).anchors
        best = replace(best, overlaps=best_overlaps(anchors, objects, inside_only))
    return Reach(config.network, overlaps, best, None)
