"""Runs one process of a distributed training, local or over ssh, and never leaves orphans.

    python -I guard.py NAME=VALUE ... -- COMMAND ...

When standard input closes, because the launcher died or the connection broke, the command's whole
process group is killed. A number on a line of its own is a signal to forward. This file uses the
standard library only: hosts run it by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable


def _dying_with_parent() -> Callable[[], None]:
    """A preexec_fn that has the kernel kill the new process when its parent dies."""
    set_death_signal, ours = 1, os.getpid()
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # not Linux
        return lambda: None

    def ask() -> None:
        prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _obey(process: subprocess.Popen) -> None:
    """Forward the signals named on standard input; kill the group at its end."""
    for line in sys.stdin:
        with contextlib.suppress(ValueError, ProcessLookupError):
            process.send_signal(int(line))
    _kill_group(process.pid)


def main() -> int:
    """Returns the command's exit code; 128 + n after signal n, 127 if it could not be started."""
    split = sys.argv.index("--")
    variables = dict(word.split("=", 1) for word in sys.argv[1:split])
    command = sys.argv[split + 1 :]
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_dying_with_parent(),
        )
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda number, _: process.send_signal(number))
    threading.Thread(target=_obey, args=(process,), daemon=True).start()
    code = process.wait()
    _kill_group(process.pid)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the thread that reads standard input is still blocked
