"""From images to Detections, with any engine."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

import numpy as np
from tqdm import tqdm

from mxrcnn.config import Config, ConfigError
from mxrcnn.data.loader import test_loader
from mxrcnn.data.pictures import Picture, decode_picture
from mxrcnn.data.plans import test_plans
from mxrcnn.data.records import Dataset, Detections, ImageId, ImageRecord, Orientation
from mxrcnn.data.transforms import (
    Sample,
    padded_size,
    prepare_image,
    resized_size,
    stack_images,
)
from mxrcnn.inference.engine import Engine, Handle, Outputs
from symnet import get_detector
from symnet.geometry.masks import paste_rle

if TYPE_CHECKING:
    from symnet.machine import mx

Classes = Union[str, int, Iterable[Union[str, int]]]
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """Which rows of the graph's outputs become detections, and whether their masks are pasted.

    threshold: the lowest score, or that of each of the classes 1, 2, ...
    """

    threshold: float | tuple[float, ...] = 0.0
    classes: tuple[int, ...] | None = None
    max_detections: int | None = None
    masks: bool = True

    def __post_init__(self) -> None:
        limits = np.asarray(self.threshold, np.float32)
        if not ((limits >= 0) & (limits <= 1)).all():
            raise ConfigError(f"threshold={self.threshold!r}: scores are from 0 to 1")
        most = self.max_detections
        if most is not None and not (isinstance(most, (int, np.integer)) and most >= 0):
            raise ConfigError(f"max_detections={most!r}: expected a count, or None for all")

    def rows(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Select rows, best first. scores (D,) in descending order; classes (D,), -1 if empty."""
        limits = np.asarray(self.threshold, np.float32)
        if limits.ndim:
            limits = limits[np.maximum(classes.astype(np.int64), 1) - 1]
        keep = (classes > 0) & (scores >= limits)
        if self.classes is not None:
            keep &= np.isin(classes, self.classes)
        rows = np.flatnonzero(keep)
        most = self.max_detections
        if most is not None and most > len(classes) == len(rows):
            warnings.warn(
                f"max_detections={most}: the network itself gives at most {len(classes)} per image,"
                " and it reached that limit here",
                stacklevel=2,
            )
        return rows[:most]


ALL = Wanted()


@dataclass(frozen=True)
class Prepared:
    """An image for the network. pixels (H, W, 3) uint8 RGB, turned as `orientation` says.

    size: (height, width) of the image; there are fewer pixels if they were decoded at 1/`reduced`,
    and None if nobody needs them any more.
    """

    pixels: np.ndarray | None
    sample: Sample
    orientation: Orientation
    padded: tuple[int, int]
    size: tuple[int, int]
    reduced: int = 1


