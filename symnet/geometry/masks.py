"""Instance masks in numpy: polygons and RLE, packed bits, targets for RoIs, pasting into images.

Letters: G masks (objects), D detections, F RoIs with a mask target, H, W the sides of an image,
h, w those of a mask, M, S the sides of a square mask; K samples along one axis.
A mask is (h, w) bool; a box or frame is xyxy. A segmentation is what COCO files hold: a list of
polygons x1, y1, x2, y2 ..., or a run-length encoding (RLE) {"size": [h, w], "counts": runs}, the
runs down the columns as a list of numbers or packed into text.

Pixel i of a mask is at i for `roi_masks`, as RoIAlign has it with `aligned=False`, and covers
i to i + 1 for the others. Both are torchvision's ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

_LEAST_SIDE = np.float32(1e-6)  # of a frame that is empty, so that nothing is divided by 0
#: polygons reach no further from the image than this many of its sides, or than that many pixels:
#: pycocotools walks along their outlines, in 32 bits, and crashes far outside
_REACH, _FARTHEST = 10, 1_000_000


# Segmentations


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of polygons or of an RLE, compressed or not.

    Polygons are drawn by COCO's own rules and joined. Raises ValueError for an RLE of another size,
    or whose runs do not fill it, and for polygons that are none.
    """
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, Mapping):
        return _fill_runs(_runs(segmentation["counts"]), height, width)
    parts = coco_masks.frPyObjects([list(polygon) for polygon in segmentation], height, width)
    return coco_masks.decode(coco_masks.merge(parts)).astype(bool)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """ValueError for what `decode` cannot draw into an image (height, width); draws nothing.

    That is an RLE of another size or whose runs do not fill it, polygons that are none, and those
    that reach more than ten images away.
    """
    if isinstance(segmentation, Mapping):
        size = list(segmentation["size"])
        if size != [height, width]:
            raise ValueError(f"RLE of size {size}, not [{height}, {width}]")
        runs = _runs(segmentation["counts"])
        if (runs < 0).any() or (runs % 1).any() or runs.sum() != height * width:
            raise ValueError(f"RLE runs do not fill {height} x {width} pixels")
        return
    if not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        raise ValueError("neither an RLE nor polygons of at least 3 corners")
    farthest = max(max(map(abs, polygon)) for polygon in segmentation)
    if not farthest <= min(_REACH * max(height, width), _FARTHEST):
        raise ValueError(f"a polygon reaches to {farthest:g}, in an image of {width} x {height}")


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask (h, w) as compressed RLE: size, and counts as text, so that JSON takes it."""
    rle = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def rasterise(segmentation: Any, stored: tuple[int, int], wanted: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool, `wanted`, of a segmentation of an image of size (h, w), `stored`.

    Polygons are scaled, then drawn; an RLE is decoded and resized to the nearest pixel as
    torch.nn.functional.interpolate does: pixel i is pixel floor(i * stored / wanted).
    Raises ValueError as `decode` does.
    """
    if stored == wanted:
        return decode(segmentation, *wanted)
    if isinstance(segmentation, Mapping):
        mask = decode(segmentation, *stored)
        rows, columns = (_nearest(old, new) for old, new in zip(stored, wanted))
        return mask[rows[:, None], columns]
    ratio = wanted[1] / stored[1], wanted[0] / stored[0]
    scaled = [(np.reshape(p, (-1, 2)) * ratio).ravel().tolist() for p in segmentation or []]
    return decode(scaled, *wanted)


