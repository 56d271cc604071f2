"""Instance masks in NumPy: polygons and RLE, packed bits, targets for RoIs, pasting into images.

Letters: G masks (objects), D detections, F RoIs with a mask target, H, W image size, h, w mask
size, M, S side of a square mask, K samples along one axis.
A mask is (h, w) bool; a box or frame is xyxy. A segmentation has COCO's format: a list of polygons
x1, y1, x2, y2 ..., or a run-length encoding (RLE) {"size": [h, w], "counts": runs}. The runs go
down the columns, and are a list of numbers or packed text.

In `roi_masks`, pixel i of a mask is a sample at i, as in RoIAlign with `aligned=False`.
Elsewhere it covers i to i + 1. Both conventions are torchvision's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

_LEAST_SIDE = np.float32(1e-6)  # side of an empty frame, to avoid division by 0
#: how far polygons may reach, in image sides and in pixels: pycocotools walks along their outlines
#: in 32-bit integers, and crashes far outside the image
_REACH, _FARTHEST = 10, 1_000_000


# Segmentations


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode polygons or an RLE, compressed or not, to a mask (height, width) bool.

    Polygons are drawn by COCO's own rules and merged. Raises ValueError as `check_segmentation`
    does.
    """
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, Mapping):
        return _fill_runs(_runs(segmentation["counts"]), height, width)
    parts = coco_masks.frPyObjects([list(polygon) for polygon in segmentation], height, width)
    return coco_masks.decode(coco_masks.merge(parts)).astype(bool)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Raise ValueError if `decode` cannot draw a segmentation into an image (height, width).

    The faults are an RLE of another size, or with runs that do not fill it; polygons of fewer than
    3 corners; and polygons that reach more than ten image sides away. Nothing is drawn.
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
    """Encode a mask (h, w) as compressed RLE, with counts as text, so that it fits into JSON."""
    rle = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def rasterise(segmentation: Any, stored: tuple[int, int], wanted: tuple[int, int]) -> np.ndarray:
    """Draw the segmentation of an image of size `stored` as a mask (H, W) bool of size `wanted`.

    Polygons are scaled, then drawn. An RLE is decoded, then resized by nearest neighbour like
    torch.nn.functional.interpolate: pixel i is pixel floor(i * stored / wanted).
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


def crop(segmentation: Any, size: tuple[int, int], frame: tuple[int, int, int, int]) -> Any:
    """The part of a segmentation of an image (height, width) inside a frame of whole pixels.

    frame: xyxy. Polygons are shifted and may reach outside, as `decode` cuts them off; those that
    would reach too far become an RLE. Raises ValueError for segmentations that `decode` refuses.
    """
    check_segmentation(segmentation, *size)
    x1, y1, x2, y2 = frame
    height, width = y2 - y1, x2 - x1
    if not isinstance(segmentation, Mapping):
        parts = [(np.reshape(p, (-1, 2)) - (x1, y1)).ravel().tolist() for p in segmentation]
        farthest = max(abs(value) for part in parts for value in part)
        if farthest <= min(_REACH * max(height, width), _FARTHEST):
            return parts
        return encode(decode(segmentation, *size)[y1:y2, x1:x2])
    places = np.cumsum(_runs(segmentation["counts"]).astype(np.int64))
    starts, ends = places[:-1:2], places[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    first, last = starts // size[0], (ends - 1) // size[0]  # columns
    row = np.repeat(np.arange(len(starts)), last - first + 1)
    columns = first[row] + np.arange(len(row)) - np.searchsorted(row, row)
    tops = np.maximum(starts[row] - columns * size[0], y1)
    bottoms = np.minimum(ends[row] - columns * size[0], y2)
    inside = (columns >= x1) & (columns < x2) & (tops < bottoms)
    corner = ((columns - x1) * height - y1)[inside]
    return _encode_spans(corner + tops[inside], corner + bottoms[inside], height, width)


def _runs(counts: Any) -> np.ndarray:
    """The run lengths, background first, of RLE counts in any format."""
    if not isinstance(counts, (str, bytes)):
        return np.asarray(counts, np.float64).reshape(-1)
    text = counts.encode("utf-8") if isinstance(counts, str) else counts
    code = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((code & 32) == 0)  # five bits per letter, low first; 32: more follow
    if ((code < 0) | (code > 63)).any() or not len(ends) or ends[-1] != len(code) - 1:
        raise ValueError("RLE counts that are broken")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise ValueError("RLE counts that are broken")
    place = np.arange(len(code)) - np.repeat(starts, lengths)
    values = np.add.reduceat((code & 31) << (5 * place), starts)
    values -= np.where(code[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):  # from the fourth on, a run is stored as the difference to run i - 2
        values[first::2] = np.cumsum(values[first::2])
    return values


def _fill_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of these runs, which fill it."""
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return np.ascontiguousarray(bits.reshape(width, height).T)


