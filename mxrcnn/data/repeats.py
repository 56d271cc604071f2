"""Repeat-factor sampling: images with rare classes come more often (LVIS, Gupta et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mxrcnn.config import DataConfig
from mxrcnn.data.records import ImageRecord
from mxrcnn.data.transforms import trainable_objects


@dataclass(frozen=True)
class Repeats:
    """How often images come in an epoch, in the mean.

    images (I,): of each image; without objects it is 1. classes (C,): of each class.
    """

    images: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(
        cls, records: Sequence[ImageRecord], data: DataConfig, epoch: float | None = None
    ) -> Repeats:
        """max(1, sqrt(t / f)) of each class (formula 1), and the largest of each image's classes.

        t is data.repeat_thresh, f the share of the images that have the class. Objects that are not
        trained on do not count. epoch: the images of an epoch, if some without objects come less
        often than once.
        """
        there = [np.unique(r.classes[trainable_objects(r, data)]) for r in records]
        seen = np.bincount(np.concatenate([np.zeros(0, np.int64), *there]))
        share = np.maximum(seen, 1) / (epoch or len(records))
        classes = np.where(seen > 0, np.maximum(1, np.sqrt(data.repeat_thresh / share)), 1)
        images = np.array([classes[found].max(initial=1) for found in there])
        return cls(images, classes[1:])  # class 0 is the background

    def describe(self, class_names: Sequence[str]) -> str:
        """A line for the user."""
        more = np.flatnonzero(self.classes > 1)
        if not len(more):
            return "repeat_thresh: no class is rare enough to repeat its images"
        rarest = more[np.argsort(-self.classes[more], kind="stable")][:5]
        names = ", ".join(f"{class_names[k]} {self.classes[k]:.2f}" for k in rarest)
        names += ", ..." if len(more) > 5 else ""
        return (
            f"repeat_thresh: {(self.images > 1).sum()} of {len(self.images)} images, with "
            f"{len(more)} rare classes, come up to {self.images.max():.2f} times an epoch ({names})"
        )


def most_drawn(factors: np.ndarray) -> int:
    """The largest number of draws that `draw` returns for these factors (N,)."""
    return int(np.ceil(factors.sum() - 1e-9))


def draw(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each of N comes (N,): its factor, rounded up or down at random, right in the mean.

    One random number decides about all (systematic sampling), so the sum varies by less than 1.
    The order of the factors has to be random.
    """
    ends = np.minimum(np.floor(np.cumsum(factors) + rng.random()), most_drawn(factors))
    return np.diff(ends, prepend=0).astype(np.int64)
