"""The description of a recognised parameter file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

#: why a classifier's last layer is not used
OWN_CLASSES = "the classifier's own classes"

#: ImageNet's mean and standard deviation as used by torchvision and gluoncv, for pixels 0-255
IMAGENET = {"data.mean": (123.675, 116.28, 103.53), "data.std": (58.395, 57.12, 57.375)}


@dataclass(frozen=True)
class Source:
    """A file's parameters under this toolkit's names, and the settings they need.

    title: what the file is, in words.
    networks: the networks that can use it, the most common one first, each with the settings
    (`section.field`) that it needs besides its number of classes.
    params: the parameters, by this toolkit's names.
    origin: for each of them, its name in the file, or several names joined by spaces.
    left_out: the file's entries that are not used, with the reason.
    num_classes: a detector's classes, background included; 0 for a classifier, which only provides
    a body.
    notes: messages for the user.
    rgb: True if files of this kind are known to expect RGB.
    by_category: the same file as a detector of COCO's 80 categories, if its 90 classes may be
    COCO's ids.
    """

    title: str
    networks: Mapping[str, Mapping[str, Any]]
    params: Mapping[str, np.ndarray]
    origin: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    num_classes: int = 0
    notes: tuple[str, ...] = ()
    rgb: bool = True
    by_category: Source | None = None


def fold_norm(
    kernel: np.ndarray, bias: np.ndarray, statistics: Sequence[np.ndarray], eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fold a batch normalisation into the layer before it; returns the new kernel and bias.

    kernel: (..., outputs). bias: (outputs,). statistics: gamma, beta, and the stored mean and
    variance, each (outputs,).
    """
    gamma, beta, mean, var = statistics
    scale = gamma / np.sqrt(var + eps)
    return kernel * scale, beta + (bias - mean) * scale


def unused(arrays: Arrays, origin: Mapping[str, str]) -> list[str]:
    """The file's entries that no parameter was made from, in the file's order."""
    taken = {name for names in origin.values() for name in names.split(" ")}
    return [name for name in arrays if name not in taken]


def left_out(
    arrays: Arrays, origin: Mapping[str, str], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Why entries are not used, by name; reasons: patterns of names -> reason."""
    return {
        name: reason
        for name in unused(arrays, origin)
        for pattern, reason in reasons.items()
        if re.search(pattern, name)
    }
