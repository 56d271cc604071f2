"""A trained detector run by MXNet: Detector.load("runs/NAME").predict(image) -> Detections."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from mxrcnn.config import Config, check_precision, check_shapes
from mxrcnn.inference.mxnet_engine import MXNetEngine, Shapes
from mxrcnn.inference.predictor import Predictor
from mxrcnn.runs.checkpoint import CheckpointError, Params, RunFolder, load_arrays, split_params
from symnet import get_detector
from symnet.detector import parameter_shapes
from symnet.machine import mx
from symnet.parts.layers import as_stored, fold_norms
from symnet.parts.layers import precision as graph_precision


def inference_symbol(config: Config, precision: str) -> mx.sym.Symbol:
    """The test graph of a config in fp32, in bf16, or in the form that is quantized to int8.

    ConfigError where it cannot run.
    """
    check_precision(precision)
    with graph_precision("bf16_stored" if precision == "bf16" else precision):
        return get_detector(config.network).test_symbol(config.model)


def _changed_parameters(symbol: mx.sym.Symbol, config: Config) -> str:
    """In what a graph's parameters are not those of the config's own graph, in a few words."""
    ours, own = (
        {name: shape for shapes in parameter_shapes(graph) for name, shape in shapes.items()}
        for graph in (symbol, inference_symbol(config, "fp32"))
    )
    names = [name for name, shape in ours.items() if own.get(name) != shape]
    if not names:
        return ""
    has = f"of {own[names[0]]}" if names[0] in own else "no such one"
    return f"It needs {names[0]} of {ours[names[0]]}, and the network of config.json has {has}"


class Detector(Predictor):
    """A Predictor on MXNet: with a graph and parameters that can be seen and replaced."""

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
        """memory: bytes that bound graphs may hold, see MXNetEngine."""
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
        """The detector of a run folder.

        checkpoint: "best", "last" or a step; None is the best if there is one, else the last.
        params: a bare .params file to use instead. precision: fp32, or bf16 for convolutions and
        fully connected layers in bfloat16; None is the run's own: that of tools/quantize.py, else
        fp32. memory: as of the constructor. Raises CheckpointError for what is not there, and for
        ONNX files, which have no graph to show: Predictor.load takes both.
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
            which = checkpoint or ("best" if folder.best() else "last")
            params = folder.folder(which) / "model.params"
        args, auxs = split_params(load_arrays(Path(params)))
        symbol = folder.symbol("test")  # a damaged one is told in any precision
        if precision != stored:
            symbol = inference_symbol(config, precision)
        try:
            return cls(symbol, args, auxs, config, context, str(params), precision, memory)
        except CheckpointError as error:
            changed = _changed_parameters(symbol, config) if precision == "fp32" else ""
            if changed:
                path = folder.path / "test-symbol.json"
                raise CheckpointError(
                    f"{path}: edited, or of another run? {changed} ({error})"
                ) from None
            raise

    @property
    def symbol(self) -> mx.sym.Symbol:
        """The test graph."""
        return self._symbol

    @property
    def params(self) -> tuple[Params, Params]:
        """Arguments and auxiliary states by name, as the graph takes them."""
        return self.engine.params

    def set_params(self, args: Params, auxs: Params) -> None:
        """Replace the parameters; CheckpointError if some are missing or of another shape or kind.

        Graphs are bound anew. What was started before keeps the parameters that it was started
        with; other threads' images are of either the old or the new ones.
        """
        self.engine.set_params(*self._fitted(args, auxs))

    def _fitted(self, args: Params, auxs: Params) -> tuple[Params, Params]:
        """Parameters as the graph takes them."""
        arg_shapes, aux_shapes = parameter_shapes(self._symbol)
        # stored statistics may be arguments of the training graph
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

    def _check(self, shapes: Shapes) -> None:
        """ConfigError for shapes of inputs that are not safe in this precision."""
        check_shapes(self._plain_symbol, self.precision, **shapes)

    @cached_property
    def _plain_symbol(self) -> mx.sym.Symbol:
        """The graph with its layers to be seen: a quantized one has hidden them."""
        return inference_symbol(self.config, "int8") if self.precision == "int8" else self._symbol
