"""Atomic writes of files and folders, and safe file names for any text."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_MAX_NAME = 120


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file next to `path`; on success it is synced and renamed to `path`.

    mode: "w" (UTF-8 text with \\n line ends) or "wb". Missing folders are created. On an error the
    new file is removed and an existing `path` is untouched. Symbolic links are followed. A device
    or pipe, such as /dev/stdout, is written to directly. Raises ValueError for another mode.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write: mode {mode!r} is neither 'w' nor 'wb'")
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, mode, **text) as handle:
            yield handle
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, mode.replace("w", "x"), **text) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Create a temporary folder next to `path`; on success it is renamed to `path`.

    On an error it is removed. An empty folder at `path` is replaced. Raises OSError if anything
    else is there.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def safe_name(text: str) -> str:
    """Turn any text into part of a file name; different texts give different names.

    Letters, digits, "-", "_", "." and inner spaces are kept; other characters become %XX. A long
    name is cut and ends in a hash of the full text.
    """
    stripped = text.strip()
    keep_spaces = stripped == text
    quoted = "".join(
        c if c.isalnum() or c in "-_." or (c == " " and keep_spaces) else _percent(c) for c in text
    )
    if len(quoted.encode()) <= _MAX_NAME:
        return quoted
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    head = quoted.encode()[: _MAX_NAME - 17].decode(errors="ignore")
    return f"{head}~{digest}"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
