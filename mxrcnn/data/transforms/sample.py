"""From a record to network inputs: decode, resize, flip, normalise and pad images and objects.

Letters: N objects, H, W the padded network image, h, w without padding, B images of a batch, S the
side of a mini mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np
from PIL import Image

from mxrcnn.config import DataConfig
from mxrcnn.data.images import decode_image, reduction, scalable, size_error
from mxrcnn.data.records import DataError, ImageRecord, Window
from mxrcnn.data.store import kept
from symnet.geometry.boxes import flip_boxes
from symnet.geometry.masks import flip_masks, linear_taps, mini_masks, pack, rasterise
from symnet.geometry.targets import REGION

#: rows that `resize_linear` computes at once
_ROWS = 32


@dataclass(frozen=True)
class Sample:
    """One network image: image (3, h, w) float32, im_info (3,) h, w, scale, gt_boxes (N, 5).

    The rows of gt_boxes are xyxy and class; ignore regions come last, with class -2. gt_masks:
    None, or packed bits for each row, those of ignore regions empty: (N, h, ceil(w / 8)) uint8 in
    network pixels, or mini masks (N, S, ceil(S / 8)) of the boxes' insides.
    """

    image: np.ndarray
    im_info: np.ndarray
    gt_boxes: np.ndarray
    gt_masks: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) without padding."""
        return self.image.shape[1], self.image.shape[2]


def resized_size(height: int, width: int, data: DataConfig) -> tuple[int, int, float]:
    """(height, width, scale) after resizing to short_side, or to long_side if that scales less.

    Sides are at least 1 pixel. A limit of 0 is none; with both 0 the image keeps its size.
    """
    scale = data.short_side / min(height, width) if data.short_side else 1.0
    if data.long_side and scale * max(height, width) > data.long_side:
        scale = data.long_side / max(height, width)
    whole = floor if data.size_rounding == "floor" else round
    return max(1, whole(height * scale)), max(1, whole(width * scale)), scale


def typical_scale(records: Sequence[ImageRecord], data: DataConfig) -> float:
    """The median of the scales (see `resized_size`) of some images; 0 if there are none.

    If some are larger than `data.tile`, it is that of their tiles.
    """
    sizes = [(record.height, record.width) for record in records]
    if data.tile and any(max(size) > data.tile for size in sizes):
        sizes = [(min(h, data.tile), min(w, data.tile)) for h, w in sizes if max(h, w) > data.tile]
    scales = [resized_size(*size, data)[2] for size in sizes]
    return float(np.median(scales)) if scales else 0.0


