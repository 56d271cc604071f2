"""MXNet's parameter servers and their scheduler, which connect the workers of one training.

A process with `DMLC_ROLE=server` becomes a server when it imports MXNet, and MXNet's own server
unpickles what it receives. Ours gets the optimizer as JSON instead. `serve_if_asked` must run
before anything imports MXNet, so this module does not import it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, NoReturn

from mxrcnn.config import ConfigError
from mxrcnn.program import command
from symnet.machine import mx

_NEEDED = ("DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")


def started_together() -> bool:
    """True if this process is one of several, according to the environment."""
    return "DMLC_ROLE" in os.environ


def number_of_workers() -> int:
    """The number of workers from the environment; ConfigError if variables are missing."""
    missing = [name for name in ("DMLC_ROLE", *_NEEDED) if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"--kvstore dist_*: {', '.join(missing)} not in the environment. Start all processes "
            f"by: {command('launch', '-n', 2, '--')} {command('train')} ... (docs/distributed.md)"
        )
    try:
        numbers = [int(os.environ[name]) for name in _NEEDED[1:]]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        given = ", ".join(f"{name}={os.environ[name]}" for name in _NEEDED[1:])
        raise ConfigError(f"{given}: numbers from 1 are expected")
    return numbers[1]


def flush_and_exit(code: int) -> NoReturn:
    """Exit at once. MXNet's own exit waits for the other workers, which may wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve_if_asked() -> bool:
    """If DMLC_ROLE is server or scheduler, run as one until the workers have left.

    Returns whether it did. Raises ConfigError if variables are missing in the environment.
    """
    role = os.environ.get("DMLC_ROLE")
    if role not in ("server", "scheduler"):
        return False
    number_of_workers()
    os.environ["DMLC_ROLE"] = "worker"
    try:
        from mxrcnn.training.optimizer import make_optimizer  # imports mxnet
    finally:
        os.environ["DMLC_ROLE"] = role
    store = mx.kv.create("dist")

    def control(number: int, body: bytes, _: Any) -> None:
        try:
            optimizer = make_optimizer(*json.loads(body))
        except Exception as error:  # exceptions cannot pass through the C++ caller
            print(f"error: command {number} is not understood: {error!r}", file=sys.stderr)
            flush_and_exit(1)
        store._set_updater(mx.optimizer.get_updater(optimizer))

    signature = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    call = signature(control)
    mx.base.check_call(mx.base._LIB.MXKVStoreRunServer(store.handle, call, None))
    return True