def _runs(counts: Any) -> np.ndarray:
    """The lengths of the runs, background first, of RLE counts in any of their forms."""
    if not isinstance(counts, (str, bytes)):
        return np.asarray(counts, np.float64).reshape(-1)
    text = counts.encode("utf-8") if isinstance(counts, str) else counts
    code = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((code & 32) == 0)  # five bits a letter, low ones first; 32: more follow
    if ((code < 0) | (code > 63)).any() or not len(ends) or ends[-1] != len(code) - 1:
        raise ValueError("RLE counts that are broken")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise ValueError("RLE counts that are broken")
    place = np.arange(len(code)) - np.repeat(starts, lengths)
    values = np.add.reduceat((code & 31) << (5 * place), starts)
    values -= np.where(code[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):  # from the fourth on a run is told by its difference to the last but one
        values[first::2] = np.cumsum(values[first::2])
    return values


def _fill_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of runs that fill it."""
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return np.ascontiguousarray(bits.reshape(width, height).T)


def _nearest(stored: int, wanted: int) -> np.ndarray:
    """For each of `wanted` pixels the nearest of `stored`, in float32 as torch has it."""
    step = np.float32(stored) / np.float32(wanted)
    return np.minimum((np.arange(wanted, dtype=np.float32) * step).astype(np.int64), stored - 1)


# Bits


def pack(masks: np.ndarray) -> np.ndarray:
    """Masks (..., H, W) bool as bits (..., H, ceil(W / 8)) uint8, the left pixel highest."""
    return np.packbits(np.asarray(masks, bool), axis=-1)


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """The masks (..., H, width) bool of bits (..., H, ceil(width / 8))."""
    return np.unpackbits(packed, axis=-1, count=width).view(bool)


def flip_masks(masks: np.ndarray) -> np.ndarray:
    """Masks (..., H, W) mirrored left to right; mini masks too, as their boxes are mirrored."""
    return masks[..., ::-1]


# Resizing


def linear_taps(
    size: int, wanted: int, start: int = 0, stop: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pixels start..stop of `wanted` come from when `size` pixels are resized to them.

    Bilinear without antialiasing, `align_corners=False`, in float32 as torch has it. Returns (low
    (K,), high (K,) indices, share (K,) float32 of high).
    """
    step = np.float32(size) / np.float32(wanted)
    places = np.arange(start, wanted if stop is None else stop, dtype=np.float32)
    places = np.maximum((places + np.float32(0.5)) * step - np.float32(0.5), 0)
    return _taps(places, size)


def _taps(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The neighbours (low, high) of places (K,) float32 among `size` pixels, and high's share."""
    places = np.clip(places, 0, size - 1)
    low = places.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), places - low


def _weights(
    taps: tuple[np.ndarray, np.ndarray, np.ndarray], strength: np.ndarray, bins: int
) -> tuple[np.ndarray, slice]:
    """(bins, n) float32: how much of each pixel in reach is in each bin; and which pixels they are.

    Samples are in order, K / bins a bin; strength (K,) is what each counts.
    """
    low, high, share = taps
    first, count = int(low.min()), int(high.max() - low.min()) + 1
    row = np.repeat(np.arange(bins) * count - first, len(low) // bins)
    where = np.concatenate([row + low, row + high])
    values = np.concatenate([(1 - share) * strength, share * strength])
    weights = np.bincount(where, values, bins * count).reshape(bins, count)
    return weights.astype(np.float32), slice(first, first + count)


# Targets


def roi_masks(
    masks: np.ndarray, frames: np.ndarray, rois: np.ndarray, matched: np.ndarray, size: int
) -> np.ndarray:
    """What each RoI sees of its object's mask: (F, size, size) float32 in 0..1.

    masks (G, h, w) of any type, 0 and 1; frames (G, 4): where each lies in network pixels, the
    whole image (0, 0, w, h) for one of full size, the object's box for a mini mask; rois (F, 4) in
    network pixels; matched (F,): the mask of each RoI.

    For a mask of full size this is torchvision's roi_align(masks[:, None], rois, size, 1, -1,
    aligned=False): each bin is the mean of ceil(roi side / size) bilinear samples a side. Such a
    mean is a product of weights of rows and weights of columns, so it is two matrix products over
    the pixels in the RoI's reach. A mini mask is sampled at the same places in the image.
    """
    out = np.zeros((len(rois), size, size), np.float32)
    frames, rois = np.asarray(frames, np.float32), np.asarray(rois, np.float32)
    sides = np.maximum(rois[:, 2:4] - rois[:, 0:2], np.float32(1))
    starts = rois[:, 0:2] - frames[matched, 0:2]
    lengths = np.maximum(frames[:, 2:4] - frames[:, 0:2], _LEAST_SIDE)[matched]
    for f, g in enumerate(matched):
        (x, y), (width, height), frame = starts[f], sides[f], lengths[f]
        columns, in_width = _bin_weights(x, width, frame[0], masks.shape[2], size)
        rows, in_height = _bin_weights(y, height, frame[1], masks.shape[1], size)
        out[f] = rows @ masks[g, in_height, in_width].astype(np.float32) @ columns.T
    return out


def _bin_weights(
    start: np.float32, side: np.float32, frame: np.float32, pixels: int, size: int
) -> tuple[np.ndarray, slice]:
    """Weights (size, n) of an axis of an RoI, and the pixels of the mask that they are for.

    start and frame: the RoI's corner from the frame's, and the frame's side, in network pixels;
    pixels: the mask's side. A sample more than a pixel before the frame or beyond its end is 0.
    """
    count = int(np.ceil(side / size))
    width = side / np.float32(size)
    inside = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * width / np.float32(count)
    corners = start + np.arange(size, dtype=np.float32) * width
    places = (corners[:, None] + inside).ravel()
    strength = ((places >= -1) & (places <= frame)) / np.float32(count)
    scale = np.float32(pixels) / frame
    places = places * scale + np.float32(0.5) * (scale - 1)  # the centre of pixel i is at i + 0.5
    return _weights(_taps(places, pixels), strength, size)


def mini_masks(masks: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Each mask cut to its box and resized, (G, size, size) bool: where the result is 0.5 or more.

    masks (G, H, W) of 0 and 1; boxes (G, 4) in their pixels. Bilinear, without antialiasing, as the
    mini masks of matterport's Mask R-CNN.
    """
    out = np.zeros((len(masks), size, size), bool)
    for mini, mask, (x1, y1, x2, y2) in zip(out, masks, np.asarray(boxes, np.float64)):
        rows, in_height = _box_weights(y1, y2, mask.shape[0], size)
        columns, in_width = _box_weights(x1, x2, mask.shape[1], size)
        resized = rows @ mask[in_height, in_width].astype(np.float32) @ columns.T
        mini[:] = resized >= 0.5 - 1e-6
    return out


def _box_weights(low: float, high: float, pixels: int, size: int) -> tuple[np.ndarray, slice]:
    """Weights (size, n) that resize low..high of an axis, and the pixels that they are for."""
    places = low + (np.arange(size) + 0.5) * (high - low) / size - 0.5
    first = min(max(int(np.floor(low)), 0), pixels - 1)
    last = min(max(int(np.ceil(high)) - 1, first), pixels - 1)
    return _weights(_taps(np.clip(places, first, last), pixels), np.ones(size), size)


# Pasting


def paste(
    probs: np.ndarray, boxes: np.ndarray, height: int, width: int, pad: int = 1
) -> Iterator[np.ndarray]:
    """The masks (height, width) float32 in the image, one after the other, 0 outside their boxes.

    probs (D, M, M) float32; boxes (D, 4) in image pixels. As torchvision's paste_masks_in_image:
    masks get `pad` pixels of 0 on each side, boxes grow about their centres accordingly and are cut
    to whole pixels, and the masks are resized to them, bilinear, without antialiasing.
    """
    for region, rows, columns in _regions(probs, boxes, height, width, pad):
        image = np.zeros((height, width), np.float32)
        image[rows, columns] = region
        yield image


def paste_rle(
    probs: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """The masks in the image where they are at least `threshold`, as RLE; arguments as of `paste`.

    One mask at a time is in memory, and only its box is computed.
    """
    canvas = np.zeros((height, width), np.uint8, order="F")
    out = []
    for region, rows, columns in _regions(probs, boxes, height, width, pad=1):
        canvas[rows, columns] = region >= threshold
        out.append(encode(canvas))
        canvas[rows, columns] = 0
    return out


def _regions(
    probs: np.ndarray, boxes: np.ndarray, height: int, width: int, pad: int
) -> Iterator[tuple[np.ndarray, slice, slice]]:
    """For each mask its part inside the image, and the rows and columns that this part is on."""
    side = probs.shape[-1]
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    centres = (boxes[:, 2:4] + boxes[:, 0:2]) * np.float32(0.5)
    halves = (boxes[:, 2:4] - boxes[:, 0:2]) * np.float32(0.5) * np.float32((side + 2 * pad) / side)
    low, high = (centres - halves).astype(np.int64), (centres + halves).astype(np.int64)
    sizes = np.maximum(high - low + 1, 1)
    for prob, (x, y), (box_width, box_height) in zip(probs, low.tolist(), sizes.tolist()):
        left, right = max(x, 0), min(x + box_width, width)
        top, bottom = max(y, 0), min(y + box_height, height)
        if left >= right or top >= bottom:
            yield np.zeros((0, 0), np.float32), slice(0, 0), slice(0, 0)
            continue
        padded = np.pad(np.asarray(prob, np.float32), pad)
        rows = _resize_weights(len(padded), box_height, top - y, bottom - y)
        columns = _resize_weights(len(padded), box_width, left - x, right - x)
        yield rows @ padded @ columns.T, slice(top, bottom), slice(left, right)


def _resize_weights(size: int, wanted: int, start: int, stop: int) -> np.ndarray:
    """(stop - start, size): how much of each of `size` pixels is in pixels start..stop."""
    low, high, share = linear_taps(size, wanted, start, stop)
    weights = np.zeros((stop - start, size), np.float32)
    rows = np.arange(stop - start)
    weights[rows, low] = 1 - share
    weights[rows, high] += share
    return weights
