"""From a record to what a network eats: decode, resize, flip, normalise, pad; boxes with it.

Letters: N objects, H, W the network image, B images of a batch, G rows of gt_boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mxrcnn.config import DataConfig
from mxrcnn.data.images import read_image
from mxrcnn.data.records import ImageRecord
from symnet.boxes import flip_boxes


@dataclass(frozen=True)
class Sample:
    """One network image: image (3, H, W) float32, im_info (3,) h, w, scale, gt_boxes (N, 5)."""

    image: np.ndarray
    im_info: np.ndarray
    gt_boxes: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) without padding."""
        return self.image.shape[1], self.image.shape[2]


def resized_size(height: int, width: int, data: DataConfig) -> tuple[int, int, float]:
    """The size after resizing, and its scale: to short_side, unless that passes long_side.

    At least 1 pixel a side. A side limit of 0 is none; with both 0 the image keeps its size.
    """
    scale = data.short_side / min(height, width) if data.short_side else 1.0
    if data.long_side and scale * max(height, width) > data.long_side:
        scale = data.long_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale)), scale


def padded_size(sizes: list[tuple[int, int]], multiple: int) -> tuple[int, int]:
    """The smallest (H, W), multiples of `multiple`, that holds images of all these sizes."""
    height, width = np.max(np.asarray(sizes), axis=0)
    return int(-(-height // multiple) * multiple), int(-(-width // multiple) * multiple)


def normalise(pixels: np.ndarray, data: DataConfig) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB as a network image (3, H, W) float32: minus mean, by std."""
    mean, std = np.float32(data.mean), np.float32(data.std)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def prepare_image(pixels: np.ndarray, data: DataConfig, flip: bool = False) -> Sample:
    """A network image of pixels (H, W, 3) uint8 RGB, without objects."""
    height, width, scale = resized_size(*pixels.shape[:2], data)
    if (height, width) != pixels.shape[:2]:
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    if flip:
        pixels = pixels[:, ::-1]
    im_info = np.array([height, width, scale], np.float32)
    return Sample(normalise(pixels, data), im_info, np.zeros((0, 5), np.float32))


def trainable_objects(record: ImageRecord, data: DataConfig) -> np.ndarray:
    """Which objects (N,) bool a detector learns from: no crowds; difficult ones by config."""
    keep = ~record.crowd
    return keep if data.use_difficult else keep & ~record.difficult


def load_sample(record: ImageRecord, data: DataConfig, flip: bool = False) -> Sample:
    """The network image of a record with its objects; DataError if the file cannot be decoded."""
    pixels = read_image(record.path, data.exif_orientation)
    sample = prepare_image(pixels, data, flip)
    keep = trainable_objects(record, data)
    height, width = sample.size
    ratio = np.array([width / pixels.shape[1], height / pixels.shape[0]] * 2, np.float32)
    boxes = record.boxes[keep] * ratio
    if flip:
        boxes = flip_boxes(boxes, width)
    gt_boxes = np.concatenate([boxes, record.classes[keep, None]], axis=1).astype(np.float32)
    return Sample(sample.image, sample.im_info, gt_boxes)


def stack_images(samples: list[Sample], size: tuple[int, int]) -> np.ndarray:
    """Images of several samples, padded with zeros (the mean colour) to (B, 3, H, W)."""
    batch = np.zeros((len(samples), 3, *size), np.float32)
    for padded, sample in zip(batch, samples):
        padded[:, : sample.size[0], : sample.size[1]] = sample.image
    return batch
