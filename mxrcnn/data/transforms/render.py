"""Draw a scene: its pixels, boxes and masks as a network input.

Letters: N objects, h, w the scene's size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mxrcnn.config import DataConfig
from mxrcnn.data.records import DataError
from mxrcnn.data.transforms.sample import (
    Sample,
    check_masks,
    normalise,
    read_pixels,
    resized_size,
    trainable_objects,
)
from mxrcnn.data.transforms.scene import Layer, Scene, inverted, move_boxes, move_mask, turns
from symnet.geometry.boxes import areas
from symnet.geometry.masks import mini_masks, pack
from symnet.geometry.targets import REGION

#: an object is left out if less than this share of its box is to be seen, or, with masks, of its
#: mask, or if a side of what is to be seen is shorter than this, in network pixels. ultralytics has
#: the same limits
LEAST_VISIBLE, LEAST_SIDE = 0.1, 2.0


@dataclass(frozen=True)
class _Masks:
    """The masks of a scene's objects.

    layers: for each layer (N, h, w) bool, without what other layers cover, empty for objects that
    are not trained on. drawn, left: the area of each object's mask, over all layers, before and
    after it was covered.
    """

    layers: list[np.ndarray]
    drawn: np.ndarray
    left: np.ndarray

    def of(self, objects: np.ndarray) -> np.ndarray:
        """The masks of some objects, counted over all layers: (N, h, w) bool."""
        each = [mask for layer in self.layers for mask in layer]
        size = self.layers[0].shape[1:]
        return np.stack([each[i] for i in objects]) if len(objects) else np.zeros((0, *size), bool)


@dataclass(frozen=True)
class _Objects:
    """The objects of a scene, layer by layer.

    boxes (N, 4): what is to be seen of each. classes (N,). wanted (N,) bool: to be trained on.
    shown (N,) bool: not left out. why: how many of the wanted were left out, by reason.
    """

    boxes: np.ndarray
    classes: np.ndarray
    wanted: np.ndarray
    shown: np.ndarray
    why: Counter[str]


def render(
    scene: Scene, data: DataConfig, regions: bool = False, rows: int | None = None
) -> tuple[Sample, Counter[str]]:
    """The network input of a scene, and how many objects were left out, by reason.

    regions: also give ignore regions: objects that are not trained on, and the visible parts of
    those left out. rows: at most so many rows of gt_boxes.
    Raises DataError as `load_sample` does.
    """
    masks = _masks(scene, data) if data.masks else None
    picture = _picture(scene, data, masks)
    objects = _objects(scene, data, masks)
    chosen = np.flatnonzero(objects.wanted & objects.shown)
    visible = (objects.boxes[:, 2:] > objects.boxes[:, :2]).all(axis=1)
    ignored = np.flatnonzero(~(objects.wanted & objects.shown) & visible & regions)
    if rows is not None:
        objects.why["too many"] += max(0, len(chosen) - rows)
        chosen = chosen[:rows]
        ignored = ignored[: rows - len(chosen)]
    boxes = objects.boxes[np.append(chosen, ignored)]
    classes = np.append(objects.classes[chosen], np.full(len(ignored), REGION))
    packed = None
    if masks is not None:
        bits = masks.of(chosen)
        bits = mini_masks(bits, boxes[: len(chosen)], data.mini_mask) if data.mini_mask else bits
        packed = np.pad(pack(bits), ((0, len(ignored)), (0, 0), (0, 0)))
    record = scene.layers[0].record
    im_info = np.array([*scene.size, resized_size(record.height, record.width, data)[2]])
    gt_boxes = np.concatenate([boxes, classes[:, None]], axis=1).astype(np.float32)
    for edit in scene.edits:
        picture = edit(picture)
    image = normalise(np.asarray(picture), data)
    sample = Sample(image, im_info.astype(np.float32), gt_boxes, packed)
    return sample, +objects.why


def _picture(scene: Scene, data: DataConfig, masks: _Masks | None) -> Image.Image:
    """A scene's pixels before its edits. Pillow copies and flips pixels faster than NumPy."""
    out = None
    for place, layer in enumerate(scene.layers):
        left, top, right, bottom = target = whole_pixels(layer.clip)
        if right <= left or bottom <= top:
            continue  # nothing of it is to be seen, so it is not read
        needed = layer.drawn_size if data.reduced_jpeg else None
        found = drawn(read_pixels(layer.record, data, needed), layer, target, data)
        if out is None and target == (0, 0, scene.size[1], scene.size[0]):
            out = found
            continue
        out = out or _blank(scene, data)
        alpha = None
        if layer.cut_out and masks is not None:
            shown = masks.layers[place].any(axis=0)[top:bottom, left:right]
            alpha = Image.fromarray(shown.astype(np.uint8) * np.uint8(255))
        out.paste(found, (left, top), alpha)
    return out or _blank(scene, data)


