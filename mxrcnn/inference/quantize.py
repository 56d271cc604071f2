"""Making a run that computes in int8 or bfloat16 from one in float32."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mxrcnn.compat import mx
from mxrcnn.config import Config, ConfigError, DataConfig, check_shapes
from mxrcnn.data.records import Dataset
from mxrcnn.data.transforms import load_sample, padded_size, stack_images
from mxrcnn.inference.detector import low_precision_symbol
from mxrcnn.inference.executors import Executors
from mxrcnn.training.checkpoint import (
    CheckpointError,
    Params,
    RunFolder,
    load_arrays,
    save_arrays,
    split_params,
)
from symnet import get_detector
from symnet.layers import BFLOAT16, fold_norms, predicting_layers

PRECISIONS = ("int8", "bf16")

#: what is quantized: convolutions with what is fused into them, and poolings between them. MXNet
#: would also quantize sums, products and concatenations of boxes, and fails at some of them
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

    calibration: the images whose ranges of values int8 takes over. data: what to note of them. The
    folder is written whole or not at all. CheckpointError if there is something at its place
    already, or the run is quantized itself; ConfigError without images or for a graph that cannot.
    """
    folder, out = RunFolder(Path(run)), Path(out)
    if folder.precision() != "fp32":
        raise CheckpointError(f"{run} is quantized already, to {folder.precision()}")
    if out.exists():
        raise CheckpointError(f"{out} is there already: remove it, or choose another --out")
    config = folder.config()
    place = folder.folder(checkpoint or ("best" if folder.best() else "last"))
    made = quantize(config, load_arrays(place / "model.params"), precision, calibration)
    half = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        target = RunFolder(half)
        target.create(config, {"test": made.symbol})
        (target.checkpoints / place.name).mkdir(parents=True)
        arrays = {f"arg:{name}": value for name, value in made.args.items()}
        arrays.update({f"aux:{name}": value for name, value in made.auxs.items()})
        save_arrays(target.checkpoints / place.name / "model.params", arrays)
        note = {"precision": precision, "source": str(place), **(data or {})}
        (half / "quantized.json").write_text(json.dumps(note, indent=2) + "\n")
        os.rename(half, out)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return out


def quantize(
    config: Config, params: Params, precision: str, calibration: Dataset | None = None
) -> Quantized:
    """The test graph in int8 or bf16, from parameters with arg: and aux: keys; see quantize_run."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
    symbol = low_precision_symbol(config, precision)
    args, auxs = split_params(params)
    given = fold_norms(symbol, {**args, **auxs})
    args, auxs = _fitting(symbol, config, given)
    if precision == "int8":
        return _to_int8(symbol, args, auxs, config, calibration)
    return Quantized(symbol, _to_bf16(symbol, args), auxs)


def _fitting(symbol: mx.sym.Symbol, config: Config, given: Params) -> tuple[Params, Params]:
    """Arguments and auxiliary states as the graph has them: int8's layers have other shapes."""
    stride = get_detector(config.network).stride
    inputs = {"data": (1, 3, 4 * stride, 4 * stride), "im_info": (1, 3)}
    arg_shapes, _, aux_shapes = symbol.infer_shape(**inputs)

    def taken(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Params:
        wanted = {n: shape for n, shape in zip(names, shapes) if n not in inputs}
        missing = sorted(set(wanted) - set(given))
        if missing:
            raise CheckpointError(f"the checkpoint has no {', '.join(missing)}")
        return {name: given[name].reshape(shape) for name, shape in wanted.items()}

    return (
        taken(symbol.list_arguments(), arg_shapes),
        taken(symbol.list_auxiliary_states(), aux_shapes),
    )


def _to_bf16(symbol: mx.sym.Symbol, args: Params) -> Params:
    types, _, _ = symbol.infer_type(data=np.float32)
    low = {n for n, dtype in zip(symbol.list_arguments(), types) if dtype == BFLOAT16}
    return {
        name: mx.nd.amp_cast(value, dtype=BFLOAT16) if name in low else value
        for name, value in args.items()
    }


def _to_int8(
    symbol: mx.sym.Symbol, args: Params, auxs: Params, config: Config, dataset: Dataset | None
) -> Quantized:
    """MXNet's quantization of all layers but those that predict.

    Each layer's range is the least and greatest value that it has on the calibration images;
    weights have a range for each output channel.
    """
    if not dataset or not dataset.records:
        raise ConfigError("int8 needs images to calibrate on, and there are none")
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    quantized, _, _, ranges = mx.contrib.quantization.quantize_graph(
        fused,
        args,
        auxs,
        excluded_sym_names=predicting_layers(symbol),
        excluded_op_names=sorted(_operators(fused) - QUANTIZED_OPERATORS),
        calib_mode="naive",
        quantized_dtype="auto",
        quantize_mode="smart",
        quantize_granularity="channel-wise",
    )
    check = partial(check_shapes, symbol, "int8")
    ranges.min_max_dict = _ranges(
        fused, ranges.include_layer, (args, auxs), _images(dataset, config.data, check, config)
    )
    quantized, args, auxs = mx.contrib.quantization.calib_graph(
        quantized, args, auxs, ranges, calib_mode="naive", logger=None
    )
    return Quantized(quantized.get_backend_symbol("MKLDNN_QUANTIZE"), args, auxs)


def _operators(symbol: mx.sym.Symbol) -> set[str]:
    return {node["op"] for node in json.loads(symbol.tojson())["nodes"]} - {"null"}


def _images(
    dataset: Dataset, data: DataConfig, check: Callable[..., None], config: Config
) -> Iterator[dict[str, np.ndarray]]:
    """The graph's inputs for each image, once its shape is known to be safe."""
    data = replace(data, masks=False)
    multiple = int(np.lcm(data.pad_multiple, get_detector(config.network).stride))
    for record in tqdm(dataset.records, "calibrating", unit="image", disable=None):
        sample = load_sample(record, data)
        size = padded_size([sample.size], multiple, data.least_padded_side)
        inputs = {"data": stack_images([sample], size), "im_info": sample.im_info[None]}
        check(**{name: value.shape for name, value in inputs.items()})
        yield inputs


def _ranges(
    symbol: mx.sym.Symbol,
    outputs: Sequence[str],
    params: tuple[Params, Params],
    images: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of each of these outputs over all images.

    MXNet's own collector fails on arrays in oneDNN's layouts, and loses their values. The graph is
    bound anew for each image: watched so closely, arrays are left in a layout that the next pass
    cannot write to.
    """
    internals = symbol.get_internals()
    heads = [op(internals[name]) for name in outputs for op in (mx.sym.min, mx.sym.max)]
    least = np.full(len(outputs), np.inf)
    greatest = -least
    for inputs in images:
        executors = Executors(mx.sym.Group(heads), *params, mx.cpu())
        executors.start(**inputs)
        found = np.concatenate(executors.finish())
        least, greatest = np.minimum(least, found[::2]), np.maximum(greatest, found[1::2])
    return dict(zip(outputs, zip(least.tolist(), greatest.tolist())))
