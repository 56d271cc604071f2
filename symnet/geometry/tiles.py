"""Tiles of a large image, and how detections in tiles become the objects of the whole image.

Letters: T tiles, V views, P pairs of views, K objects. A view is a detection in one tile, or in the
whole image scaled down. Its frame is the part of the image that was looked at. All boxes are xyxy
in pixels of the whole image.

The rule of joining: two views are of one object if they agree on the part of the image that both
frames show. For an object inside the overlap of two tiles this compares its two boxes; for the
halves of a bus it compares their ends in the overlap. Objects that only touch do not agree there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from symnet.geometry.boxes import areas, paired_coverage, paired_iou

#: two views are of one object if they agree at least so much, see `_agreement`
AGREE = 0.5
#: a cut view is part of an object that continues it if that covers so much of what both frames show
COVERED = 0.7
#: views that score less than this share of their object's best one do not shape its box and mask
WEAK = 0.4
#: a view that seems complete is the object if it has at least this share of the union's area
COMPLETE = 0.75
#: the error of a side of a whole image's view, as a share of the box
LOOSE = 0.1
#: objects of different tiles that overlap more are one object
DUPLICATE = 0.5
#: pairs of boxes that are compared at once: about 100 bytes each
_BLOCK = 1 << 20


def tile_frames(height: int, width: int, tile: int, overlap: float) -> np.ndarray:
    """The tiles (T, 4) int64 xyxy that cover an image, row by row.

    All have the same size: `tile` pixels a side, or the image's side where that is less. Neighbours
    overlap by at least the share `overlap` of a tile (0 <= overlap < 1). There are as few of them
    as that allows, spread evenly.
    """
    tops, tall = _starts(height, tile, overlap)
    lefts, wide = _starts(width, tile, overlap)
    top, left = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
    return np.stack([left, top, left + wide, top + tall], axis=1)


def _starts(side: int, tile: int, overlap: float) -> tuple[np.ndarray, int]:
    """The first pixels of the tiles along a side, and their length."""
    length = min(tile, side)
    step = max(1, int(tile * (1 - overlap) + 1e-6))
    count = 1 - (-(side - length) // step)
    return np.rint(np.linspace(0, side - length, count)).astype(np.int64), length


@dataclass(frozen=True)
class Views:
    """Detections of tiles: boxes (V, 4), scores (V,), classes (V,), and their frames.

    tile (V,): the number of the view's tile, or -1 for the whole image. tiles (T, 4): see
    `tile_frames`. size: height and width of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    tile: np.ndarray
    tiles: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: np.ndarray) -> Views:
        rows = (self.boxes, self.scores, self.classes, self.tile)
        return Views(*(row[keep] for row in rows), self.tiles, self.size)

    @property
    def whole(self) -> np.ndarray:
        """Which views (V,) are of the whole image."""
        return self.tile < 0

    @cached_property
    def frames(self) -> np.ndarray:
        """What was looked at: (V, 4) xyxy."""
        return np.concatenate([self.tiles, [[0, 0, self.size[1], self.size[0]]]])[self.tile]


@dataclass(frozen=True)
class Joined:
    """Objects, best first: boxes (K, 4), scores (K,), classes (K,).

    owners (V,): the object whose box and mask a view shapes, or -1.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    owners: np.ndarray


def join_views(views: Views, margin: float) -> Joined:
    """The objects of an image from the views of its tiles and of the whole image.

    margin: a box that ends within this many pixels of its frame's border is cut by it.

    - Views that agree are joined, over any number of tiles; see `_same_object`.
    - An object gets the best score of its views, and the box of the view that shows it complete;
      without one, the union of its views. See `_shaping`.
    - A view of the whole image counts only if no tile could show its object. If it differs much
      from what tiles made of that object, it replaces them.
    - Then duplicates and remains go; see `_superfluous`.

    Memory grows with the views. Time grows with the pairs of views of one class that overlap on the
    x axis: 4,000 views of objects of 100 pixels in 6000 x 4000 take TIME s.
    """
    owners = np.full(len(views), -1)
    counts = _counts(views)
    views = views[counts]
    gaps = _gaps(views)
    cut = gaps <= margin
    group = _components(len(views), *_same_object(views, cut, margin))
    shapes, boxes, scores = _shaping(views, gaps, group, margin)
    ends = np.abs(views.boxes - boxes[group]) <= margin
    unfinished = _any(cut & ends & shapes[:, None], group)
    seen = _any(_bits(views.tile + 1, len(views.tiles) + 1), group)

    keep = np.flatnonzero(group == np.arange(len(views)))  # the labels, one for each object
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    keep = keep[
        ~_superfluous(boxes[keep], views.classes[keep], seen[keep], unfinished[keep], margin)
    ]
    number = np.full(len(views), -1)
    number[keep] = np.arange(len(keep))
    owners[counts] = np.where(shapes, number[group], -1)
    return Joined(boxes[keep], scores[keep], views.classes[keep], owners)


def _counts(views: Views) -> np.ndarray:
    """The views (V,) that count: those of tiles, and those of the whole image for large objects.

    Large means that no tile shows the box, even if it were smaller by `LOOSE` on each side.
    """
    counts = ~views.whole
    boxes = views.boxes[views.whole].astype(np.float64)
    slack = LOOSE * np.tile(boxes[:, 2:] - boxes[:, :2], 2) * (1, 1, -1, -1)
    inner = (boxes + slack)[:, None]
    shown = (inner[..., :2] >= views.tiles[:, :2]) & (inner[..., 2:] <= views.tiles[:, 2:])
    counts[views.whole] = ~shown.all(axis=2).any(axis=1)
    return counts


def _gaps(views: Views) -> np.ndarray:
    """Pixels (V, 4) from each side of a box to its frame's; inf where the image itself ends."""
    sign = np.array([1, 1, -1, -1])
    ends = views.frames == np.array([0, 0, *views.size[::-1]])
    return np.where(ends, np.inf, (views.boxes - views.frames) * sign)


