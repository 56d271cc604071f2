"""One training at a time in a run folder: a file lock that ends with the process.

`flock` locks an open file, not a process, so a child that inherits the file would keep the lock.
The file is therefore closed in every child, started (close-on-exec) or forked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import weakref
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # not Unix
    fcntl = None  # type: ignore[assignment]

#: the errors of file systems without such locks
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
#: the open lock files of this process
_held: set[int] = set()


class RunLockedError(RuntimeError):
    """Another training works in the run folder; the message says which."""


class RunLock:
    """The lock on a run folder, held until `release` or the end of the process.

    If the file system has no locks, `problem` says so and training goes on without one. Raises
    RunLockedError if another training holds the lock, OSError if the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.problem = ""
        path = folder / "training.lock"
        handle = _open(path, os.O_RDONLY)  # a file open for writing would block a read-only remount
        try:
            try:
                _flock(handle)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                os.close(handle)
                handle = _open(path, os.O_RDWR)  # NFS locks only files that are open for writing
                _flock(handle)
        except BlockingIOError:
            holder = _describe(os.pread(handle, 4096, 0))
            os.close(handle)
            raise RunLockedError(
                f"{folder}: {holder} trains here already. Wait for it, or stop it; testing and "
                "predicting with this run work meanwhile"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            self.problem = (
                f"{folder}: its file system has no locks ({os.strerror(error.errno)}): nothing "
                "keeps a second training from writing to this run"
            )
        _held.add(handle)
        self._release = weakref.finalize(self, _close, handle)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with contextlib.suppress(OSError):  # a full disk: the lock works all the same
            path.write_text(json.dumps(holder) + "\n", encoding="utf-8")

    def release(self) -> None:
        """Release the lock. May be called more than once."""
        self._release()


def _open(path: Path, mode: int) -> int:
    return os.open(path, mode | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _close(handle: int) -> None:
    if handle in _held:  # not in a forked child
        _held.discard(handle)
        os.close(handle)


def _flock(handle: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _describe(content: bytes) -> str:
    """Who holds a lock, from the content of its file, which may still be empty."""
    try:
        found = json.loads(content)
        return f"process {found['pid']} on {found['host']}, since {found['since']},"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _forget_in_child() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
