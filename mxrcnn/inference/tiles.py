"""Predictions of large images in tiles: their scale, their batches, and the joined detections.

symnet/geometry/tiles.py cuts an image into tiles, joining.py joins what was found in them.
Letters: T tiles, V views (detections of one tile, or of the whole image), K joined objects.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Union

import numpy as np
from tqdm import tqdm

from mxrcnn.config import LEAST_TILE, MOST_OVERLAP, ConfigError, DataConfig
from mxrcnn.data.images import size_error
from mxrcnn.data.pictures import Picture, read_pixels
from mxrcnn.data.records import Dataset, Detections, ImageRecord, Orientation
from mxrcnn.data.transforms import resized_size, stack_images
from mxrcnn.inference.engine import Outputs
from mxrcnn.inference.predictor import Predictor, Prepared, Wanted
from symnet.geometry.joining import join_views
from symnet.geometry.masks import paste_rle
from symnet.geometry.tiles import Views, tile_frames

TileSide = Union[int, Literal["auto"]]

#: the default overlap. Tiles of the training's size need more: objects fill more of them.
OVERLAP, AUTO_OVERLAP = 0.2, 0.4
#: boxes that end within so many network pixels of a tile's border are cut by it
MARGIN = 4
#: tiles of about so many network pixels in total are a batch, unless the user gives its size
BATCH_PIXELS = 1 << 21


@dataclass(frozen=True)
class Tiling:
    """How large images are cut. Raises ConfigError for values out of range.

    tile: the side of a tile in pixels of the image; with "auto" tiles are those of the training if
    that had any, else they have the size of the largest training images, and lie as the image does.
    overlap: the least share of a tile that neighbours have in common, 0 to 0.9; None is that of the
    training if that had tiles, else 0.2, or 0.4 with "auto". scale: network pixels per pixel of
    the image; None is that of the training. batch_size: tiles in a batch; None is about two million
    network pixels.
    """

    tile: TileSide = "auto"
    overlap: float | None = None
    scale: float | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.tile, (int, np.integer)) and not isinstance(self.tile, bool)
        if self.tile != "auto" and not (whole and self.tile > 0):
            raise ConfigError(f"tile={self.tile!r}: expected a number of pixels, or auto")
        if self.overlap is not None and not 0 <= self.overlap <= MOST_OVERLAP:
            raise ConfigError(f"overlap={self.overlap!r}: expected a share from 0 to 0.9")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ConfigError(f"tile_scale={self.scale!r}: expected network pixels per pixel")


class TiledPredictor:
    """Detects objects in images of any size with a predictor, at the scale of its training.

    tile: the short and the long side of a tile in pixels of the image. overlap: the least share of
    a tile that neighbours have in common. scale: network pixels per pixel; guessed: whether the
    model does not say it. note: all in words. Like the predictor it may be shared by threads.
    """

    def __init__(self, predictor: Predictor, tiling: Tiling) -> None:
        """Raises ConfigError if the scale is unknown and `tile` is auto, or for too small tiles."""
        self.predictor, self.tiling = predictor, tiling
        data = predictor.config.data
        tile = tiling.tile if tiling.tile != "auto" else data.tile or "auto"
        usual = AUTO_OVERLAP if tile == "auto" else OVERLAP
        usual = data.overlap if data.tile else usual
        self.overlap = usual if tiling.overlap is None else tiling.overlap
        self.scale = tiling.scale or data.trained_scale
        origin = "as given" if tiling.scale else "as in training"
        self.guessed = not self.scale
        if self.guessed:
            if tile == "auto":
                raise ConfigError(
                    f"tile='auto': {predictor.source or 'this model'} does not say at what scale "
                    "it was trained; give the side of a tile in pixels"
                )
            self.scale = resized_size(tile, tile, data)[2]
            origin = "like images of this size, because the model does not say at what scale it "
            origin += "was trained; if you know it, give it (--tile-scale, tile_scale)"
        self.tile = (tile, tile)
        if tile == "auto":
            longest = max(data.short_side, data.long_side) or 1024
            short = longest if data.square else data.short_side or longest
            sides = sorted((short, longest))
            self.tile = tuple(max(1, round(side / self.scale)) for side in sides)
        if self.tile[0] * self.scale < LEAST_TILE:
            raise ConfigError(
                f"tile={self.tile[0]}: at scale {self.scale:.3g} that is less than {LEAST_TILE} "
                f"pixels of the network; the least is tile={int(np.ceil(LEAST_TILE / self.scale))}"
            )
        self.note = (
            f"tiles of {self.size} pixels that overlap by at least "
            f"{self.overlap:.0%}, at scale {self.scale:.3g}: {origin}"
        )

    @property
    def size(self) -> str:
        """The size of a tile in words."""
        return " x ".join(map(str, self.tile))

    def prepare(self, image: Picture, exif: Orientation, pixels: bool = True) -> Prepared:
        """Read an image, and make the network's image of the whole; raises as Predictor.prepare.

        Tiles need all pixels of the image, even if the whole needs only a reduced decode. pixels:
        have them also if the image fits into a tile.
        """
        item = self.predictor.prepare(image, exif)
        tiled = self.count(item) > 1
        if item.reduced > 1 and (tiled or pixels):
            limit = self.predictor.config.data.max_image_pixels
            full = read_pixels(image, exif == "upright", limit)
            item = replace(item, pixels=full, reduced=1 if tiled else item.reduced)
        return item

    def count(self, item: Prepared) -> int:
        """The number of tiles of an image. With one, it is predicted as without tiles."""
        return len(self._frames(item))

    def _frames(self, item: Prepared) -> np.ndarray:
        height, width = item.size
        tile = self.tile[::-1] if height > width else self.tile
        return tile_frames(height, width, tile, self.overlap)

    def detect(
        self, item: Prepared, wanted: Wanted, progress: bool = False, warn: bool = True
    ) -> Detections:
        """The detections of an image; threshold and limit apply to the joined objects.

        warn: if a tile has as many detections as the network gives at most.
        """
        height, width = item.size
        tiles = self._frames(item)
        if len(tiles) == 1:
            info = item.sample.im_info[None]
            outputs = self.predictor.forward(stack_images([item.sample], item.padded), info)
            return self.predictor.detections(outputs, 0, height, width, wanted, item.orientation)
        found = []
        bar = tqdm(
            total=len(tiles),
            unit="tile",
            leave=None,
            dynamic_ncols=True,
            disable=None if progress else True,
        )
        with bar:
            for (numbers, info), outputs in self.predictor.outputs(self._batches(item, tiles)):
                for row, number in enumerate(numbers):
                    frame = (0, 0, width, height) if number < 0 else tiles[number]
                    found.append((number, *_read(outputs, row, frame, info[row])))
                bar.update(int((numbers >= 0).sum()))
        counts = [len(scores) for _, _, scores, _, _ in found]
        views = Views(
            *(np.concatenate([one[k] for one in found]) for k in (1, 2, 3)),
            np.repeat([one[0] for one in found], counts),
            tiles,
            (height, width),
        )
        masks = None
        if wanted.masks and found[0][4] is not None:
            masks = np.concatenate([one[4] for one in found])
        if warn:
            _say_if_full(views, outputs["det_scores"].shape[1], wanted)
        return self._joined(views, masks, wanted, item.orientation)

    def _batches(
        self, item: Prepared, tiles: np.ndarray
    ) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]]:
        """The whole image, then the tiles, with their numbers (-1: the whole) and sizes.

        All batches of tiles have one shape: empty images fill up the last.
        """
        info = item.sample.im_info[None]
        yield (np.array([-1]), info), stack_images([item.sample], item.padded), info
        cutter = self._cutter(tiles[0])
        left, top, right, bottom = tiles[0]
        height, width, _ = resized_size(int(bottom - top), int(right - left), cutter.config.data)
        most = self.tiling.batch_size or max(1, BATCH_PIXELS // (height * width))
        size = -(-len(tiles) // -(-len(tiles) // most))  # as equal as possible
        for start in range(0, len(tiles), size):
            numbers = np.arange(start, min(start + size, len(tiles)))
            made = [
                cutter.prepare(np.ascontiguousarray(item.pixels[y1:y2, x1:x2]), "stored")
                for x1, y1, x2, y2 in tiles[numbers]
            ]
            data = stack_images([one.sample for one in made], made[0].padded)
            info = np.stack([one.sample.im_info for one in made])
            extra = size - len(made)
            data = np.pad(data, ((0, extra), (0, 0), (0, 0), (0, 0)))
            yield (numbers, info), data, np.pad(info, ((0, extra), (0, 0)), "edge")

    def _cutter(self, tile: np.ndarray) -> Predictor:
        """A predictor that prepares images of a tile's size at the scale of tiles."""
        config = self.predictor.config
        data = scaled_data(config.data, tile, self.scale)
        return Predictor(self.predictor.engine, replace(config, data=data))

    def _joined(
        self, views: Views, masks: np.ndarray | None, wanted: Wanted, orientation: Orientation
    ) -> Detections:
        """Join the views, keep what is wanted, and paste its masks, each once in the image."""
        joined = join_views(views, MARGIN / self.scale)
        every = replace(wanted, max_detections=None)
        rows = every.rows(joined.scores, joined.classes)[: wanted.max_detections]
        rles = None
        if masks is not None:
            number = np.full(len(joined.boxes) + 1, -1)  # the last is that of owner -1
            number[rows] = np.arange(len(rows))
            owners = number[joined.owners]
            parts = np.flatnonzero(owners >= 0)
            rles = paste_rle(masks[parts], views.boxes[parts], *views.size, owners=owners[parts])
        return Detections(
            joined.boxes[rows],
            joined.scores[rows],
            joined.classes[rows].astype(np.int64),
            rles,
            self.predictor.class_names,
            views.size,
            orientation,
        )


