"""Images that look the same: their fingerprints, and groups of those that are alike.

Letters: I images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

#: bits of a picture's fingerprint a side, and how many of them may differ in the same picture
BITS, ALIKE = 16, 24
_BLOCK = 2048  # images whose fingerprints are compared at once, with as many others


def fingerprint(pixels: np.ndarray) -> np.ndarray | None:
    """Bits (BITS * BITS,) of pixels (H, W, 3): where the small grey picture gets darker rightwards.

    The difference hash of N. Krawetz (2013). It hardly changes with size and compression. None for
    a picture of one colour, which would be like every other.
    """
    grey = Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((BITS + 1, BITS), Image.Resampling.BOX), np.int64)
    return None if np.ptp(small) < BITS // 2 else (small[:, 1:] > small[:, :-1]).ravel()


def alike_groups(prints: Sequence[np.ndarray | None], progress: bool = False) -> list[np.ndarray]:
    """Groups of images that look the same: ascending indices, at least two, by their first one.

    prints: of each image its fingerprint, or None for one that is like no other. Two images with at
    most ALIKE different bits are in one group, so all of a group are linked, not each with each.

    Fingerprints are compared in blocks, as products of matrices, and only links between different
    groups are followed: 118,000 images take 43 s of one core; beyond the prints some 100 MB.
    """
    places = np.array([i for i, bits in enumerate(prints) if bits is not None], np.int64)
    if len(places) < 2:
        return []
    packed = np.packbits(np.array([prints[i] for i in places]), axis=1)
    parents = np.arange(len(places))
    starts = range(0, len(places), _BLOCK)
    pairs = [(a, b) for a in starts for b in starts[a // _BLOCK :]]
    for a, b in tqdm(pairs, "comparing images", leave=False, disable=None if progress else True):
        near = _alike(packed[a : a + _BLOCK], packed[b : b + _BLOCK])
        if near.any():
            _join(parents, near, a, b)
    roots = _roots(parents, np.arange(len(parents)))
    order = np.argsort(roots, kind="stable")
    bounds = np.flatnonzero(np.diff(roots[order])) + 1
    return [places[group] for group in np.split(order, bounds) if len(group) > 1]


def _alike(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some (A, bytes) and others (B, bytes) differ in at most ALIKE bits: (A, B) bool."""
    signs = [np.unpackbits(part, axis=1).astype(np.float32) * 2 - 1 for part in (some, others)]
    # of n bits, those that agree less those that do not: n - 2 d
    return signs[0] @ signs[1].T >= BITS * BITS - 2 * ALIKE


def _join(parents: np.ndarray, near: np.ndarray, a: int, b: int) -> None:
    """Put images a + i and b + j into one group wherever near[i, j]; a group's root is its first.

    Each round joins every group of the rows that has a link to another group with one such, so
    there are at most as many rounds as halvings of the rows' number.
    """
    rows, columns = np.arange(a, a + near.shape[0]), np.arange(b, b + near.shape[1])
    while True:
        links = near & (_roots(parents, rows)[:, None] != _roots(parents, columns))
        linked = np.flatnonzero(links.any(axis=1))
        if not len(linked):
            return
        for i, j in zip(rows[linked].tolist(), columns[links[linked].argmax(axis=1)].tolist()):
            one, other = _root(parents, i), _root(parents, j)
            parents[max(one, other)] = min(one, other)


def _root(parents: np.ndarray, i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = int(parents[i])
    return i


def _roots(parents: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The roots of some images; the ways there are made short."""
    roots = parents[which]
    while not np.array_equal(roots, parents[roots]):
        roots = parents[roots]
    parents[which] = roots
    return roots
