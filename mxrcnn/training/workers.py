"""The processes of one training, as MXNet's parameter server connects them.

Who they are comes from the environment (`DMLC_ROLE` and its kin, as tools/launch.py or a job
scheduler sets them). In step (`dist_sync`, `dist_device_sync`) the servers add up the workers'
gradients and each worker makes the same update; with `dist_async` the servers make the updates.
MXNet's own server would unpickle what any process on the network sends it. This one takes JSON.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from mxrcnn.compat import mx
from mxrcnn.config import ConfigError
from mxrcnn.training.optimizer import make_optimizer

#: set beside DMLC's own variables by tools/launch.py: which worker this is
RANK = "DMLC_WORKER_ID"
_NEEDED = ("DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
#: numbers below it survive a sum over 4096 workers in float32
_EXACT = 4096


class WorkersError(RuntimeError):
    """The workers of a training cannot work together; the message says in what they differ."""


def started_together() -> bool:
    """Whether the environment says that this process is one of several."""
    return "DMLC_ROLE" in os.environ


def number_of_workers() -> int:
    """How many workers the environment announces; ConfigError if it does not say enough."""
    missing = [name for name in ("DMLC_ROLE", *_NEEDED) if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"--kvstore dist_*: {', '.join(missing)} not in the environment. Start all processes "
            "by: python tools/launch.py -n 2 -- python tools/train.py ... (docs/distributed.md)"
        )
    try:
        numbers = [int(os.environ[name]) for name in _NEEDED[1:]]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        told = ", ".join(f"{name}={os.environ[name]}" for name in _NEEDED[1:])
        raise ConfigError(f"{told}: numbers from 1 are expected")
    return numbers[1]


class Workers:
    """This process among the workers; on its own unless connected.

    rank: 0 for the one that logs, validates and saves. count: how many there are. in_step: whether
    they make each step together.
    """

    def __init__(self, kind: str = "local") -> None:
        """Connect to the others, and wait until all are there; kind as in `--kvstore`."""
        self.rank, self.count, self.in_step = 0, 1, False
        self.store: Any = None
        self._sums: dict[str, mx.nd.NDArray] = {}
        if kind == "local":
            return
        self.count = number_of_workers()
        self.store = mx.kv.create(kind)
        self.rank = int(os.environ.get(RANK, self.store.rank))
        self.in_step = kind != "dist_async"
        atexit.register(_flush_and_exit, 1)  # at the normal end `leave` takes it back

    @property
    def first(self) -> bool:
        """Whether this is the worker that logs, validates and saves."""
        return self.rank == 0

    def total(self, name: str, values: mx.nd.NDArray) -> mx.nd.NDArray:
        """The sum of an array over all workers in step, not waited for; alone, the array itself.

        All workers call it in the same order, and with the same shape for the same name.
        """
        if not self.in_step:
            return values
        if name not in self._sums:
            self._sums[name] = mx.nd.zeros(values.shape)
            self.store.init(f"total:{name}", self._sums[name])
        out = mx.nd.empty(values.shape)
        self.store.pushpull(f"total:{name}", values.as_in_context(mx.cpu()), out=out)
        return out

    def check_agreement(self, what: Mapping[str, str]) -> None:
        """WorkersError unless all workers have the same texts, and each a rank of its own.

        what: texts by what they are called.
        """
        if not self.in_step:
            return
        sums = {name: zlib.crc32(text.encode()) for name, text in what.items()}
        values = [part for s in sums.values() for part in (s % _EXACT, s // _EXACT % _EXACT)]
        ranks = [float(rank == self.rank) for rank in range(self.count)]
        found = self.total("agreement", mx.nd.array([*values, *ranks])).asnumpy()
        same = found[: len(values)] == np.multiply(values, self.count)
        different = [name for name, ok in zip(sums, same.reshape(-1, 2).all(axis=1)) if not ok]
        if different:
            raise WorkersError(
                f"the workers differ in {', '.join(different)}: they need the same command, the "
                "same data, and one run folder that all of them see"
            )
        if (found[len(values) :] != 1).any():
            raise WorkersError(f"{RANK}={self.rank}: the workers' ranks are not 0, 1, 2, ...")

    def wait_for_all(self) -> None:
        """Wait until every worker has come here."""
        if self.store is not None:
            self.store._barrier()

    def leave(self) -> None:
        """Say goodbye: waits for the others; the servers end when all have left."""
        if self.store is not None:
            mx.nd.waitall()
            # whoever holds the store still: the connection goes with its handle
            other = mx.kv.create("local")
            other.handle, self.store.handle = self.store.handle, other.handle
            del other
            self.store = None
            atexit.unregister(_flush_and_exit)


def _flush_and_exit(code: int) -> NoReturn:
    """End at once: MXNet would first wait for the other workers, which may wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serves() -> bool:
    """Whether this process is to be a server or the scheduler."""
    return os.environ.get("DMLC_ROLE") in ("server", "scheduler")


def serve() -> None:
    """Be a server or the scheduler until the workers have left."""
    number_of_workers()
    role = os.environ["DMLC_ROLE"]
    os.environ["DMLC_ROLE"] = "worker"  # or mxnet serves while it is imported, and unpickles
    try:
        mx.nd  # noqa: B018 - imports it
    finally:
        os.environ["DMLC_ROLE"] = role
    store = mx.kv.create("dist")

    def control(number: int, body: bytes, _: Any) -> None:
        try:
            optimizer = make_optimizer(*json.loads(body))
        except Exception as error:  # it could not leave the C++ code that calls this
            print(f"error: server: command {number} is not understood: {error}", file=sys.stderr)
            _flush_and_exit(1)
        store._set_updater(mx.optimizer.get_updater(optimizer))

    signature = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    call = signature(control)
    mx.base.check_call(mx.base._LIB.MXKVStoreRunServer(store.handle, call, None))


def update_on_servers(store: Any, names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Let the servers make the updates: `make_optimizer(options)`, for parameters in that order."""
    text = json.dumps([list(names), dict(options)])

    def set_optimizer(_: Any) -> None:
        store._send_command_to_servers(0, text)

    store.set_optimizer = set_optimizer  # MXNet's own would send a pickle
