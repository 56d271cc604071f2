"""From detections in tiles to the objects of the whole image.

Letters: V views, P pairs of views, K objects, T tiles. Views, frames: see tiles.py.

The rule: two views are of one object if they agree on the part of the image that both frames show.
For the halves of a bus this compares their ends in the overlap of the tiles. Objects that only
touch each other do not agree there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from symnet.geometry.boxes import areas, near_pairs, paired_coverage, paired_iou
from symnet.geometry.tiles import Views, counting, gaps

#: two views are of one object if they agree at least so much, see `_compare`
AGREE = 0.6
#: a cut view is part of an object that continues it if that covers so much of what both frames show
COVERED = 0.7
#: views that score less than this share of their object's best one do not shape its box and mask
WEAK = 0.5
#: a view of the whole image replaces the union of an object's parts if their IoU is less
COMPLETE = 0.75
#: objects of different tiles that overlap more are one object
DUPLICATE = 0.5


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

    margin: a box that ends within this many pixels of its tile's border is cut by it.

    1. Views that are not cut show their object complete. Of those of several tiles the best stays.
    2. A cut view of such an object goes; see `_absorbed`.
    3. The other cut views are joined if they agree, over any number of tiles; see `_parts`. The
       object is their union. A view of the whole image takes part if it is too large for any tile,
       and replaces the union if it differs much from it; see `_shaping`.
    4. Remaining duplicates and pieces go; see `_superfluous`.

    Views count only where their tile shows the place best; see `counting`. An object that is joined
    has the best score of its parts. Memory grows with the views; time with the pairs of views of a
    class that overlap on the x axis: 19,000 views of 1,014 tiles take 0.6 s.
    """
    owners = np.full(len(views), -1)
    counts = counting(views, margin)
    views = views[counts]
    sides = gaps(views) <= margin
    cut = sides.any(axis=1) | views.whole
    pairs = near_pairs(views.boxes, views.classes, margin)
    pairs = _where(views.tile[pairs[0]] != views.tile[pairs[1]], *pairs)

    group = _best_of(views.scores, *_where(_are_same(views, cut, pairs), *pairs))
    group = _absorbed(views, sides, cut, group, pairs, margin)
    rest = cut & (group == np.arange(len(views)))
    pairs = _where(rest[pairs[0]] & rest[pairs[1]], *pairs)
    group = _components(group, *_parts(views, sides, pairs, margin))

    shapes, boxes, scores = _shaping(views, cut, group)
    ends = np.abs(views.boxes - boxes[group]) <= margin
    unfinished = _any(sides & ends & shapes[:, None], group)
    seen = _any(_bits(views.tile + 1, len(views.tiles) + 1), group)
    keep = np.flatnonzero(group == np.arange(len(views)))  # one view of each object
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    few = boxes[keep], views.classes[keep], seen[keep], unfinished[keep]
    keep = keep[~_superfluous(*few, margin)]
    number = np.full(len(views), -1)
    number[keep] = np.arange(len(keep))
    owners[counts] = np.where(shapes, number[group], -1)
    return Joined(boxes[keep], scores[keep], views.classes[keep], owners)


