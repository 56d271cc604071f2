"""Masks as polygons, traced by contourpy, which matplotlib requires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mxrcnn.data.records import Detections
from symnet.geometry.masks import decode

#: how far (pixels) a line may pass from the corners that it replaces. Up to half a pixel, drawing
#: the polygon by COCO's rules gives the same mask again
TOLERANCE = 0.5


def outlines(found: Detections) -> list[list[np.ndarray]]:
    """The outline of each detection's mask: one ring (K, 2) of x, y for each of its parts.

    An empty mask has the corners of its box. Raises ValueError without masks.
    """
    if found.masks is None:
        raise ValueError("these detections have no masks")
    rings = [mask_rings(decode(mask, *found.size)) for mask in found.masks]
    return [own or [_corners(box)] for own, box in zip(rings, np.asarray(found.boxes, np.float64))]


def mask_rings(bits: np.ndarray) -> list[np.ndarray]:
    """A mask (H, W) bool as rings (K, 2) of x, y in pixels from 0, one for each part.

    A ring goes halfway between the centres of pixels inside and outside, by marching squares, and
    along the image's border. A hole is joined to the ring around it by a line there and back, so
    that one polygon holds it. The last point is not the first one again.
    """
    from contourpy import FillType, contour_generator

    rows, columns = (np.flatnonzero(bits.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    part = np.pad(bits[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float64), 1)
    tracer = contour_generator(z=part, fill_type=FillType.OuterOffset)
    # point i of `part` is the centre of pixel i - 1
    shift = np.array([left, top]) - 0.5
    return [
        join_rings([_simple(points[a:b]) + shift for a, b in zip(ends, ends[1:])])
        for points, ends in zip(*tracer.filled(0.5, 2))
    ]


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One ring (K, 2) that goes along all rings, joined by lines there and back between neighbours.

    A line that is walked twice encloses nothing, so the area is that of the rings, less holes. The
    line is the shortest between up to 500 points of each.
    """
    joined = rings[0]
    for ring in rings[1:]:
        steps = [len(points) // 500 + 1 for points in (joined, ring)]
        ends = joined[:: steps[0], None] - ring[None, :: steps[1]]
        place = np.unravel_index(np.argmin((ends**2).sum(axis=2)), ends.shape[:2])
        here, there = (int(i) * step for i, step in zip(place, steps))
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined


def flat(rings: Sequence[np.ndarray]) -> list[list[float]]:
    """Rings as COCO's polygons x1, y1, x2, y2 ..., to a hundredth of a pixel."""
    return [np.round(ring, 2).ravel().tolist() for ring in rings]


def _simple(ring: np.ndarray) -> np.ndarray:
    """A closed ring (K, 2) with fewer corners, without its last point."""
    from matplotlib.path import Path

    path = Path(ring)
    path.should_simplify, path.simplify_threshold = True, TOLERANCE
    kept: Any = path.cleaned(simplify=True)
    points = kept.vertices[np.isin(kept.codes, (Path.MOVETO, Path.LINETO))]
    points = points[np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))]
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    return points if len(points) >= 3 else ring[:-1]


def _corners(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