def predict_in_tiles(
    predictor: Predictor,
    images: Iterable[Picture],
    wanted: Wanted,
    exif: Orientation,
    tiling: Tiling,
    asked: bool,
) -> list[Detections]:
    """What `Predictor.predict` does with tiles. asked: warn of images that fit into one."""
    tiled = TiledPredictor(predictor, tiling)
    if tiled.guessed:
        warnings.warn(tiled.note, stacklevel=3)
    found = []
    for image in images:
        item = tiled.prepare(image, exif, pixels=False)
        if asked and tiled.count(item) == 1:
            warnings.warn(
                f"images that fit into a tile of {tiled.size} pixels are predicted whole",
                stacklevel=3,
            )
        found.append(tiled.detect(item, wanted))
    return found


def scaled_data(data: DataConfig, tile: np.ndarray, scale: float) -> DataConfig:
    """The settings by which a tile (4,) xyxy is resized by a scale."""
    side = max(1, round(min(tile[2] - tile[0], tile[3] - tile[1]) * scale))
    return replace(data, short_side=side, long_side=0, square=False, tile=0)


def is_cut(record: ImageRecord, data: DataConfig) -> bool:
    """Whether an image is larger than the tiles that a run is trained on, and so predicted in."""
    return bool(data.tile) and max(record.height, record.width) > data.tile


