"""Bounding boxes in NumPy: overlap, encoding, clipping, flipping.

Letters: N, M boxes. A box is xyxy. A width is x2 - x1 + offset. `offset` is 0, except in the
classic detector, whose operator (contrib.MultiProposal) needs 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: pairs of boxes that are compared at once: about 100 bytes each
_BLOCK = 1 << 20


def areas(boxes: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Areas (...) of boxes (..., 4); inverted boxes have area 0."""
    sides = np.maximum(boxes[..., 2:4] - boxes[..., 0:2] + offset, 0)
    return sides[..., 0] * sides[..., 1]


def intersections(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Intersection areas (N, M) of boxes (N, 4) and others (M, 4)."""
    return paired_intersections(boxes[:, None], others, offset)


def paired_intersections(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Intersection areas (...) of boxes (..., 4) and others (..., 4), element by element."""
    width = np.minimum(boxes[..., 2], others[..., 2])
    width -= np.maximum(boxes[..., 0], others[..., 0])
    height = np.minimum(boxes[..., 3], others[..., 3])
    height -= np.maximum(boxes[..., 1], others[..., 1])
    return np.maximum(width + offset, 0) * np.maximum(height + offset, 0)


def iou(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) and others (M, 4); 0 where both are empty."""
    return paired_iou(boxes[:, None], others, offset)


def paired_iou(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Intersection over union (...) of boxes (..., 4) and others (..., 4), element by element."""
    shared = paired_intersections(boxes, others, offset)
    union = areas(boxes, offset) + areas(others, offset) - shared
    return shared / np.maximum(union, np.finfo(np.float32).tiny)


def paired_coverage(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """The fraction (...) of each box (..., 4) that lies in its partner in others (..., 4)."""
    shared = paired_intersections(boxes, others, offset)
    return shared / np.maximum(areas(boxes, offset), np.finfo(np.float32).tiny)


def near_pairs(
    boxes: np.ndarray, classes: np.ndarray, margin: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (P,), (P,) of boxes of one class that are at most `margin` pixels apart.

    Sorted by x, a box is compared with those that begin before it ends, in blocks.
    """
    boxes = boxes.astype(np.float64)
    left, right = boxes[:, 0], boxes[:, 2] + margin
    if not len(boxes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    left, right = left - left.min(), right - left.min()
    apart = classes * (right.max() + 1)  # so that classes follow each other
    order = np.argsort(left + apart, kind="stable")
    ends = np.searchsorted((left + apart)[order], (right + apart)[order], side="right")
    counts = np.maximum(ends - np.arange(len(boxes)) - 1, 0)
    total = np.cumsum(counts)
    found = []
    for start in range(0, int(total[-1]), _BLOCK):
        place = np.arange(start, min(start + _BLOCK, int(total[-1])))
        row = np.searchsorted(total, place, side="right")
        column = row + 1 + place - (total[row] - counts[row])
        one, other = boxes[order[row]], boxes[order[column]]
        near = (one[:, 1] <= other[:, 3] + margin) & (other[:, 1] <= one[:, 3] + margin)
        found.append((order[row[near]], order[column[near]]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return tuple(np.concatenate(part) for part in zip(*found))


def clip_boxes(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    """Clip boxes (N, 4) to 0..width and 0..height."""
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def flip_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Flip boxes (N, 4) horizontally in an image of this width."""
    flipped = boxes.copy()
    flipped[:, 0] = width - boxes[:, 2]
    flipped[:, 2] = width - boxes[:, 0]
    return flipped


@dataclass(frozen=True)
class BoxCoder:
    """Encodes boxes relative to reference boxes (Fast R-CNN, section 3.1; R-CNN, appendix C).

    stds: standard deviations that divide the deltas (dx, dy, dw, dh). clip: the upper bound for
    decoded dw and dh, if given.
    """

    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    offset: float = 0.0
    clip: float | None = None

    def _centres_sizes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes = boxes[:, 2:4] - boxes[:, 0:2] + self.offset
        return boxes[:, 0:2] + 0.5 * (sizes - self.offset), sizes

    def encode(self, references: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The deltas (N, 4) from references (N, 4) to boxes (N, 4)."""
        ref_centres, ref_sizes = self._centres_sizes(references)
        centres, sizes = self._centres_sizes(boxes)
        shift = (centres - ref_centres) / ref_sizes
        scale = np.log(sizes / ref_sizes)
        deltas = np.concatenate([shift, scale], axis=1) / np.asarray(self.stds)
        return deltas.astype(np.float32)

    def decode(self, references: np.ndarray, deltas: np.ndarray) -> np.ndarray:
        """Apply deltas (N, 4) to references (N, 4); returns boxes (N, 4)."""
        ref_centres, ref_sizes = self._centres_sizes(references)
        deltas = deltas * np.asarray(self.stds, deltas.dtype)
        scale = deltas[:, 2:4]
        if self.clip is not None:
            scale = np.minimum(scale, self.clip)
        centres = ref_centres + deltas[:, 0:2] * ref_sizes
        half = 0.5 * (np.exp(scale) * ref_sizes - self.offset)
        return np.concatenate([centres - half, centres + half], axis=1)