class Predictor:
    """A detector that is ready to use: images in, Detections out.

    It holds no state between calls, so any number of threads may use it, and several `detect`s may
    be interleaved. MXNetEngine and OnnxEngine explain how.
    """

    def __init__(self, engine: Engine, config: Config, source: str = "") -> None:
        self.engine = engine
        self.config = config
        self.source = source

    @classmethod
    def load(
        cls,
        place: str | Path,
        checkpoint: str | int | None = None,
        params: str | Path | None = None,
        context: mx.Context | None = None,
        precision: str | None = None,
        provider: str | None = None,
        threads: int | None = None,
    ) -> Predictor:
        """Load the detector of a run folder (a Detector) or of a .onnx file of mxrcnn export.

        place may also name a known detector, such as fcos_resnet50_fpn_coco, which is downloaded
        and converted once (`mxrcnn weights list`; WeightsError if that fails).
        For runs: checkpoint, params, context and precision; see Detector.load. For ONNX files,
        which need no mxnet: provider and threads; see OnnxEngine. Raises CheckpointError for
        missing or unreadable files, and ConfigError for options of the other kind.
        """
        of_runs = {
            "checkpoint": checkpoint,
            "params": params,
            "context": context,
            "precision": precision,
        }
        of_files = {"provider": provider, "threads": threads}
        is_file = str(place).endswith(".onnx")
        foreign = [n for n, v in (of_runs if is_file else of_files).items() if v is not None]
        if foreign:
            kind = "for runs, not for ONNX files" if is_file else "for ONNX files, not for runs"
            raise ConfigError(f"{place}: {', '.join(foreign)}: {kind}")
        if is_file:
            from mxrcnn.inference.onnx_engine import OnnxEngine

            engine = OnnxEngine(place, provider, threads)
            return Predictor(engine, engine.config, str(place))
        from mxrcnn.inference.detector import Detector
        from mxrcnn.weights.convert import known_run

        return Detector.load(known_run(place), **of_runs)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of classes 1, 2, ..."""
        return self.config.data.class_names

    @property
    def finds_masks(self) -> bool:
        """True if detections have masks."""
        return "det_masks" in self.engine.names

    @property
    def pad_multiple(self) -> int:
        """The sides of padded images are multiples of it: lcm of pad_multiple and the stride."""
        return int(np.lcm(self.config.data.pad_multiple, get_detector(self.config.network).stride))

    def start(self, data: np.ndarray, im_info: np.ndarray) -> Handle:
        """Start the network on data (B, 3, H, W) and im_info (B, 3), without waiting."""
        return self.engine.start(
            data=np.asarray(data, np.float32), im_info=np.asarray(im_info, np.float32)
        )

    def forward(self, data: np.ndarray, im_info: np.ndarray) -> Outputs:
        """The graph's outputs by name for data (B, 3, H, W) and im_info (B, 3)."""
        return self.start(data, im_info).result()

    def predict(
        self,
        image: Picture | Sequence[Picture],
        threshold: float = 0.0,
        classes: Classes | None = None,
        max_detections: int | None = None,
        exif: Literal["upright", "stored"] = "upright",
        tile: int | Literal["auto"] | None = None,
        overlap: float | None = None,
        tile_scale: float | None = None,
    ) -> Any:
        """Detections of one image, or a list of them for a list of images, best score first.

        image: a file's path, its bytes, a PIL image, or pixels (H, W, 3) uint8 RGB.
        threshold: the lowest score; the network also has its own (the config's score threshold).
        classes: names or numbers (1, 2, ...) of the classes to keep; None keeps all.
        max_detections: the limit per image; warns if the network's own limit is lower.
        exif: "upright" rotates photos by their EXIF tag, "stored" does not. Boxes are in pixels of
        that image, and `Detections.orientation` says which. Arrays are never rotated.
        tile: look at the whole image and at tiles of it of this many pixels a side, and join what
        their borders cut; "auto" is the size of the training images. 0: at the whole image only, as
        with images that fit into one tile (warns). None: as the model was trained, in tiles of
        `data.tile` pixels. overlap: the least share of a tile that neighbours have in common, 0 to
        0.9; None is that of the training, or else 0.2, or 0.4 with tile="auto". tile_scale: network
        pixels per pixel in tiles; None is that of the training (warns if the model does not say
        it). See docs/predict.md.

        Raises DataError for unreadable files, ConfigError for invalid options (for an unknown
        class it names the closest one), and ValueError for other arrays.
        """
        if exif not in ("upright", "stored"):
            raise ConfigError(f"exif={exif!r}: there are upright, stored")
        numbers = None if classes is None else self.class_numbers(classes)
        wanted = Wanted(threshold, numbers, max_detections)
        many = isinstance(image, (list, tuple))
        images = image if many else [image]
        side = self.config.data.tile if tile is None else tile
        if side == 0:
            found = list(self._predict(images, wanted, exif))
        else:
            from mxrcnn.inference.tiles import Tiling, predict_in_tiles

            tiling = Tiling(side, overlap, tile_scale)
            found = predict_in_tiles(self, images, wanted, exif, tiling, tile is not None)
        return found if many else found[0]

    def class_numbers(self, classes: Classes) -> tuple[int, ...]:
        """The numbers 1, 2, ... of classes given by name or number; ConfigError if unknown."""
        given = [classes] if isinstance(classes, (str, int)) else classes
        return tuple(sorted({self._class_number(which) for which in given}))

    def _class_number(self, which: str | int) -> int:
        names = self.class_names
        if isinstance(which, str):
            if which in names:
                return names.index(which) + 1
            near = difflib.get_close_matches(which, names, n=1, cutoff=0)
            raise ConfigError(f"no class {which!r}; the closest of {len(names)} is {near[0]!r}")
        if isinstance(which, (int, np.integer)) and 1 <= which <= len(names):
            return int(which)
        raise ConfigError(f"no class {which!r}: numbers are from 1 to {len(names)}")

    def _predict(
        self, images: Iterable[Picture], wanted: Wanted, exif: Orientation
    ) -> Iterator[Detections]:
        def batches() -> Iterator[tuple[Prepared, np.ndarray, np.ndarray]]:
            for image in images:
                item = self.prepare(image, exif)
                yield item, stack_images([item.sample], item.padded), item.sample.im_info[None]

        for item, outputs in self.outputs(batches()):
            yield self.detections(outputs, 0, *item.size, wanted, item.orientation)

    def prepare(self, image: Picture, exif: Orientation) -> Prepared:
        """Read an image, resize and normalise it; raises as read_pixels does.

        Large JPEGs are decoded at reduced size, see `mxrcnn.data.images.reduction`.
        """
        data = self.config.data
        decoded = decode_picture(
            image,
            exif == "upright",
            data.max_image_pixels,
            lambda height, width: resized_size(height, width, data)[:2],
        )
        sample = prepare_image(decoded.pixels, data, size=decoded.size)
        padded = padded_size([sample.size], self.pad_multiple, data.least_padded_side)
        orientation = "stored" if isinstance(image, np.ndarray) else exif
        return Prepared(decoded.pixels, sample, orientation, padded, decoded.size, decoded.reduced)

    def outputs(
        self, batches: Iterable[tuple[T, np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[T, Outputs]]:
        """Yield (extra, outputs) for each (extra, data, im_info), in order.

        The network computes one batch while the caller handles the outputs of the batch before it
        and makes the batch after it.
        """
        started: tuple[T, Handle] | None = None
        for along, data, im_info in batches:
            done = started and (started[0], started[1].result())
            started = along, self.start(data, im_info)
            if done:
                yield done
        if started:
            yield started[0], started[1].result()

    def _pixel_ratio(self, height: int, width: int) -> np.ndarray:
        """Network pixels per pixel of an image (height, width), for xyxy (4,)."""
        new_height, new_width, _ = resized_size(height, width, self.config.data)
        return np.array([new_width / width, new_height / height] * 2, np.float32)

    def detections(
        self,
        outputs: Outputs,
        row: int,
        height: int,
        width: int,
        wanted: Wanted = ALL,
        orientation: Orientation = "stored",
    ) -> Detections:
        """Detections from one row of forward's outputs, in pixels of an image (height, width).

        orientation: recorded in the result. Masks are pasted only for the wanted rows.
        """
        keep = wanted.rows(outputs["det_scores"][row], outputs["det_classes"][row])
        boxes = outputs["det_boxes"][row][keep] / self._pixel_ratio(height, width)
        masks = None
        if wanted.masks and "det_masks" in outputs:
            masks = paste_rle(outputs["det_masks"][row][keep], boxes, height, width)
        return Detections(
            boxes,
            outputs["det_scores"][row][keep],
            outputs["det_classes"][row][keep].astype(np.int64),
            masks,
            self.class_names,
            (height, width),
            orientation,
        )

    def detect(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        num_workers: int = 0,
        progress: bool = True,
        masks: bool = True,
        label: str | None = None,
    ) -> Iterator[tuple[ImageRecord, Detections, np.ndarray | None]]:
        """Yield (record, detections, proposals (P, 4)) for all images, grouped by padded size.

        Boxes are in pixels of the annotated images: `data.exif_orientation` says whether those are
        rotated upright. proposals is None for detectors without any. masks=False skips pasting
        masks, the slowest step after the network. label: of the progress bar. num_workers:
        processes that decode images ahead; 0 is a thread. With `data.tile`, larger images are
        predicted in tiles, one by one and without proposals; see `mxrcnn.inference.tiles`.
        """
        data = self.config.data
        if data.tile:
            yield from self._detect_both(dataset, batch_size, num_workers, progress, masks, label)
            return
        plans = list(test_plans(dataset, data, self.pad_multiple, batch_size))
        wanted = Wanted(masks=masks)
        orientation = "upright" if data.exif_orientation else "stored"
        bar = tqdm(
            total=len(dataset),
            desc=label,
            unit="image",
            dynamic_ncols=True,
            leave=None,  # removed at the end if nested in another bar
            disable=None if progress else True,
        )
        with test_loader(data, num_workers) as loader, bar:
            batches = zip(plans, (batch.data for batch in loader.batches(plans)))
            inputs = ((plan, data["data"], data["im_info"]) for plan, data in batches)
            for plan, outputs in self.outputs(inputs):
                for row, record in enumerate(plan.records):
                    size = record.height, record.width
                    found = self.detections(outputs, row, *size, wanted, orientation)
                    yield record, found, self._proposals(outputs, row, *size)
                    bar.update()

    def _detect_both(
        self, dataset: Dataset, *how: Any
    ) -> Iterator[tuple[ImageRecord, Detections, np.ndarray | None]]:
        """`detect` for images that fit into a tile, then for those that are cut."""
        from mxrcnn.inference.tiles import detect_cut, is_cut

        data, (_, _, progress, masks, label) = self.config.data, how
        cut = replace(dataset, records=tuple(r for r in dataset.records if is_cut(r, data)))
        rest = replace(dataset, records=tuple(r for r in dataset.records if not is_cut(r, data)))
        if rest.records:
            plain = Predictor(self.engine, replace(self.config, data=replace(data, tile=0)))
            for record, found, proposals in plain.detect(rest, *how):
                yield record, found, None if cut.records else proposals
        if cut.records:
            for record, found in detect_cut(self, cut, progress, masks, label):
                yield record, found, None

    def _proposals(self, outputs: Outputs, row: int, height: int, width: int) -> np.ndarray | None:
        """The proposals (P, 4) of an image in its pixels; None if the detector has none."""
        if "proposals" not in outputs:
            return None
        return outputs["proposals"][row] / self._pixel_ratio(height, width)

    def predict_dataset(self, dataset: Dataset, **options: Any) -> dict[ImageId, Detections]:
        """Detections of all images by image id. options: see `detect`."""
        return {record.image_id: found for record, found, _ in self.detect(dataset, **options)}
