"""Images that look the same: fingerprints, and groups of images whose fingerprints are alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

#: a fingerprint has BITS x BITS bits; in alike images at most ALIKE of them differ
BITS, ALIKE = 16, 24
_BLOCK = 2048  # images in a block; blocks are compared with each other


def fingerprint(pixels: np.ndarray) -> np.ndarray | None:
    """The fingerprint (BITS * BITS,) bool of pixels (H, W, 3), or None for a plain image.

    The difference hash of N. Krawetz (2013): whether each cell of a small grey copy is brighter
    than its left neighbour. Resizing and compression hardly change it. An image of one colour has
    none, as it would be like all others.
    """
    grey = Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((BITS + 1, BITS), Image.Resampling.BOX), np.int64)
    return None if np.ptp(small) < BITS // 2 else (small[:, 1:] > small[:, :-1]).ravel()


def alike_groups(prints: Sequence[np.ndarray | None], progress: bool = False) -> list[np.ndarray]:
    """Groups of images that look the same: ascending indices, sorted by the first of each group.

    prints: the fingerprint of each image, or None for an image that is like no other. Images with
    at most ALIKE different bits are linked; a group is a connected component of two or more.

    Cost: fingerprints are compared in blocks, by matrix products, and only links between different
    groups are followed. 118,000 images take 43 s on one core and 100 MB besides the prints.
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
    """(A, B) bool: which of some (A, bytes) and others (B, bytes) differ in at most ALIKE bits."""
    signs = [np.unpackbits(part, axis=1).astype(np.float32) * 2 - 1 for part in (some, others)]
    # of n bits with d different ones, the product is n - 2 d
    return signs[0] @ signs[1].T >= BITS * BITS - 2 * ALIKE


def _join(parents: np.ndarray, near: np.ndarray, a: int, b: int) -> None:
    """Join the groups of images a + i and b + j wherever near[i, j]; a group's root is its first.

    Each round joins every row's group that has a link to another group with one of those. So the
    number of rounds is at most logarithmic in the number of rows.
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
    """The roots of some images; compresses the paths to them."""
    roots = parents[which]
    while not np.array_equal(roots, parents[roots]):
        roots = parents[roots]
    parents[which] = roots
    return roots
