"""The processes of one training, as MXNet's parameter server connects them.

Who they are comes from the environment (`DMLC_ROLE` and its kin, as tools/launch.py or a job
scheduler sets them). In step (`dist_sync`, `dist_device_sync`) the servers add up the workers'
gradients and each worker makes the same update; with `dist_async` the servers make the updates.
"""

from __future__ import annotations

import atexit
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxrcnn.config import ConfigError
from mxrcnn.training.server import flush_and_exit, number_of_workers
from symnet.machine import mx

#: set beside DMLC's own variables by tools/launch.py: which worker this is
RANK = "DMLC_WORKER_ID"
#: numbers below it survive a sum over 4096 workers in float32
_EXACT = 4096


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
        atexit.register(flush_and_exit, 1)  # at the normal end `leave` takes it back

    @property
    def at_own_pace(self) -> bool:
        """Whether the servers make the updates, with the gradients of one worker after another."""
        return self.store is not None and not self.in_step

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
        # always the same array: MXNet keeps the order of what is done to an array, not to a key
        array = self._sums[name]
        values.copyto(array)
        self.store.pushpull(f"total:{name}", array)
        return array.copy()

    def check_agreement(self, what: Mapping[str, str]) -> None:
        """ConfigError unless all workers have the same texts, and each a rank of its own.

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
            raise ConfigError(
                f"the workers differ in {', '.join(different)}: they need the same command, the "
                "same data, and one run folder that all of them see"
            )
        if (found[len(values) :] != 1).any():
            raise ConfigError(f"{RANK}={self.rank}: the workers' ranks are not 0, 1, 2, ...")

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
            atexit.unregister(flush_and_exit)


def update_on_servers(store: Any, names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Let the servers make the updates: `make_optimizer(options)`, for parameters in that order."""
    text = json.dumps([list(names), dict(options)])

    def set_optimizer(_: Any) -> None:
        store._send_command_to_servers(0, text)

    store.set_optimizer = set_optimizer  # MXNet's own would send a pickle
