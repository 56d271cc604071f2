"""Checks of settings that need the network or the classes of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mxrcnn.config import Config, ConfigError
from symnet.detector import DetectorDef


def check_masks(config: Config, detector: DetectorDef) -> None:
    """ConfigError if a detector needs masks and the data section does not provide them."""
    if "gt_masks" not in detector.data_names:
        return
    if not config.data.masks:
        raise ConfigError(f"data.masks=False: {config.network} learns from masks")
    if config.model.mini_mask != config.data.mini_mask:
        raise ConfigError(
            f"model.mini_mask={config.model.mini_mask} and data.mini_mask={config.data.mini_mask} "
            "must be the same"
        )


def check_fixed(config: Config, names: Sequence[str], fixed: Sequence[str]) -> None:
    """ConfigError if a prefix in train.fixed matches no parameter, or if all are frozen."""
    for prefix in config.train.fixed:
        if not any(name.startswith(prefix) for name in names):
            some = ", ".join(dict.fromkeys(name.rpartition("_")[0] for name in names))
            raise ConfigError(
                f"train.fixed={prefix!r}: no parameter of {config.network} starts with it; its "
                f"layers are {some[:200]}{'...' if len(some) > 200 else ''}"
            )
    if len(fixed) == len(names):
        raise ConfigError(f"train.fixed={config.train.fixed!r}: nothing is left to train")


def class_weight_table(config: Config) -> tuple[float, ...]:
    """The weights of train.class_weights by class id, 1 where none is given; () if there are none.

    Raises ConfigError for words that are not NAME:WEIGHT, unknown names and names given twice.
    """
    names, table = config.data.class_names, {}
    for word in config.train.class_weights:
        name, _, text = word.rpartition(":")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        where = f"train.class_weights={word!r}"
        if not name or not 0 <= weight < math.inf:
            raise ConfigError(f"{where}: expected NAME:WEIGHT, with a finite weight from 0")
        if name not in names:
            raise ConfigError(f"{where}: no such class; there are {', '.join(names)}")
        if name in table:
            raise ConfigError(f"{where}: {name} has a weight already")
        table[name] = weight
    return (1.0, *(table.get(name, 1.0) for name in names)) if table else ()
