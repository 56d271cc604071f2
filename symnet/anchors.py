"""Anchors: the boxes that a region proposal network starts from.

Letters: A anchors a position (ratios outer, scales inner), H, W the feature map's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def classic_base_anchors(
    stride: int, scales: Sequence[float], ratios: Sequence[float]
) -> np.ndarray:
    """The A anchors (A, 4) of the first cell, exactly those of contrib.MultiProposal.

    Faster R-CNN, section 3.1.1, with py-faster-rcnn's rounding: widths and heights of the ratios
    are whole pixels of a stride x stride cell, inclusive (+1), before the scale multiplies them.
    Ratios are height over width.
    """
    centre = 0.5 * (stride - 1)
    anchors = []
    for ratio in ratios:
        width = np.floor(np.sqrt(np.floor(stride * stride / ratio)) + 0.5)
        height = np.floor(width * ratio + 0.5)
        for scale in scales:
            half_w, half_h = 0.5 * (width * scale - 1), 0.5 * (height * scale - 1)
            anchors.append([centre - half_w, centre - half_h, centre + half_w, centre + half_h])
    return np.array(anchors, np.float32)


@dataclass(frozen=True)
class AnchorSpec:
    """Anchors of one feature level: stride in pixels, scales in strides, ratios height / width."""

    stride: int
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def num_anchors(self) -> int:
        """A, the anchors of one position."""
        return len(self.scales) * len(self.ratios)

    def grid(self, height: int, width: int) -> np.ndarray:
        """All anchors (H*W*A, 4) of a map of height x width cells: row, column, anchor."""
        return _grid(self, height, width)


@lru_cache(maxsize=64)
def _grid(spec: AnchorSpec, height: int, width: int) -> np.ndarray:
    base = classic_base_anchors(spec.stride, spec.scales, spec.ratios)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * spec.stride
    shifts = np.stack([x, y, x, y], axis=-1)
    anchors = (shifts[:, :, None] + base).reshape(-1, 4)
    anchors.flags.writeable = False
    return anchors
