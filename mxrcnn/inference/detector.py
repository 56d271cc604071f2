"""A trained detector on MXNet: Detector.load("runs/NAME").predict(image) -> Detections."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from mxrcnn.config import Config, check_precision, check_shapes
from mxrcnn.inference.mxnet_engine import MXNetEngine, Shapes
from mxrcnn.inference.predictor import Predictor
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import CheckpointError, Params, RunFolder, load_arrays, split_params
from symnet import get_detector
from symnet.detector import parameter_shapes
from symnet.machine import mx
from symnet.ops.precision import as_stored
from symnet.ops.precision import precision as graph_precision
from symnet.parts.norms import fold_norms


def inference_symbol(config: Config, precision: str) -> mx.sym.Symbol:
    """The test graph of a config in fp32, in bf16, or in the form that is quantized to int8.

    Raises ConfigError if this machine does not support the precision.
    """
    check_precision(precision)
    with graph_precision("bf16_stored" if precision == "bf16" else precision):
        return get_detector(config.network).test_symbol(config.model)


def _changed_parameters(symbol: mx.sym.Symbol, config: Config) -> str:
    """How a graph's parameters differ from those of the config's own graph; "" if they do not."""
    ours, own = (
        {name: shape for shapes in parameter_shapes(graph) for name, shape in shapes.items()}
        for graph in (symbol, inference_symbol(config, "fp32"))
    )
    names = [name for name, shape in ours.items() if own.get(name) != shape]
    if not names:
        return ""
    has = f"of {own[names[0]]}" if names[0] in own else "none"
    return f"It needs {names[0]} of {ours[names[0]]}, and the network of config.json has {has}"


class Detector(Predictor):
    """A Predictor on MXNet, which gives access to its graph and parameters."""

    engine: MXNetEngine

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        args: Params,
        auxs: Params,
        config: Config,
        context: mx.Context | None = None,
        source: str = "",
        precision: str = "fp32",
        memory: int | None = None,
    ) -> None:
        """symbol: the test graph. memory: the bytes that bound graphs may hold; see MXNetEngine."""
        self.config, self.source, self.precision = config, source, precision
        self._symbol = symbol
        engine = MXNetEngine(
            symbol, *self._fitted(args, auxs), context or mx.cpu(), memory, self._check
        )
        super().__init__(engine, config, source)

    @classmethod
    def load(
        cls,
        place: str | Path,
        checkpoint: str | int | None = None,
        params: str | Path | None = None,
        context: mx.Context | None = None,
        precision: str | None = None,
        memory: int | None = None,
    ) -> Detector:
        """Load the detector of a run folder.

        checkpoint: "best", "last" or a step; None is the best if there is one, else the last.
        params: a bare .params file to use instead. precision: fp32, or bf16 for convolutions and
        fully connected layers in bfloat16; None is the run's own: that of mxrcnn quantize, else
        fp32. memory: see the constructor. Raises CheckpointError for missing or broken files, and
        for ONNX files, whose graph MXNet does not have: Predictor.load takes both.
        """
        if str(place).endswith(".onnx"):
            raise CheckpointError(
                f"{place} is an ONNX file, not a run: use Predictor.load, which takes either"
            )
        folder = RunFolder(Path(place))
        config, stored = folder.config(), folder.precision()
        precision = precision or stored
        if stored not in ("fp32", precision):
            raise CheckpointError(f"{place} is quantized to {stored}: it cannot run in {precision}")
        if params is None:
            params = folder.folder(checkpoint) / "model.params"
        args, auxs = split_params(load_arrays(Path(params)))
        symbol = folder.symbol("test")  # in any precision, so that a damaged file is reported
        if precision != stored:
            symbol = inference_symbol(config, precision)
        try:
            return cls(symbol, args, auxs, config, context, str(params), precision, memory)
        except CheckpointError as error:
            changed = _changed_parameters(symbol, config) if precision == "fp32" else ""
            if changed:
                path = folder.path / "test-symbol.json"
                message = f"{path}: edited, or of another run? {changed} ({error})"
                raise CheckpointError(message) from None
            raise

    @property
    def symbol(self) -> mx.sym.Symbol:
        """The test graph."""
        return self._symbol

    @property
    def params(self) -> tuple[Params, Params]:
        """Arguments and auxiliary states by name, in the form that the graph expects."""
        return self.engine.params

    def set_params(self, args: Params, auxs: Params) -> None:
        """Replace the parameters; CheckpointError if any is missing or has a wrong shape or type.

        Graphs are bound again. Work that was started before keeps the old parameters; images of
        other threads use either the old or the new ones.
        """
        self.engine.set_params(*self._fitted(args, auxs))

    def _fitted(self, args: Params, auxs: Params) -> tuple[Params, Params]:
        """Convert parameters to the form that the graph expects."""
        arg_shapes, aux_shapes = parameter_shapes(self._symbol)
        # the training graph may store normalisation statistics as arguments
        given = fold_norms(self._symbol, {**args, **auxs})
        return (
            as_stored(self._symbol, self._fitting(given, arg_shapes)),
            self._fitting(given, aux_shapes),
        )

    def _fitting(self, params: Params, shapes: dict[str, tuple[int, ...]]) -> Params:
        source = self.source or "the parameters"
        missing = sorted(set(shapes) - set(params))
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise CheckpointError(
                f"{source}: there is no {some} ({len(missing)} of {len(shapes)} parameters). If it "
                "comes from a classifier, train it first: "
                + command("train", "--pretrained", "RUN")
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

    def _check(self, shapes: Shapes) -> None:
        """ConfigError if this precision does not support inputs of these shapes."""
        check_shapes(self._plain_symbol, self.precision, **shapes)

    @cached_property
    def _plain_symbol(self) -> mx.sym.Symbol:
        """The graph before quantization, which hides the layers inside fused operators."""
        return inference_symbol(self.config, "int8") if self.precision == "int8" else self._symbol
