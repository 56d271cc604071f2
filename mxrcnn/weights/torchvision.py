"""torchvision's detectors: their parameters under this toolkit's names, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: endings of a normalisation's entries; a layer that has running statistics is one
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}


#: endings of names here, and torchvision's
_ENDINGS = {
    **{f"_{ours}": f".{theirs}" for theirs, ours in _NORM.items()},
    "_weight": ".weight",
    "_bias": ".bias",
}


def torchvision_name(name: str) -> str:
    """torchvision's name of a parameter of a pyramid detector; StopIteration if it is none."""
    ending = next(ending for ending in _ENDINGS if name.endswith(ending))
    return name[: -len(ending)] + _ENDINGS[ending]


def from_torchvision(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of a torchvision detector (names -> arrays) by names of the symbols here.

    The layers' names stay; `.weight` becomes `_weight`, and a batch norm's entries become `_gamma`,
    `_beta`, `_moving_mean`, `_moving_var`. So does a group norm's, known by a weight of one
    dimension. Counters of batches are left out.
    """
    out = {}
    for name, value in state.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        normalises = np.ndim(state.get(f"{layer}.weight")) == 1
        out[f"{layer}_{_NORM[leaf] if normalises else leaf}"] = value
    return out