def _blank(scene: Scene, data: DataConfig) -> Image.Image:
    """A picture of the mean colour."""
    return Image.new("RGB", scene.size[::-1], tuple(round(value) for value in data.mean))


def whole_pixels(box: np.ndarray) -> tuple[int, int, int, int]:
    """A box (4,), its sides rounded to whole pixels."""
    return tuple(int(side) for side in np.round(box))


def drawn(
    pixels: np.ndarray, layer: Layer, target: tuple[int, int, int, int], data: DataConfig
) -> Image.Image:
    """The part of an image (H, W, 3) uint8 that a layer shows in a box of the scene.

    pixels: of the layer's image, or fewer, if it was decoded at reduced size. target: the box, in
    whole pixels. Resized as `DataConfig.resize` says.
    """
    height, width = pixels.shape[:2]
    source = move_boxes(inverted(layer.map), np.array(target, np.float64))
    source *= np.array([width / layer.record.width, height / layer.record.height] * 2)
    source = tuple(np.clip(source, 0, (width, height, width, height)).tolist())
    size = target[2] - target[0], target[3] - target[1]
    turned = turns(layer.map)
    size = size[::-1] if turned else size
    image = Image.fromarray(pixels)
    larger = size[0] >= source[2] - source[0] and size[1] >= source[3] - source[1]
    if data.resize == "antialias" or larger:  # both are the same then, but this one is faster
        image = image.resize(size, Image.Resampling.BILINEAR, source)
    else:
        how = Image.Transform.EXTENT, source, Image.Resampling.BILINEAR
        image = image.transform(size, *how)
    x, y = layer.map[:, :2].sum(axis=1)  # a map has one factor for each side
    ways = (
        (turned, Image.Transpose.TRANSPOSE),
        (x < 0, Image.Transpose.FLIP_LEFT_RIGHT),
        (y < 0, Image.Transpose.FLIP_TOP_BOTTOM),
    )
    for wanted, way in ways:
        image = image.transpose(way) if wanted else image
    return image


def _masks(scene: Scene, data: DataConfig) -> _Masks:
    """Draw the masks of a scene's objects."""
    layers: list[np.ndarray] = []
    for layer in scene.layers:
        record = layer.record
        check_masks(record, data)
        masks = np.zeros((len(record), *scene.size), bool)
        left, top, right, bottom = whole_pixels(layer.clip)
        inside = np.s_[top:bottom, left:right]
        for i in np.flatnonzero(trainable_objects(record, data) & layer.keep):
            try:
                stored = record.height, record.width
                mask = move_mask(layer.map, record.masks[i], stored, scene.size)
            except ValueError as error:
                raise DataError(record.path, f"the mask of object {i}: {error}") from error
            masks[i][inside] = mask[inside]
        layers.append(masks)
    drawn = left = _sizes(layers)
    for place, layer in enumerate(scene.layers):
        if layer.cut_out:
            covered = layers[place].any(axis=0)
            for below in layers[:place]:
                below &= ~covered
            left = _sizes(layers)
    return _Masks(layers, drawn, left)


def _sizes(layers: list[np.ndarray]) -> np.ndarray:
    """The area of each mask, over all layers: (N,)."""
    return np.array([np.count_nonzero(mask) for layer in layers for mask in layer], np.int64)


def _objects(scene: Scene, data: DataConfig, masks: _Masks | None) -> _Objects:
    """The objects of a scene, and which are left out."""
    layers = scene.layers
    boxes = np.concatenate([layer.visible for layer in layers])
    full = areas(np.concatenate([layer.boxes for layer in layers]))
    kept = np.concatenate([layer.keep for layer in layers])
    wanted = np.concatenate([trainable_objects(layer.record, data) for layer in layers])
    cut = ~kept | (areas(boxes) < LEAST_VISIBLE * full)
    covered, small = np.zeros((2, len(boxes)), bool)
    if masks is not None:
        small = wanted & (masks.drawn == 0)
        covered = masks.left < np.maximum(LEAST_VISIBLE * masks.drawn, 1)
        covered &= masks.drawn > 0
        changed = np.flatnonzero((masks.left < masks.drawn) & ~covered & ~cut)
        for i, mask in zip(changed, masks.of(changed)):
            boxes[i] = _extent(mask, boxes[i])
    small = small | (boxes[:, 2:] - boxes[:, :2] < LEAST_SIDE).any(axis=1)
    shown, why = np.ones(len(boxes), bool), Counter()
    for reason, out in (("cut off", cut), ("covered", covered), ("too small", small)):
        why[reason] = int((shown & out & wanted).sum())
        shown &= ~out
    classes = np.concatenate([layer.record.classes for layer in layers])
    return _Objects(boxes, classes, wanted, shown, why)


def _extent(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of a box (4,) that a mask (h, w) reaches; the mask is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    low, high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
    return np.concatenate([np.maximum(box[:2], low), np.minimum(box[2:], high)])
