"""A test graph bound once for each shape of its inputs, all on the same parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from mxrcnn.compat import mx
from mxrcnn.inference.rewrite import with_pooling_tables

#: shapes that are kept bound; each has its own working memory, and its own copies of weights in
#: the layout that oneDNN likes
KEPT_SHAPES = 4


class Executors:
    """Runs a graph for inference. The least recently used shapes are let go, KEPT_SHAPES stay.

    Weights must not change afterwards: MXNet's CPU executors keep copies of them.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        args: Mapping[str, mx.nd.NDArray],
        auxs: Mapping[str, mx.nd.NDArray],
        context: mx.Context,
        kept: int = KEPT_SHAPES,
    ) -> None:
        self._symbol, self._context, self._kept = symbol, context, kept
        self._args = {name: value.as_in_context(context) for name, value in args.items()}
        self._auxs = {name: value.as_in_context(context) for name, value in auxs.items()}
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], mx.executor.Executor] = OrderedDict()
        self._running: mx.executor.Executor | None = None

    def _executor(self, shapes: Mapping[str, tuple[int, ...]]) -> mx.executor.Executor:
        key = tuple(shapes.values())
        if key not in self._bound:
            while len(self._bound) >= self._kept:
                self._bound.popitem(last=False)
            inputs = {name: mx.nd.empty(shape, self._context) for name, shape in shapes.items()}
            symbol = self._symbol
            if self._context.device_type == "cpu":
                symbol = with_pooling_tables(symbol, shapes)
            self._bound[key] = symbol.bind(
                self._context, {**self._args, **inputs}, grad_req="null", aux_states=self._auxs
            )
        self._bound.move_to_end(key)
        return self._bound[key]

    def start(self, **inputs: np.ndarray) -> None:
        """Start computing for these inputs, without waiting; `finish` has the outputs.

        Inputs that the graph does not have are left out.
        """
        executor = self._executor({name: value.shape for name, value in inputs.items()})
        for name in inputs.keys() & executor.arg_dict.keys():
            executor.arg_dict[name][:] = inputs[name]
        executor.forward(is_train=False)
        self._running = executor

    def finish(self) -> list[np.ndarray]:
        """The outputs of what was started last, on the host, in the graph's order."""
        return [out.asnumpy() for out in self._running.outputs]
