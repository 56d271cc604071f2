"""The inference engine for runs: MXNet, with one bound graph per input shape, within a budget."""

from __future__ import annotations

import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np

from mxrcnn.inference.engine import Outputs
from mxrcnn.inference.rewrite import with_pooling_tables
from mxrcnn.runs.checkpoint import CheckpointError
from mxrcnn.runs.symbol_file import mxnet_reason
from symnet.machine import mx
from symnet.machine.memory import read_memory

Shapes = dict[str, tuple[int, ...]]

#: the share of the free memory (at the start) that bound graphs may hold
MEMORY_SHARE = 0.25

_ALLOCATED = re.compile(r"Total (\d+) MB allocated")

#: held while a graph is bound. MXNet's shape inference and graph passes fail when two threads use
#: them at once ("Cannot find attribute shape in the graph"), even on different graphs
_BINDING = threading.Lock()


class _Bound:
    """An executor, the bytes that it holds, and the handle that its outputs belong to."""

    def __init__(self, executor: mx.executor.Executor, size: int) -> None:
        self.executor, self.size = executor, size
        self.waiting: Callable[[], _Running | None] = lambda: None

    def settle(self) -> None:
        """Copy outputs to the handle that still needs them, so that the executor is free."""
        running = self.waiting()
        if running is not None:
            running.fetch()


class _Running:
    """A handle: the outputs stay in the executor until asked for, or until it is reused."""

    def __init__(self, bound: _Bound, names: list[str], lock: threading.Lock) -> None:
        self._bound: _Bound | None = bound
        self._names, self._lock = names, lock
        self._outputs: Outputs = {}
        self._error: Exception | None = None
        bound.waiting = weakref.ref(self)

    def fetch(self) -> None:
        """Copy the outputs to the host, once. The caller holds the lock."""
        if self._bound is None:
            return
        outputs = self._bound.executor.outputs
        try:
            self._outputs = {name: out.asnumpy() for name, out in zip(self._names, outputs)}
        except Exception as error:  # raised in `result`; this may be another thread
            self._error = error
        self._bound = None  # not earlier: this reference keeps the executor alive

    def result(self) -> Outputs:
        """The outputs by name, on the host."""
        with self._lock:
            self.fetch()
        if self._error is not None:
            raise self._error
        return self._outputs


class MXNetEngine:
    """Runs a graph for inference, from any number of threads.

    One lock is held while inputs are copied, outputs are fetched, or a graph is bound. If an
    executor is needed again before its outputs were asked for, they are first copied to their
    handle. Lock and handle cost 13 us per pass; the smallest network takes 28 ms for 64 x 64
    pixels. An executor per thread would gain nothing: MXNet runs a device's operators in sequence.

    A graph is bound for each input shape and kept while all fit into `memory` bytes (default: a
    quarter of what is free at the start). The least recently used is dropped first; the one in use
    always stays. A graph's size is that of its arrays, as MXNet reports it, plus, on a CPU, a copy
    of the weights in oneDNN's layouts.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        args: Mapping[str, mx.nd.NDArray],
        auxs: Mapping[str, mx.nd.NDArray],
        context: mx.Context,
        memory: int | None = None,
        check: Callable[[Shapes], None] = lambda shapes: None,
    ) -> None:
        """check: called with the input shapes before a graph is bound; raises to refuse them."""
        self.symbol, self.context = symbol, context
        self.memory = _default_memory(context) if memory is None else memory
        self._check = check
        self.names = [name[: -len("_output")] for name in symbol.list_outputs()]
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[tuple[str, tuple[int, ...]], ...], _Bound] = OrderedDict()
        self.set_params(args, auxs)

    def set_params(
        self, args: Mapping[str, mx.nd.NDArray], auxs: Mapping[str, mx.nd.NDArray]
    ) -> None:
        """Replace the parameters. Work that was started before keeps the old ones.

        Drops all bound graphs: MXNet's CPU executors keep copies of the weights and would not see
        the change. For the same reason nobody may write to the arrays afterwards.
        """
        with self._lock:
            for key in list(self._bound):
                self._let_go(key)
            self._args = {name: value.as_in_context(self.context) for name, value in args.items()}
            self._auxs = {name: value.as_in_context(self.context) for name, value in auxs.items()}

    @property
    def params(self) -> tuple[dict[str, mx.nd.NDArray], dict[str, mx.nd.NDArray]]:
        """Arguments and auxiliary states by name."""
        return self._args, self._auxs

    @property
    def held(self) -> dict[tuple[int, ...], int]:
        """The bytes held by each bound graph, by shape of `data`, least recently used first."""
        with self._lock:
            return {dict(key)["data"]: bound.size for key, bound in self._bound.items()}

    def start(self, **inputs: np.ndarray) -> _Running:
        """Start computing for these inputs, without waiting; see Engine.

        Inputs that the graph does not have are ignored.
        """
        with self._lock:
            bound = self._bound_for({name: value.shape for name, value in inputs.items()})
            bound.settle()
            for name in inputs.keys() & bound.executor.arg_dict.keys():
                bound.executor.arg_dict[name][:] = inputs[name]
            bound.executor.forward(is_train=False)
            return _Running(bound, self.names, self._lock)

    def _bound_for(self, shapes: Shapes) -> _Bound:
        key = tuple(shapes.items())
        if key not in self._bound:
            with _BINDING:
                self._check(shapes)
                self._bound[key] = self._bind(shapes)
            self._make_room(key)
        self._bound.move_to_end(key)
        return self._bound[key]

    def _make_room(self, key: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
        """Drop graphs until the others and that of `key`, which is not in use yet, fit."""
        for oldest in list(self._bound):
            if oldest != key and sum(b.size for b in self._bound.values()) > self.memory:
                self._let_go(oldest)

    def _let_go(self, key: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
        self._bound.pop(key).settle()

    def _bind(self, shapes: Shapes) -> _Bound:
        inputs = {name: mx.nd.empty(shape, self.context) for name, shape in shapes.items()}
        symbol, on_cpu = self.symbol, self.context.device_type == "cpu"
        arrays = {**self._args, **inputs}
        try:
            if on_cpu:
                symbol = with_pooling_tables(symbol, shapes)
            executor = symbol.bind(self.context, arrays, grad_req="null", aux_states=self._auxs)
        except mx.MXNetError as error:  # an edited graph that passed the checks when it was read
            size = " x ".join(map(str, shapes.get("data", ())))
            raise CheckpointError(
                f"the test graph cannot be bound for data of {size}: {mxnet_reason(error)}"
            ) from None
        held = allocated(executor)
        weights = sum(map(_bytes, self._args.values())) if on_cpu else 0
        return _Bound(executor, held + weights + sum(map(_bytes, inputs.values())))


def allocated(executor: mx.executor.Executor) -> int:
    """The bytes of a bound graph's arrays, as MXNet reports them in MiB; 0 if it does not."""
    megabytes = _ALLOCATED.search(executor.debug_str())
    return int(megabytes.group(1)) << 20 if megabytes else 0


def _bytes(array: mx.nd.NDArray) -> int:
    return array.size * np.dtype(array.dtype).itemsize


def _default_memory(context: mx.Context) -> int:
    if context.device_type == "gpu":
        free, _ = mx.context.gpu_memory_info(context.device_id)
    else:
        free = read_memory().free
    return int(MEMORY_SHARE * free)