def padded_size(sizes: list[tuple[int, int]], multiple: int, least: int = 0) -> tuple[int, int]:
    """The smallest (H, W), multiples of `multiple`, that holds images of all these sizes.

    least: lower limit of H and W; `DataConfig.least_padded_side` for square images.
    """
    height, width = np.maximum(np.max(np.asarray(sizes), axis=0), least)
    return int(-(-height // multiple) * multiple), int(-(-width // multiple) * multiple)


def normalise(pixels: np.ndarray, data: DataConfig) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB as a network image (3, H, W) float32: (pixels - mean) / std."""
    image = np.empty((3, *pixels.shape[:2]), np.float32)
    colours = zip(image, pixels.transpose(2, 0, 1), np.float32(data.mean), np.float32(data.std))
    for plane, colour, mean, std in colours:  # a tenth of the time of all three at once
        np.copyto(plane, colour)
        plane -= mean
        plane /= std
    return image


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image (3, h, w) float32 to (3, height, width) as torchvision's detectors do.

    That is torch.nn.functional.interpolate(mode="bilinear", align_corners=False), not antialiased.
    """
    return _interpolate(_interpolate(image, 2, width), 1, height)


def _interpolate(image: np.ndarray, axis: int, wanted: int) -> np.ndarray:
    """An image (3, h, w) with `wanted` pixels along axis 1 or 2.

    Some rows at a time: they stay in the cache, which takes less than half the time of all at once.
    """
    low, high, share = linear_taps(image.shape[axis], wanted)
    shape = [*image.shape[:axis], wanted, *image.shape[axis + 1 :]]
    resized = np.empty(shape, np.float32)
    spare = np.empty((_ROWS, shape[2]), np.float32)
    for plane, target in zip(image, resized):
        for start in range(0, shape[1], _ROWS):
            rows = slice(start, start + _ROWS)
            if axis == 1:
                source, first, second, weight = plane, low[rows], high[rows], share[rows, None]
            else:
                source, first, second, weight = plane[rows], low, high, share
            before, after = target[rows], spare[: len(target[rows])]
            np.take(source, first, axis - 1, before, "clip")
            np.take(source, second, axis - 1, after, "clip")
            after -= before
            after *= weight
            before += after
    return resized


def prepare_image(
    pixels: np.ndarray,
    data: DataConfig,
    flip: bool = False,
    size: tuple[int, int] | None = None,
) -> Sample:
    """The network image of pixels (H, W, 3) uint8 RGB, without objects.

    flip: the exact mirror image of the result without it. size: (height, width) of the image if its
    pixels were decoded at reduced size.
    """
    height, width, scale = resized_size(*(size or pixels.shape[:2]), data)
    same = (height, width) == pixels.shape[:2]
    if data.resize == "antialias" and not same:
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    image = normalise(pixels, data)
    if data.resize == "linear" and not same:
        image = resize_linear(image, height, width)
    im_info = np.array([height, width, scale], np.float32)
    return Sample(image[:, :, ::-1] if flip else image, im_info, np.zeros((0, 5), np.float32))


def trainable_objects(record: ImageRecord, data: DataConfig) -> np.ndarray:
    """The objects (N,) bool to train on: no crowds, and difficult ones only with use_difficult."""
    keep = ~record.crowd
    return keep if data.use_difficult else keep & ~record.difficult


def check_masks(record: ImageRecord, data: DataConfig) -> None:
    """DataError, naming file and object, if masks are wanted and an object to train on has none."""
    if not data.masks:
        return
    for i in np.flatnonzero(trainable_objects(record, data)):
        if record.masks is None or record.masks[i] is None:
            raise DataError(record.path, f"object {i} has no mask, which data.masks=True needs")


def load_sample(
    record: ImageRecord,
    data: DataConfig,
    flip: bool = False,
    regions: bool = False,
    reduced: bool = False,
) -> Sample:
    """The network image of a record with its objects; with `regions` also its ignore regions.

    Ignore regions are the boxes of objects that are not trained on, see `trainable_objects`.
    reduced: decode a large JPEG at reduced size, see `mxrcnn.data.images.reduction`.
    Raises DataError if the file cannot be decoded or has another size, and if masks are wanted but
    missing or broken.
    """
    check_masks(record, data)
    stored = record.height, record.width
    needed = resized_size(*stored, data)[:2] if reduced else None
    sample = prepare_image(read_pixels(record, data, needed), data, flip, stored)
    keep = trainable_objects(record, data)
    height, width = sample.size
    ratio = np.array([width / record.width, height / record.height] * 2, np.float32)
    ignored = ~keep & regions
    boxes = record.boxes[keep] * ratio
    masks = None
    if data.masks:
        masks = _network_masks(record, np.flatnonzero(keep), stored, sample.size)
        masks = mini_masks(masks, boxes, data.mini_mask) if data.mini_mask else masks
        masks = pack(flip_masks(masks) if flip else masks)
        masks = np.pad(masks, ((0, ignored.sum()), (0, 0), (0, 0)))
    boxes = np.concatenate([boxes, record.boxes[ignored] * ratio])
    if flip:
        boxes = flip_boxes(boxes, width)
    classes = np.append(record.classes[keep], np.full(ignored.sum(), REGION))
    gt_boxes = np.concatenate([boxes, classes[:, None]], axis=1).astype(np.float32)
    return replace(sample, gt_boxes=gt_boxes, gt_masks=masks)


def read_pixels(
    record: ImageRecord, data: DataConfig, needed: tuple[int, int] | None = None
) -> np.ndarray:
    """The pixels (H, W, 3) uint8 RGB of a record's file; DataError if their size is another one.

    needed: the (height, width) at which the pixels are needed; a JPEG may then be decoded at 1/2,
    1/4 or 1/8 of its size, see `decode_image`. A window of a file has all of its pixels.
    """
    if record.window is not None:
        return _read_window(record, record.window, data)
    decoded = decode_image(
        record.path,
        data.exif_orientation,
        data.max_image_pixels,
        None if needed is None else lambda height, width: needed,
    )
    found, stated = decoded.size, (record.height, record.width)
    if found != stated:
        raise size_error(record.path, found, stated, data.exif_orientation)
    return decoded.pixels


def _read_window(record: ImageRecord, window: Window, data: DataConfig) -> np.ndarray:
    """The pixels of a part of a file, by the store of decoded images if there is one."""
    height, width = window.size
    whole = replace(record, height=height, width=width, window=None)
    left, top, right, bottom = window.frame
    if window.store is None:
        pixels = read_pixels(whole, data)
    else:
        pixels = kept(
            *(window.store, record.path, data.exif_orientation, window.size),
            lambda: read_pixels(whole, data),
        )
    return np.array(pixels[top:bottom, left:right])


def count_reduced(records: Iterable[ImageRecord], data: DataConfig) -> int:
    """How many images are decoded at reduced size when they are tested; DataError as `opened`."""
    sizes = ((r, (r.height, r.width), resized_size(r.height, r.width, data)[:2]) for r in records)
    return sum(reduction(size, needed) > 1 and scalable(r.path) for r, size, needed in sizes)


def _network_masks(
    record: ImageRecord, objects: np.ndarray, stored: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """The masks (N, h, w) bool of some objects. stored: size of the file; size: (h, w)."""
    masks = np.zeros((len(objects), *size), bool)
    for mask, i in zip(masks, objects):
        try:
            mask[:] = rasterise(record.masks[i], stored, size)
        except ValueError as error:
            raise DataError(record.path, f"the mask of object {i}: {error}") from error
    return masks


def stack_images(samples: list[Sample], size: tuple[int, int]) -> np.ndarray:
    """Images of several samples, padded with zeros (the mean colour) to (B, 3, H, W).

    A single image that needs no padding is not copied.
    """
    if [sample.size for sample in samples] == [size]:
        return np.ascontiguousarray(samples[0].image)[None]
    batch = np.zeros((len(samples), 3, *size), np.float32)
    for padded, sample in zip(batch, samples):
        padded[:, : sample.size[0], : sample.size[1]] = sample.image
    return batch


def stack_masks(samples: list[Sample], capacity: int, size: tuple[int, int]) -> np.ndarray:
    """Masks of several samples, padded with zeros: bits (B, capacity, H, ceil(W / 8)) uint8.

    size: (H, W) of the padded images, or (S, S) for mini masks.
    """
    batch = np.zeros((len(samples), capacity, size[0], -(-size[1] // 8)), np.uint8)
    for padded, sample in zip(batch, samples):
        count, height, width = sample.gt_masks.shape
        padded[:count, :height, :width] = sample.gt_masks
    return batch