def _nearest(stored: int, wanted: int) -> np.ndarray:
    """The nearest of `stored` pixels for each of `wanted` pixels, in float32 like torch."""
    step = np.float32(stored) / np.float32(wanted)
    return np.minimum((np.arange(wanted, dtype=np.float32) * step).astype(np.int64), stored - 1)


# Bits


def pack(masks: np.ndarray) -> np.ndarray:
    """Pack masks (..., H, W) bool into bits (..., H, ceil(W / 8)) uint8, left pixel first."""
    return np.packbits(np.asarray(masks, bool), axis=-1)


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """Unpack bits (..., H, ceil(width / 8)) to masks (..., H, width) bool."""
    return np.unpackbits(packed, axis=-1, count=width).view(bool)


def flip_masks(masks: np.ndarray) -> np.ndarray:
    """Flip masks (..., H, W) horizontally; mini masks too, because their boxes are flipped."""
    return masks[..., ::-1]


# Resizing


def linear_taps(
    size: int, wanted: int, start: int = 0, stop: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The source pixels of output pixels start..stop when `size` pixels are resized to `wanted`.

    Bilinear without antialiasing, `align_corners=False`, in float32 like torch. Returns indices low
    (K,) and high (K,), and the weight of high, share (K,) float32.
    """
    step = np.float32(size) / np.float32(wanted)
    places = np.arange(start, wanted if stop is None else stop, dtype=np.float32)
    places = np.maximum((places + np.float32(0.5)) * step - np.float32(0.5), 0)
    return _taps(places, size)


def _taps(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The neighbours (low, high) of places (K,) float32 among `size` pixels, and high's weight."""
    places = np.clip(places, 0, size - 1)
    low = places.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), places - low


def _weights(
    taps: tuple[np.ndarray, np.ndarray, np.ndarray], strength: np.ndarray, bins: int
) -> tuple[np.ndarray, slice]:
    """The weights (bins, n) float32 of the n pixels in reach for each bin, and those pixels.

    taps: the samples in order, K / bins per bin. strength (K,): the weight of each sample.
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
    """Crop each RoI from its object's mask and resize it: (F, size, size) float32 in 0..1.

    masks (G, h, w): 0 and 1, of any type. frames (G, 4): the area that each covers, in network
    pixels: the whole image (0, 0, w, h) for a full-size mask, the object's box for a mini mask.
    rois (F, 4): in network pixels. matched (F,): the mask of each RoI.

    For a full-size mask this equals torchvision's roi_align(masks[:, None], rois, size, 1, -1,
    aligned=False): each bin is the mean of ceil(roi side / size) bilinear samples per side. The
    weights of such a mean are a product of row weights and column weights, so it takes two matrix
    products over the pixels in the RoI's reach. A mini mask is sampled at the same image positions.
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
    """The weights (size, n) along one axis of a RoI, and the mask pixels that they apply to.

    start: the RoI's corner relative to the frame's. side, frame: the sides of RoI and frame, all in
    network pixels. pixels: the mask's side. A sample more than one pixel before the frame, or
    beyond its end, is 0.
    """
    count = int(np.ceil(side / size))
    width = side / np.float32(size)
    inside = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * width / np.float32(count)
    corners = start + np.arange(size, dtype=np.float32) * width
    places = (corners[:, None] + inside).ravel()
    strength = ((places >= -1) & (places <= frame)) / np.float32(count)
    scale = np.float32(pixels) / frame
    places = places * scale + np.float32(0.5) * (scale - 1)  # pixel i is centred at i + 0.5
    return _weights(_taps(places, pixels), strength, size)