def detect_cut(
    predictor: Predictor,
    dataset: Dataset,
    progress: bool,
    masks: bool,
    label: str | None,
) -> Iterator[tuple[ImageRecord, Detections]]:
    """Yield (record, detections) for images that `is_cut`, in tiles as the run is trained on.

    One image is decoded ahead, by a thread. The arguments are those of `Predictor.detect`.
    """
    data, wanted = predictor.config.data, Wanted(masks=masks)
    tiled = TiledPredictor(predictor, Tiling())
    orientation = "upright" if data.exif_orientation else "stored"
    if tiled.guessed:
        warnings.warn(tiled.note, stacklevel=2)

    def prepare(record: ImageRecord) -> Prepared:
        item = tiled.prepare(record.path, orientation)
        stated = record.height, record.width
        if item.size != stated:
            raise size_error(record.path, item.size, stated, data.exif_orientation)
        return item

    bar = tqdm(
        total=len(dataset),
        desc=label,
        unit="image",
        dynamic_ncols=True,
        leave=None,
        disable=None if progress else True,
    )
    with ThreadPoolExecutor(1) as pool, bar:
        coming = deque(pool.submit(prepare, record) for record in dataset.records[:1])
        for k, record in enumerate(dataset.records):
            item = coming.popleft().result()
            coming.extend(pool.submit(prepare, r) for r in dataset.records[k + 1 : k + 2])
            yield record, tiled.detect(item, wanted, warn=False)  # weak ones may be many
            bar.update()


def _read(
    outputs: Outputs, row: int, frame: np.ndarray, info: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Boxes in pixels of the whole image, scores, classes and mask probabilities of one frame."""
    keep = outputs["det_classes"][row] > 0
    sides = np.array([frame[2] - frame[0], frame[3] - frame[1]] * 2, np.float32)
    corner = np.array([frame[0], frame[1]] * 2, np.float32)
    network = np.array([info[1], info[0]] * 2, np.float32)
    boxes = outputs["det_boxes"][row][keep] / (network / sides) + corner
    masks = outputs["det_masks"][row][keep] if "det_masks" in outputs else None
    return boxes, outputs["det_scores"][row][keep], outputs["det_classes"][row][keep], masks


def _say_if_full(views: Views, limit: int, wanted: Wanted) -> None:
    """Warn if a tile reached the network's limit with objects that score high enough."""
    good = views.scores >= np.min(wanted.threshold)
    if np.bincount(views.tile[good] + 1).max(initial=0) >= limit:
        warnings.warn(
            f"the network gives at most {limit} detections per tile, and that limit was reached: "
            "objects may be missing; use smaller tiles",
            stacklevel=3,
        )
