"""What a file of parameters was found to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

#: ImageNet's mean and standard deviation as torchvision and gluoncv have them, for pixels 0-255
IMAGENET = {
    "data.mean": (123.675, 116.28, 103.53),
    "data.std": (58.395, 57.12, 57.375),
}


@dataclass(frozen=True)
class Source:
    """A file's parameters under this toolkit's names, and what they need to be right.

    title: what it is, for people. networks: the networks that can take it, the usual one first, and
    the settings (`section.field`) that each needs, besides its number of classes. params: by names
    here. origin: the name or names in the file, of each. left_out: entries that have no place, and
    why not. num_classes: with background, of a detector; 0 of a classifier, which only has a body.
    told: what to tell. rgb: whether files of this kind are known to expect RGB. by_category: the
    same file, read as a detector of COCO's 80 categories, if its 90 classes may be COCO's ids.
    """

    title: str
    networks: Mapping[str, Mapping[str, Any]]
    params: Mapping[str, np.ndarray]
    origin: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    num_classes: int = 0
    told: tuple[str, ...] = ()
    rgb: bool = True
    by_category: Source | None = None


def fold_norm(
    kernel: np.ndarray, bias: np.ndarray, statistics: Sequence[np.ndarray], eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (..., outputs) and bias (outputs,) of a layer together with its normalisation.

    statistics: gamma, beta and the stored mean and variance (outputs,).
    """
    gamma, beta, mean, var = statistics
    scale = gamma / np.sqrt(var + eps)
    return kernel * scale, beta + (bias - mean) * scale


def unused(arrays: Arrays, origin: Mapping[str, str]) -> list[str]:
    """The entries of a file that no parameter comes from, in the file's order."""
    taken = {name for names in origin.values() for name in names.split(" ")}
    return [name for name in arrays if name not in taken]
