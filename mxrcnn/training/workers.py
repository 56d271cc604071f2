"""The worker processes of one training, connected by MXNet's parameter servers.

Their roles come from the environment (`DMLC_ROLE` and others, set by mxrcnn launch or a job
scheduler). In step (`dist_sync`, `dist_device_sync`), the servers add up the workers' gradients and
each worker does the same update. With `dist_async`, the servers do the updates.
"""

from __future__ import annotations

import atexit
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxrcnn.config import ConfigError, TrainConfig
from mxrcnn.training.server import flush_and_exit, number_of_workers
from symnet.machine import mx

#: this worker's number, set by mxrcnn launch in addition to DMLC's own variables
RANK = "DMLC_WORKER_ID"
#: integers below it are still exact after a float32 sum over 4096 workers
_EXACT = 4096


#: settings that dist_async does not have
_IN_STEP = ("optimizer", "clip_norm", "accumulate", "ema", "patience")


def check_own_pace(train: TrainConfig) -> None:
    """ConfigError for settings that need the gradient of a whole step in one place."""
    for name in _IN_STEP:
        value = getattr(train, name)
        if train.kvstore == "dist_async" and value != getattr(TrainConfig, name):
            raise ConfigError(
                f"train.{name}={value!r}: not with train.kvstore=dist_async, where servers update "
                "with one worker's gradients at a time"
            )


class Workers:
    """This process among the workers; a single one with kind "local".

    rank: 0 for the worker that logs, validates and saves. count: the number of workers. in_step:
    whether all do each step together.
    """

    def __init__(self, kind: str = "local") -> None:
        """Connect to the others and wait until all are there. kind: as in `--kvstore`."""
        self.rank, self.count, self.in_step = 0, 1, False
        self.store: Any = None
        self._sums: dict[str, mx.nd.NDArray] = {}
        if kind == "local":
            return
        self.count = number_of_workers()
        self.store = mx.kv.create(kind)
        self.rank = int(os.environ.get(RANK, self.store.rank))
        self.in_step = kind != "dist_async"
        atexit.register(flush_and_exit, 1)  # unregistered by `leave` at the normal end

    @property
    def at_own_pace(self) -> bool:
        """True if the servers do the updates (dist_async), each with one worker's gradients."""
        return self.store is not None and not self.in_step

    @property
    def first(self) -> bool:
        """True if this is the worker that logs, validates and saves."""
        return self.rank == 0

    def total(self, name: str, values: mx.nd.NDArray) -> mx.nd.NDArray:
        """The sum of an array over all workers in step, without waiting; alone, the array itself.

        All workers must call it in the same order, with the same shape for the same name.
        """
        if not self.in_step:
            return values
        if name not in self._sums:
            self._sums[name] = mx.nd.zeros(values.shape)
            self.store.init(f"total:{name}", self._sums[name])
        # reuse one array per name: MXNet orders operations by array, not by key
        array = self._sums[name]
        values.copyto(array)
        self.store.pushpull(f"total:{name}", array)
        return array.copy()

    def share(self, text: str) -> str:
        """The first worker's text, for all workers in step; alone, the text itself.

        All must call it together.
        """
        if not self.in_step:
            return text
        own = np.frombuffer(text.encode() if self.first else b"", np.uint8)
        size = self.total("length of a text", mx.nd.array([float(len(own))])).asscalar()
        values = np.zeros(int(size), np.float32)
        values[: len(own)] = own
        found = self.total("text", mx.nd.array(values)).asnumpy()
        return found.astype(np.uint8).tobytes().decode()

    def check_agreement(self, what: Mapping[str, str]) -> None:
        """Raise ConfigError unless all workers pass the same texts and have distinct ranks.

        what: the texts by the name that the message uses.
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
            raise ConfigError(
                f"the workers differ in {', '.join(different)}: they need the same command, the "
                "same data, and one run folder that all of them see"
            )
        if (found[len(values) :] != 1).any():
            raise ConfigError(f"{RANK}={self.rank}: the workers' ranks are not 0, 1, 2, ...")

    def wait_for_all(self) -> None:
        """Wait until every worker has called this."""
        if self.store is not None:
            self.store._barrier()

    def leave(self) -> None:
        """Disconnect, after waiting for the others. The servers end when all have left."""
        if self.store is not None:
            mx.nd.waitall()
            # deleting the handle closes the connection, even if others still refer to the store
            other = mx.kv.create("local")
            other.handle, self.store.handle = self.store.handle, other.handle
            del other
            self.store = None
            atexit.unregister(flush_and_exit)


def update_on_servers(
    store: Any, kind: str, names: Sequence[str], options: Mapping[str, Any]
) -> None:
    """Have the servers do the updates, by `make_optimizer(kind, names, options)`."""
    text = json.dumps([kind, list(names), dict(options)])

    def set_optimizer(_: Any) -> None:
        store._send_command_to_servers(0, text)

    store.set_optimizer = set_optimizer  # MXNet's own would send a pickle
