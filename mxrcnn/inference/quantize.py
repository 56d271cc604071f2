"""Converts a float32 run to one that computes in int8 or bfloat16."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mxrcnn.config import Config, ConfigError, check_shapes
from mxrcnn.data.loader import test_loader
from mxrcnn.data.plans import test_plans
from mxrcnn.data.records import Dataset
from mxrcnn.data.tiles import tile_dataset
from mxrcnn.data.validation import FILE_NAME as SPLIT
from mxrcnn.files import atomic_folder
from mxrcnn.inference.detector import inference_symbol
from mxrcnn.inference.mxnet_engine import MXNetEngine
from mxrcnn.runs.checkpoint import (
    CheckpointError,
    Params,
    RunFolder,
    join_params,
    load_arrays,
    save_arrays,
    split_params,
)
from symnet import get_detector
from symnet.detector import Shape, parameter_shapes
from symnet.machine import mx
from symnet.ops.precision import as_stored, exact_layers
from symnet.parts.norms import fold_norms

PRECISIONS = ("int8", "bf16")

#: the operators to quantize: convolutions, with what is fused into them, and pooling. MXNet would
#: also quantize sums, products and concatenations of boxes, and fails for some
QUANTIZED_OPERATORS = {"_sg_mkldnn_conv", "Pooling"}


@dataclass(frozen=True)
class Quantized:
    """A test graph and its parameters in another precision."""

    symbol: mx.sym.Symbol
    args: Params
    auxs: Params


def quantize_run(
    run: str | Path,
    out: str | Path,
    precision: str,
    calibration: Dataset | None = None,
    checkpoint: str | int | None = None,
    data: Mapping[str, object] | None = None,
) -> Path:
    """Write a run folder that computes in int8 or bf16; returns it.

    calibration: images on which int8 measures the ranges of values. data: recorded in
    quantized.json. The folder is written atomically. Raises CheckpointError if `out` exists or the
    run is already quantized; ConfigError without images or for an unsupported graph.
    """
    folder, out = RunFolder(Path(run)), Path(out)
    if folder.precision() != "fp32":
        raise CheckpointError(f"{run} is quantized already, to {folder.precision()}")
    if out.exists():
        raise CheckpointError(f"{out} exists already: remove it, or choose another --out")
    config = folder.config()
    folder.symbol("test")  # not used, but a damaged file is reported
    place = folder.folder(checkpoint)
    made = quantize(config, load_arrays(place / "model.params"), precision, calibration)
    with atomic_folder(out) as partial:
        target = RunFolder(partial)
        target.create(config, {"test": made.symbol})
        (target.checkpoints / place.name).mkdir(parents=True)
        params = join_params(made.args, made.auxs)
        save_arrays(target.checkpoints / place.name / "model.params", params)
        note = {"precision": precision, "source": str(place), **(data or {})}
        if (folder.path / SPLIT).is_file():
            shutil.copyfile(folder.path / SPLIT, partial / SPLIT)
        (partial / "quantized.json").write_text(json.dumps(note, indent=2) + "\n")
    return out


def quantize(
    config: Config, params: Params, precision: str, calibration: Dataset | None = None
) -> Quantized:
    """The test graph in int8 or bf16. params have arg: and aux: keys. See quantize_run."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
    symbol = inference_symbol(config, precision)
    args, auxs = split_params(params)
    given = fold_norms(symbol, {**args, **auxs})
    args, auxs = (_fitting(given, shapes) for shapes in parameter_shapes(symbol))
    if precision == "int8":
        return _to_int8(symbol, args, auxs, config, calibration)
    return Quantized(symbol, as_stored(symbol, args), auxs)


def _fitting(given: Params, shapes: Mapping[str, Shape]) -> Params:
    """Reshape parameters to the graph's shapes, which differ in int8."""
    missing = sorted(set(shapes) - set(given))
    if missing:
        raise CheckpointError(f"the checkpoint has no {', '.join(missing)}")
    return {name: given[name].reshape(shape) for name, shape in shapes.items()}


def _to_int8(
    symbol: mx.sym.Symbol, args: Params, auxs: Params, config: Config, dataset: Dataset | None
) -> Quantized:
    """Quantize all layers but `exact_layers` with MXNet.

    A layer's range is its minimum and maximum over the calibration images; weights have one range
    per output channel.
    """
    if not dataset or not dataset.records:
        raise ConfigError("int8 needs images to calibrate on, and there are none")
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    quantized, _, _, ranges = mx.contrib.quantization.quantize_graph(
        fused,
        args,
        auxs,
        excluded_sym_names=exact_layers(symbol),
        excluded_op_names=sorted(_operators(fused) - QUANTIZED_OPERATORS),
        calib_mode="naive",
        quantized_dtype="auto",
        quantize_mode="smart",
        quantize_granularity="channel-wise",
    )
    images = _images(dataset, config, symbol)
    ranges.min_max_dict = _ranges(fused, ranges.include_layer, (args, auxs), images)
    quantized, args, auxs = mx.contrib.quantization.calib_graph(
        quantized, args, auxs, ranges, calib_mode="naive", logger=None
    )
    return Quantized(quantized.get_backend_symbol("MKLDNN_QUANTIZE"), args, auxs)


def _operators(symbol: mx.sym.Symbol) -> set[str]:
    return {node["op"] for node in json.loads(symbol.tojson())["nodes"]} - {"null"}


def _images(
    dataset: Dataset, config: Config, symbol: mx.sym.Symbol
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the graph's inputs for each image, after checking that int8 supports its shape."""
    tiled = tile_dataset(dataset, replace(config.data, masks=False)).dataset
    plans = test_plans(tiled, config.data, get_detector(config.network).stride, batch_size=1)
    with test_loader(config.data, num_workers=0) as loader:
        batches = loader.batches(plans)
        for batch in tqdm(batches, "calibrating", len(plans), unit="image", disable=None):
            check_shapes(symbol, "int8", **{name: v.shape for name, v in batch.data.items()})
            yield batch.data


def _ranges(
    symbol: mx.sym.Symbol,
    outputs: Sequence[str],
    params: tuple[Params, Params],
    images: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, tuple[float, float]]:
    """The minimum and maximum of each of these outputs over all images.

    MXNet's own collector loses the values of arrays in oneDNN's layouts. The graph is bound again
    for each image: with inner arrays as outputs, the second pass of an executor fails.
    """
    internals = symbol.get_internals()
    heads = [op(internals[name]) for name in outputs for op in (mx.sym.min, mx.sym.max)]
    least = np.full(len(outputs), np.inf)
    greatest = -least
    for inputs in images:
        engine = MXNetEngine(mx.sym.Group(heads), *params, mx.cpu())
        found = np.concatenate(list(engine.start(**inputs).result().values()))
        least, greatest = np.minimum(least, found[::2]), np.maximum(greatest, found[1::2])
    return dict(zip(outputs, zip(least.tolist(), greatest.tolist())))
