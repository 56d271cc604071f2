"""Reads the graphs of a run folder, and checks them before use: people may have edited them."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from symnet.detector import SIDE
from symnet.machine import mx

#: the outputs that every test graph must have, with the lengths after the batch axis
_OUTPUTS = {"det_boxes": (None, 4), "det_scores": (None,), "det_classes": (None,)}
_INPUTS = ("data", "im_info")


class SymbolError(ValueError):
    """A graph that cannot be used. The message does not name the file."""


def mxnet_reason(error: Exception) -> str:
    """The essential line of MXNet's message, without traceback and source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = [line for line in lines if line.startswith("MXNetError:")] or lines
    text = shown[0] if shown else type(error).__name__
    text = re.sub(r"^MXNetError: |\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", text)
    return text[:300]


def load_symbol(path: Path) -> mx.sym.Symbol:
    """Load the graph of a JSON file; SymbolError if it is damaged."""
    try:
        return mx.sym.load_json(path.read_text(encoding="utf-8"))
    except Exception as error:  # MXNet's own message may not be valid UTF-8
        raise SymbolError(f"not a whole symbol ({mxnet_reason(error)})") from None


def check_test_symbol(symbol: mx.sym.Symbol) -> None:
    """Raise SymbolError unless the graph has a detector's outputs for images of any size and
    number. Takes a few milliseconds; nothing is computed."""
    names = [name[: -len("_output")] for name in symbol.list_outputs()]
    missing = [name for name in _OUTPUTS if name not in names]
    if missing:
        raise SymbolError(f"the graph has no output {', '.join(missing)}")
    if "data" not in symbol.list_arguments():
        raise SymbolError("the graph has no input data")
    weights: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
    for batch, height, width in ((1, SIDE, SIDE), (2, 2 * SIDE, SIDE)):
        given = {"data": (batch, 3, height, width), "im_info": (batch, 3)}
        given = {name: given[name] for name in _INPUTS if name in symbol.list_arguments()}
        args, outputs, auxs = _infer_shapes(symbol, given)
        found = dict(zip(names, outputs))
        for name, rest in _OUTPUTS.items():
            shape = found[name]
            fits = len(shape) == 1 + len(rest) and shape[0] == batch
            if not (fits and all(r in (None, s) for r, s in zip(rest, shape[1:]))):
                raise SymbolError(f"the graph's {name} is {shape} for {batch} images")
        pairs = zip([*symbol.list_arguments(), *symbol.list_auxiliary_states()], [*args, *auxs])
        weights[batch, height, width] = [shape for name, shape in pairs if name not in given]
    if len({str(shapes) for shapes in weights.values()}) > 1:
        raise SymbolError("the shapes of the graph's parameters depend on the images' size")


def _infer_shapes(symbol: mx.sym.Symbol, given: dict[str, tuple[int, ...]]) -> tuple:
    """The shapes of arguments, outputs and auxiliary states; SymbolError if inconsistent."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MXNet prints before it raises
            args, outputs, auxs = symbol.infer_shape(**given)
            symbol.infer_type(**dict.fromkeys(given, "float32"))
    except Exception as error:
        size = " x ".join(map(str, given["data"]))
        raise SymbolError(
            f"the graph's shapes do not fit together for data of {size} ({mxnet_reason(error)})"
        ) from None
    if args is None:
        raise SymbolError("the graph does not determine the shapes of its parameters")
    return args, outputs, auxs