def _beyond(boxes: np.ndarray, limits: np.ndarray, margin: float) -> np.ndarray:
    """On which sides (P, 4) boxes (P, 4) reach beyond limits (P, 4) by more than the margin."""
    sign = np.array([-1, -1, 1, 1])
    return (boxes - limits) * sign > margin


# Which views are of one object


def _same_object(views: Views, cut: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of views (P,), (P,) that are of one object.

    Both are of one class and of different frames. Either each is the other's best match in its
    frame and they agree by `AGREE`; or one is cut, and the other covers `COVERED` of it in what
    both frames show, continues it beyond the cut, and is its best match. So two detections of one
    tile are not taken for the same object, unless another tile shows that they are.
    """
    one, other = near_pairs(views.boxes, views.classes, margin)
    apart = views.tile[one] != views.tile[other]
    one, other = one[apart], other[apart]
    agree, covered = _agreement(views, one, other, margin)
    strength = []
    for a, b, share in ((one, other, covered[0]), (other, one, covered[1])):
        continued = cut[a] & _beyond(views.boxes[b], views.frames[a], margin)
        part = np.where(continued.any(axis=1) & (share >= COVERED), share, 0)
        strength.append(np.where(agree >= AGREE, 1 + agree, part))
    frames = len(views.tiles) + 1
    best = [
        value >= _best(a * frames + views.tile[b], value)
        for a, b, value in ((one, other, strength[0]), (other, one, strength[1]))
    ]
    mutual = (agree >= AGREE) & best[0] & best[1]
    part = [best[k] & (strength[k] > 0) & (strength[k] <= 1) for k in (0, 1)]
    same = mutual | part[0] | part[1]
    return one[same], other[same]


def _agreement(
    views: Views, one: np.ndarray, other: np.ndarray, margin: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """How well pairs of views agree (P,), and the share of each that the other covers, 2 of (P,).

    Only the part of the image in both frames is compared. The agreement is the length that both
    boxes have there, plus the margin, over the length that either has, plus the margin; on each
    axis, multiplied. The margin forgives errors of a few pixels where boxes reach little into the
    overlap, and lets halves agree where tiles only touch. A share is 0 if boxes reach less than two
    margins into the overlap. All are 0 if frames share a corner, or a narrow strip while
    neighbours share more.
    """
    a, b = (views.boxes[k].astype(np.float64) for k in (one, other))
    frame_a, frame_b = views.frames[one], views.frames[other]
    low = np.maximum(frame_a[:, :2], frame_b[:, :2])
    high = np.minimum(frame_a[:, 2:], frame_b[:, 2:])
    usable = (high - low >= _least_overlap(views.tiles, 4 * margin)).all(axis=1)
    usable &= (high - low > 2 * margin).any(axis=1)
    a_low, b_low = (np.maximum(box[:, :2], low) for box in (a, b))
    a_high, b_high = (np.minimum(box[:, 2:], high) for box in (a, b))
    either = np.maximum(a_high, b_high) - np.minimum(a_low, b_low)
    both = np.minimum(a_high, b_high) - np.maximum(a_low, b_low)
    reach = usable & (np.minimum(a_high - a_low, b_high - b_low) > -margin).all(axis=1)
    agree = (np.maximum(both + margin, 0) / np.maximum(either + margin, margin)).prod(axis=1)
    deep = usable & (both >= 2 * margin).all(axis=1)
    shared = np.maximum(both, 0).prod(axis=1)
    covered = [
        np.where(deep, shared / np.maximum(area, 1), 0)
        for area in ((a_high - a_low).prod(axis=1), (b_high - b_low).prod(axis=1))
    ]
    return np.where(reach, agree, 0), covered


def _least_overlap(tiles: np.ndarray, enough: float) -> np.ndarray:
    """What neighbouring tiles share on each axis (2,), at most `enough`: pixels."""
    least = np.full(2, enough)
    for axis in (0, 1):
        starts = np.unique(tiles[:, axis])
        shared = tiles[0, axis + 2] - tiles[0, axis] - np.diff(starts)
        least[axis] = shared.min(initial=enough)
    return least


def _best(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each entry (P,) the greatest value among those with the same key."""
    _, place = np.unique(keys, return_inverse=True)
    best = np.zeros(len(values))
    np.maximum.at(best, place.reshape(-1), values)
    return best[place.reshape(-1)]


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


def _components(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The connected components of `count` views with these pairs: (V,), the least view of each."""
    group = np.arange(count)
    while True:
        least = np.minimum(group[one], group[other])
        new = group.copy()
        for place in (group[one], group[other]):
            np.minimum.at(new, place, least)
        new = new[new]
        if (new == group).all():
            return group
        group = new


# What an object looks like


def _shaping(
    views: Views, gaps: np.ndarray, group: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which views (V,) shape their object; its box (V, 4) and score (V,) in the row of its label.

    The view that is farthest from the inner borders of its tile shows the object best. If it is not
    cut, and the union of all is not much larger (`COMPLETE`), it alone shapes the object; else all
    do. A view of the whole image replaces them if its IoU with that box is below `COMPLETE`. Views
    that score less than `WEAK` of the best do not take part.
    """
    scores = np.zeros(len(views), np.float32)
    np.maximum.at(scores, group, views.scores)
    strong = views.scores >= WEAK * scores[group]
    parts = strong & ~views.whole
    clear = gaps.min(axis=1, initial=np.inf)
    alone = parts & (clear > margin) & _first_of(group, np.where(parts, clear, -np.inf))
    unions = _unions(views.boxes, parts, group)
    alone &= areas(views.boxes) >= COMPLETE * areas(unions[group])
    shapes = parts & (alone | ~_any(alone, group)[group])
    boxes = _unions(views.boxes, shapes, group)

    whole_scores = np.where(views.whole, views.scores, -np.inf)
    large = strong & views.whole & _first_of(group, whole_scores)
    large &= paired_iou(views.boxes, boxes[group]) < COMPLETE
    shapes = np.where(_any(large, group)[group], large, shapes)
    return shapes, _unions(views.boxes, shapes, group), scores


def _first_of(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """True (V,) for the view of the greatest value in each group; the first one of several."""
    order = np.lexsort((-values, group))
    first = np.zeros(len(group), bool)
    first[order] = np.diff(group[order], prepend=-1) != 0
    return first


def _any(flags: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The flags (V, ...) that any view of a group has, in the row of the group's label."""
    found = np.zeros_like(flags)
    np.bitwise_or.at(found, group, flags)
    return found


def _bits(numbers: np.ndarray, count: int) -> np.ndarray:
    """Numbers (V,) below `count` as bit masks (V, ceil(count / 8)) uint8."""
    bits = np.zeros((len(numbers), -(-count // 8)), np.uint8)
    bits[np.arange(len(numbers)), numbers // 8] = 1 << numbers % 8
    return bits


def _unions(boxes: np.ndarray, used: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The box (V, 4) around the used views of each group, in the row of its label; else zeros."""
    unions = np.full_like(boxes, np.inf)
    unions[:, 2:] = -np.inf
    np.minimum.at(unions[:, :2], group[used], boxes[used, :2])
    np.maximum.at(unions[:, 2:], group[used], boxes[used, 2:])
    return np.where(np.isfinite(unions), unions, 0)


# What is too much


def _superfluous(
    boxes: np.ndarray, classes: np.ndarray, seen: np.ndarray, unfinished: np.ndarray, margin: float
) -> np.ndarray:
    """The objects (K,) bool to leave out. They are given best first, with their classes (K,).

    Duplicates: a better object of the class has an IoU above `DUPLICATE`, and no tile saw both.
    Remains: the object is cut on a side where a larger one of the class goes on, and that covers
    `COVERED` of it. seen (K, B) uint8: the frames that saw an object, as bits. unfinished (K, 4):
    the cut sides.
    """
    left_out = np.zeros(len(boxes), bool)
    boxes = boxes.astype(np.float64)
    one, two = near_pairs(boxes, classes)
    better, worse = np.minimum(one, two), np.maximum(one, two)
    alike = paired_iou(boxes[better], boxes[worse]) > DUPLICATE
    better, worse = better[alike], worse[alike]
    left_out[worse[~(seen[better] & seen[worse]).any(axis=1)]] = True
    for part, other in ((one, two), (two, one)):
        goes_on = (unfinished[part] & _beyond(boxes[other], boxes[part], margin)).any(axis=1)
        goes_on &= areas(boxes[other]) > areas(boxes[part])
        covered = paired_coverage(boxes[part], boxes[other]) >= COVERED
        left_out[part[goes_on & covered]] = True
    return left_out