def mini_masks(masks: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Crop each mask to its box, resize it and threshold at 0.5: (G, size, size) bool.

    masks (G, H, W): 0 and 1. boxes (G, 4): in the masks' pixels. Bilinear without antialiasing,
    like the mini masks of matterport's Mask R-CNN.
    """
    out = np.zeros((len(masks), size, size), bool)
    for mini, mask, (x1, y1, x2, y2) in zip(out, masks, np.asarray(boxes, np.float64)):
        rows, in_height = _box_weights(y1, y2, mask.shape[0], size)
        columns, in_width = _box_weights(x1, x2, mask.shape[1], size)
        resized = rows @ mask[in_height, in_width].astype(np.float32) @ columns.T
        mini[:] = resized >= 0.5 - 1e-6
    return out


def _box_weights(low: float, high: float, pixels: int, size: int) -> tuple[np.ndarray, slice]:
    """The weights (size, n) that resize low..high of an axis, and the pixels they apply to."""
    places = low + (np.arange(size) + 0.5) * (high - low) / size - 0.5
    first = min(max(int(np.floor(low)), 0), pixels - 1)
    last = min(max(int(np.ceil(high)) - 1, first), pixels - 1)
    return _weights(_taps(np.clip(places, first, last), pixels), np.ones(size), size)


# Pasting


def paste(
    probs: np.ndarray, boxes: np.ndarray, height: int, width: int, pad: int = 1
) -> Iterator[np.ndarray]:
    """Paste masks into the image one by one: (height, width) float32, 0 outside their boxes.

    probs (D, M, M) float32; boxes (D, 4) in image pixels. Like torchvision's paste_masks_in_image:
    masks get `pad` pixels of 0 on each side, boxes grow accordingly around their centres and are
    truncated to whole pixels, and the masks are resized to them, bilinear without antialiasing.
    """
    for region, rows, columns in _regions(probs, boxes, height, width, pad):
        image = np.zeros((height, width), np.float32)
        image[rows, columns] = region
        yield image


def paste_rle(
    probs: np.ndarray,
    boxes: np.ndarray,
    height: int,
    width: int,
    threshold: float = 0.5,
    owners: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Paste masks into the image, threshold them, and encode them as RLE; arguments as for `paste`.

    owners (D,): the object 0, 1, ... of each mask; masks of one object are united, and each object
    has at least one. None: each mask is an object. Only one image is in memory, and only the masks'
    boxes are computed.
    """
    canvas = np.zeros((height, width), bool)
    owners = np.arange(len(boxes)) if owners is None else np.asarray(owners)
    order = np.argsort(owners, kind="stable")
    regions = _regions(probs[order], boxes[order], height, width, pad=1)
    out = []
    for count in np.bincount(owners).tolist():
        spans = []
        for _ in range(count):
            region, rows, columns = next(regions)
            canvas[rows, columns] |= region >= threshold
            spans.append((rows.start, rows.stop, columns.start, columns.stop))
        top, _, left, _ = np.min(spans, axis=0)
        _, bottom, _, right = np.max(spans, axis=0)
        out.append(_encode_part(canvas[top:bottom, left:right], top, left, height, width))
        canvas[top:bottom, left:right] = False
    return out


def _encode_part(mask: np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """`encode` for an image (height, width) that is False outside mask (h, w) at (top, left)."""
    columns = np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(columns, axis=1)
    (start_column, start), (end_column, end) = np.nonzero(change == 1), np.nonzero(change == -1)
    starts = (left + start_column) * height + top + start
    ends = (left + end_column) * height + top + end
    return _encode_spans(starts, ends, height, width)


def _encode_spans(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """The RLE of a mask (height, width) that is True from starts (K,) to ends (K,), in order.

    Places count down the columns.
    """
    apart = ends[:-1] != starts[1:]  # a run goes on where a column is full to its last row
    starts, ends = (
        starts[np.append(True, apart)[: len(starts)]],
        ends[np.append(apart, True)[: len(ends)]],
    )
    places = np.stack([starts, ends], axis=1).ravel()
    runs = np.diff(np.concatenate([[0], places, [height * width]]))
    if len(places) and runs[-1] == 0:
        runs = runs[:-1]
    rle = {"size": [height, width], "counts": runs.tolist()}
    counts = coco_masks.frPyObjects(rle, height, width)["counts"]
    return {"size": [height, width], "counts": counts.decode("ascii")}


def _regions(
    probs: np.ndarray, boxes: np.ndarray, height: int, width: int, pad: int
) -> Iterator[tuple[np.ndarray, slice, slice]]:
    """Yield the part of each mask inside the image, with its rows and columns there."""
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
    """The weights (stop - start, size) of `size` pixels for output pixels start..stop."""
    low, high, share = linear_taps(size, wanted, start, stop)
    weights = np.zeros((stop - start, size), np.float32)
    rows = np.arange(stop - start)
    weights[rows, low] = 1 - share
    weights[rows, high] += share
    return weights