def _where(keep: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns without the rows that are not kept."""
    return tuple(column[keep] for column in columns)


def _beyond(boxes: np.ndarray, limits: np.ndarray, margin: float) -> np.ndarray:
    """On which sides (P, 4) boxes (P, 4) reach beyond limits (P, 4) by more than the margin."""
    return (boxes - limits) * np.array([-1, -1, 1, 1]) > margin


# Complete views


def _are_same(views: Views, cut: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Which pairs (P,) of views of different tiles show the same complete object."""
    one, other = pairs
    complete = ~cut[one] & ~cut[other]
    return complete & (paired_iou(views.boxes[one], views.boxes[other]) > DUPLICATE)


def _best_of(scores: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Greedy suppression over these pairs: the view (V,) that stays for each, itself if it does.

    A view stays if it scores best among its partners that are still there; those then go. A few
    rounds settle all.
    """
    rank = np.empty(len(scores), np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    order = np.argsort(rank)
    one, other = np.concatenate([one, other]), np.concatenate([other, one])
    keeper = np.full(len(scores), -1)
    while len(one):
        least = rank.copy()
        np.minimum.at(least, one, rank[other])
        stays = least == rank
        stays &= keeper < 0
        won = stays[one]
        best = np.full(len(scores), len(scores))
        np.minimum.at(best, other[won], rank[one[won]])
        gone = (best < len(scores)) & (keeper < 0)
        keeper[gone] = order[best[gone]]
        keeper[stays] = np.flatnonzero(stays)
        one, other = _where((keeper[one] < 0) & (keeper[other] < 0), one, other)
    return np.where(keeper < 0, np.arange(len(scores)), keeper)


def _absorbed(
    views: Views,
    sides: np.ndarray,
    cut: np.ndarray,
    group: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    margin: float,
) -> np.ndarray:
    """`group` (V,) in which cut views of complete objects belong to those, each to its best match.

    A cut view is of a complete object if it agrees with what its tile should show of that, or if
    the object covers it and goes on beyond the cut.
    """
    stays = ~cut & (group == np.arange(len(views)))
    part, whole = np.concatenate(pairs), np.concatenate(pairs[::-1])
    part, whole = _where(cut[part] & ~views.whole[part] & stays[whole], part, whole)
    frames = views.frames[part]
    agree, covered, _ = _compare(views.boxes[part], views.boxes[whole], frames, margin)
    goes_on = (sides[part] & _beyond(views.boxes[whole], frames, margin)).any(axis=1)
    strength = np.maximum(np.where(agree >= AGREE, 1 + agree, 0), goes_on * (covered >= COVERED))
    best = (strength > 0) & (strength >= _best(part, strength))
    group = group.copy()
    group[part[best]] = whole[best]
    return group


def _compare(
    boxes: np.ndarray, others: np.ndarray, windows: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How well pairs of boxes agree inside windows, and the share of each that the other covers.

    All arguments (P, 4), results (P,). The agreement is the length that both have there, plus the
    margin, over the length that either has, plus the margin; on each axis, multiplied. The margin
    forgives errors of a few pixels where boxes reach little into the window, and lets halves agree
    where tiles only touch. The shares are 0 if the boxes share less than two margins on an axis.
    """
    a, b, windows = (np.asarray(x, np.float64) for x in (boxes, others, windows))
    a_low, b_low = (np.maximum(box[:, :2], windows[:, :2]) for box in (a, b))
    a_high, b_high = (np.minimum(box[:, 2:], windows[:, 2:]) for box in (a, b))
    either = np.maximum(a_high, b_high) - np.minimum(a_low, b_low)
    both = np.minimum(a_high, b_high) - np.maximum(a_low, b_low)
    reach = (np.minimum(a_high - a_low, b_high - b_low) > -margin).all(axis=1)
    agree = (np.maximum(both + margin, 0) / np.maximum(either + margin, margin)).prod(axis=1)
    shared = np.where((both >= 2 * margin).all(axis=1), both.prod(axis=1), 0)
    sizes = (a_high - a_low).prod(axis=1), (b_high - b_low).prod(axis=1)
    shares = (shared / np.maximum(size, 1) for size in sizes)
    return (np.where(reach, agree, 0), *shares)


# Cut views


def _parts(
    views: Views, sides: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of cut views (P,), (P,) that are of one object.

    They are compared in the overlap of their frames. Either each is the other's best match in its
    frame and they agree by `AGREE`; or one covers `COVERED` of the other there, continues it beyond
    the cut, and is its best match. So two detections of one tile are not taken for the same object,
    unless another tile shows that they are. Frames that share a corner, or a narrow strip while
    neighbours share more, prove nothing.
    """
    one, other = pairs
    low = np.maximum(views.frames[one, :2], views.frames[other, :2])
    high = np.minimum(views.frames[one, 2:], views.frames[other, 2:])
    usable = (high - low >= _least_overlap(views.tiles, 4 * margin)).all(axis=1)
    usable &= (high - low > 2 * margin).any(axis=1)
    one, other, low, high = _where(usable, one, other, low, high)
    windows = np.concatenate([low, high], axis=1)
    agree, *shares = _compare(views.boxes[one], views.boxes[other], windows, margin)
    frames = len(views.tiles) + 1
    same, mutual = np.zeros(len(one), bool), agree >= AGREE
    for a, b, share in ((one, other, shares[0]), (other, one, shares[1])):
        goes_on = (sides[a] & _beyond(views.boxes[b], views.frames[a], margin)).any(axis=1)
        part = np.where(goes_on & (share >= COVERED), share, 0)
        strength = np.where(agree >= AGREE, 1 + agree * views.scores[b], part)
        best = strength >= _best(a * frames + views.tile[b], strength)
        mutual &= best
        same |= best & (part > 0) & (agree < AGREE)
    return _where(same | mutual, one, other)


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


def _components(group: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Groups (V,), given by the number of a member, joined by pairs of such members."""
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
    views: Views, cut: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which views (V,) shape their object; its box (V, 4) and score (V,) in the row of its group.

    A complete view alone shapes its object. Cut views do together, but without those that score
    less than `WEAK` of the best. The best view of the whole image alone does if the IoU of its box
    with theirs is below `COMPLETE`, or if they fill less than that of their union.
    """
    scores = np.zeros(len(views), np.float32)
    own = cut[group] | (group == np.arange(len(views)))
    np.maximum.at(scores, group[own], views.scores[own])
    strong = views.scores >= WEAK * scores[group]
    stays = group == np.arange(len(views))
    shapes = np.where(cut[group], strong & ~views.whole, stays)
    boxes = _unions(views.boxes, shapes, group)
    whole_scores = np.where(views.whole, views.scores, -np.inf)
    large = strong & views.whole & _first_of(group, whole_scores)
    filled = np.zeros(len(views))
    np.add.at(filled, group[shapes], areas(views.boxes[shapes]))
    doubtful = filled < COMPLETE * areas(boxes)  # parts are missing between those that were seen
    large &= doubtful[group] | (paired_iou(views.boxes, boxes[group]) < COMPLETE)
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
