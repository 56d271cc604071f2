"""Anchors fitted to a data set, for `mxrcnn train --anchors auto`."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mxrcnn.config import Config, ConfigError, override
from mxrcnn.data.check.anchors import coverage
from mxrcnn.data.check.objects import network_objects
from mxrcnn.data.check.reach import find_reach
from mxrcnn.data.records import Dataset


def check_anchors_request(config: Config, given: Collection[str]) -> None:
    """ConfigError if --anchors auto cannot be. given: the full names of the user's settings."""
    if not hasattr(config.model, "anchor_ratios"):
        raise ConfigError(f"--anchors auto: {config.network} has no anchors")
    both = sorted(name for name in given if name.startswith("model.anchor_"))
    if both:
        raise ConfigError(f"--anchors auto and {', '.join(both)}: give one of the two")


def fit_anchors(config: Config, dataset: Dataset) -> tuple[Config, str]:
    """The config with the anchors that `mxrcnn check` suggests for these objects, and a line.

    The number of anchors stays, so the parameters' shapes do.
    """
    names = dataset.class_names
    objects = network_objects(dataset.records, names, names, config)
    reach = find_reach(config, objects, objects)
    best = reach.suggestion
    own = _shares(reach.overlaps)
    if best is None:
        return config, f"--anchors auto: none were found that reach more than the network's: {own}"
    found = override(config, {f"model.{name}": value for name, value in best.settings.items()})
    words = f"--anchors auto: {best.words()}, from {len(objects)} objects"
    return found, f"{words}: {_shares(best.overlaps)} have an anchor; with the network's own {own}"


def _shares(overlaps: np.ndarray) -> str:
    """The shares of objects whose best overlap (K,) reaches some IoUs."""
    return " and ".join(f"{part:.1%} at IoU {at}" for at, part in coverage(overlaps).items())
