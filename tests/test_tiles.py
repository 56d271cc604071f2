"""Tiles of large images: their layout, joining what they cut, and predictions that use them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symnet.geometry.boxes import iou
from symnet.geometry.tiles import Views, join_views, near_pairs, tile_frames

MARGIN = 3.0


# --- layout -------------------------------------------------------------------------------------


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 1200), st.floats(0, 0.9)
)
def test_tiles_cover_the_image_evenly(height, width, tile, overlap):
    frames = tile_frames(height, width, tile, overlap)
    sizes = frames[:, 2:] - frames[:, :2]
    assert (sizes == (min(tile, width), min(tile, height))).all()
    for axis, side in ((0, width), (1, height)):
        starts = np.unique(frames[:, axis])
        assert starts[0] == 0
        assert frames[:, axis + 2].max() == side
        assert (np.diff(starts) <= max(1, tile * (1 - overlap) + 1)).all()
        least = -(-(side - tile) // max(1, int(tile * (1 - overlap) + 1e-6)))
        assert len(starts) == 1 + max(0, least)
    assert len(frames) == len(np.unique(frames, axis=0))


# --- joining ------------------------------------------------------------------------------------


def seen(boxes, classes, frames, size, least=0.0):
    """What a perfect network finds in each frame: the visible part of each object."""
    parts = np.concatenate(
        [
            np.maximum(boxes[None, :, :2], frames[:, None, :2]),
            np.minimum(boxes[None, :, 2:], frames[:, None, 2:]),
        ],
        axis=2,
    )
    visible = (parts[..., 2:] - parts[..., :2] > least).all(axis=2)
    which = np.nonzero(visible)
    found = parts[visible].astype(np.float32)
    scores = np.linspace(0.95, 0.9, len(found), dtype=np.float32)
    return Views(found, scores, classes[which[1]], which[0], frames, size)


def partition(rng, box, least, cells):
    """Cut a box into cells with sides of at least `least`, at random."""
    stack, done = [box], []
    while stack:
        x1, y1, x2, y2 = stack.pop()
        axis = int(rng.integers(2))
        side = (x2 - x1, y2 - y1)[axis]
        if side < 2 * least or (len(stack) + len(done) >= cells or rng.random() < 0.15):
            done.append((x1, y1, x2, y2))
            continue
        place = int(rng.integers(least, side - least + 1))
        if axis == 0:
            stack += [(x1, y1, x1 + place, y2), (x1 + place, y1, x2, y2)]
        else:
            stack += [(x1, y1, x2, y1 + place), (x1, y1 + place, x2, y2)]
    return np.array(done, np.float64)


def scene(seed):
    """Objects that touch each other, and the tiles."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(150, 1500, 2)
    tile, overlap = int(rng.integers(100, 400)), float(rng.choice([0, 0.1, 0.2, 0.5, 0.8]))
    boxes = partition(rng, (0, 0, width, height), int(rng.integers(20, 200)), rng.integers(2, 60))
    boxes = boxes[rng.random(len(boxes)) < 0.8]
    if not overlap:  # without an overlap nobody can tell touching objects from halves
        boxes += 4 * np.array([1, 1, -1, -1])
    classes = rng.integers(1, 3, len(boxes)) if rng.random() < 0.5 else np.ones(len(boxes), int)
    return boxes, classes, tile_frames(height, width, tile, overlap), (height, width)


def as_set(boxes, classes):
    return sorted((*map(float, box), int(k)) for box, k in zip(boxes, classes))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_parts_become_the_objects(seed):
    """Objects longer than several tiles, cut by four, touching: each comes back, once."""
    boxes, classes, frames, size = scene(seed)
    joined = join_views(seen(boxes, classes, frames, size), MARGIN)
    assert as_set(joined.boxes, joined.classes) == as_set(boxes, classes)
