"""A trained detector: Detector.load("runs/NAME").predict(image) -> Detections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mxrcnn.compat import mx
from mxrcnn.config import Config, check_precision, check_shapes
from mxrcnn.data.images import read_image
from mxrcnn.data.loader import BatchPlan, Loader, test_loader, test_plans
from mxrcnn.data.records import Dataset, Detections, ImageId, ImageRecord
from mxrcnn.data.transforms import padded_size, prepare_image, resized_size, stack_images
from mxrcnn.inference.executors import Executors
from mxrcnn.training.checkpoint import CheckpointError, Params, RunFolder, load_arrays, split_params
from symnet import get_detector
from symnet.detector import parameter_shapes
from symnet.layers import as_stored, fold_norms
from symnet.layers import precision as graph_precision
from symnet.masks import paste_rle


def inference_symbol(config: Config, precision: str) -> mx.sym.Symbol:
    """The test graph of a config in fp32, in bf16, or in the form that is quantized to int8.

    ConfigError where it cannot run.
    """
    check_precision(precision)
    with graph_precision("bf16_stored" if precision == "bf16" else precision):
        return get_detector(config.network).test_symbol(config.model)


@dataclass(frozen=True)
class _Image:
    """One image of a data set as it comes out of the graph: outputs[row] of its batch."""

    record: ImageRecord
    outputs: dict[str, np.ndarray]
    row: int


class Detector:
    """A test graph with parameters, bound once for each shape of images (about 0.1 s)."""

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        args: Params,
        auxs: Params,
        config: Config,
        context: mx.Context | None = None,
        source: str = "",
        precision: str = "fp32",
    ) -> None:
        self.config = config
        self.source = source
        self.precision = precision
        self._symbol = symbol
        self._context = context or mx.cpu()
        self._names = [name[: -len("_output")] for name in symbol.list_outputs()]
        self._safe_shapes: set[tuple[int, ...]] = set()
        self.set_params(args, auxs)

    @classmethod
    def load(
        cls,
        run: str | Path,
        checkpoint: str | int | None = None,
        params: str | Path | None = None,
        context: mx.Context | None = None,
        precision: str | None = None,
    ) -> Detector:
        """The detector of a run folder.

        checkpoint: "best", "last" or a step; None is the best if there is one, else the last.
        params: a bare .params file to use instead. precision: fp32, or bf16 for convolutions and
        fully connected layers in bfloat16; None is the run's own: that of tools/quantize.py, else
        fp32. Raises CheckpointError for what is not there.
        """
        folder = RunFolder(Path(run))
        config, stored = folder.config(), folder.precision()
        precision = precision or stored
        if stored not in ("fp32", precision):
            raise CheckpointError(f"{run} is quantized to {stored}: it cannot run in {precision}")
        if params is None:
            which = checkpoint or ("best" if folder.best() else "last")
            params = folder.folder(which) / "model.params"
        args, auxs = split_params(load_arrays(Path(params)))
        if precision == stored:
            symbol = folder.symbol("test")
        else:
            symbol = inference_symbol(config, precision)
        return cls(symbol, args, auxs, config, context, str(params), precision)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of classes 1, 2, ..."""
        return self.config.data.class_names

    @property
    def symbol(self) -> mx.sym.Symbol:
        """The test graph."""
        return self._symbol

    @property
    def params(self) -> tuple[Params, Params]:
        """Arguments and auxiliary states by name, as the graph takes them."""
        return self._args, self._auxs

    def set_params(self, args: Params, auxs: Params) -> None:
        """Replace the parameters; CheckpointError if some are missing or of another shape or kind.

        The graph is bound anew: once used, MXNet's CPU executors keep copies of convolution weights
        and do not notice that the weights change.
        """
        arg_shapes, aux_shapes = parameter_shapes(self._symbol)
        # stored statistics may be arguments of the training graph
        given = fold_norms(self._symbol, {**args, **auxs})
        self._args = as_stored(self._symbol, self._fitting(given, arg_shapes))
        self._auxs = self._fitting(given, aux_shapes)
        self._executors = Executors(self._symbol, self._args, self._auxs, self._context)

    def _fitting(self, params: Params, shapes: dict[str, tuple[int, ...]]) -> Params:
        source = self.source or "the parameters"
        missing = sorted(set(shapes) - set(params))
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise CheckpointError(
                f"{source}: there is no {some} ({len(missing)} of {len(shapes)} parameters). If it "
                "comes from a classifier, train it first: tools/train.py --pretrained RUN"
            )
        for name, shape in shapes.items():
            if params[name].shape != shape:
                raise CheckpointError(
                    f"{source}: {name} is {params[name].shape}, the network needs {shape}"
                )
            kind = np.dtype(params[name].dtype)
            if self.precision != "int8" and kind.kind in "iub":
                raise CheckpointError(f"{source}: {name} holds {kind.name}, not real numbers")
        other_floats = (np.float16, np.float64)
        return {
            name: value.astype(np.float32) if value.dtype in other_floats else value
            for name, value in ((name, params[name]) for name in shapes)
        }

    def forward(self, data: np.ndarray, im_info: np.ndarray) -> dict[str, np.ndarray]:
        """The graph's outputs by name for data (B, 3, H, W) and im_info (B, 3)."""
        self._start(data, im_info)
        return self._finish()

    def _start(self, data: np.ndarray, im_info: np.ndarray) -> None:
        """Start computing, without waiting; ConfigError for shapes that are not safe."""
        if data.shape not in self._safe_shapes:
            check_shapes(self._plain_symbol, self.precision, data=data.shape, im_info=im_info.shape)
            self._safe_shapes.add(data.shape)
        self._executors.start(data=data, im_info=im_info)

    def _finish(self) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self._executors.finish()))

    @cached_property
    def _plain_symbol(self) -> mx.sym.Symbol:
        """The graph with its layers to be seen: a quantized one has hidden them."""
        return inference_symbol(self.config, "int8") if self.precision == "int8" else self._symbol

    def predict(self, image: str | Path | np.ndarray) -> Detections:
        """Detections of one image: a file, or pixels (H, W, 3) uint8 RGB."""
        data = self.config.data
        if not isinstance(image, np.ndarray):
            image = read_image(image, data.exif_orientation)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        sample = prepare_image(image, data)
        size = padded_size([sample.size], self.pad_multiple, data.least_padded_side)
        outputs = self.forward(stack_images([sample], size), sample.im_info[None])
        return self.detections(outputs, 0, *image.shape[:2])

    @property
    def pad_multiple(self) -> int:
        """What the sides of padded images are multiples of: the config's, and the network's."""
        return int(np.lcm(self.config.data.pad_multiple, get_detector(self.config.network).stride))

    def _pixel_ratio(self, height: int, width: int) -> np.ndarray:
        """Network pixels per stored pixel, for xyxy (4,)."""
        new_height, new_width, _ = resized_size(height, width, self.config.data)
        return np.array([new_width / width, new_height / height] * 2, np.float32)

    def detections(
        self, outputs: dict[str, np.ndarray], row: int, height: int, width: int
    ) -> Detections:
        """Detections of row `row` of forward's outputs, in pixels of an image (height, width)."""
        keep = outputs["det_classes"][row] > 0
        boxes = outputs["det_boxes"][row][keep] / self._pixel_ratio(height, width)
        masks = None
        if "det_masks" in outputs:
            masks = paste_rle(outputs["det_masks"][row][keep], boxes, height, width)
        return Detections(
            boxes,
            outputs["det_scores"][row][keep],
            outputs["det_classes"][row][keep].astype(np.int64),
            masks,
        )

    def detect(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        num_workers: int = 0,
        progress: bool = True,
    ) -> Iterator[tuple[ImageRecord, Detections, np.ndarray | None]]:
        """(record, detections, proposals (P, 4)) of all images, in stored pixels, by equal shapes.

        A detector that makes no proposals has None for them.
        The next images are decoded meanwhile: by num_workers processes, or a thread for 0.
        """
        data = self.config.data
        plans = test_plans(dataset, data, self.pad_multiple, batch_size)
        bar = tqdm(
            total=len(dataset), unit="image", dynamic_ncols=True, disable=None if progress else True
        )
        with test_loader(data, num_workers) as loader, bar:
            for image in self._images(plans, loader):
                record = image.record
                found = self.detections(image.outputs, image.row, record.height, record.width)
                yield record, found, self._proposals(image)
                bar.update()

    def _images(self, plans: Iterable[BatchPlan], loader: Loader) -> Iterator[_Image]:
        """All images of the plans, one batch late: the graph is at work on the next meanwhile."""
        previous: list[_Image] = []
        plans = list(plans)
        for plan, batch in zip(plans, loader.batches(plans)):
            self._start(batch.data["data"], batch.data["im_info"])
            yield from previous
            outputs = self._finish()
            previous = [_Image(record, outputs, row) for row, record in enumerate(plan.records)]
        yield from previous

    def _proposals(self, image: _Image) -> np.ndarray | None:
        """The proposals (P, 4) of an image in stored pixels; None of a detector without."""
        if "proposals" not in image.outputs:
            return None
        ratio = self._pixel_ratio(image.record.height, image.record.width)
        return image.outputs["proposals"][image.row] / ratio

    def predict_dataset(self, dataset: Dataset, **options: int | bool) -> dict[ImageId, Detections]:
        """Detections of all images by image id; options as of `detect`."""
        return {record.image_id: found for record, found, _ in self.detect(dataset, **options)}
