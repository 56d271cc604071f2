"""Decoded images on disk, so that reading a part of one does not decode the whole.

An image is decoded when a part of it is first wanted, by any process, and kept uncompressed. Parts
are read through memory maps: a tile of 1024 x 1024 of a JPEG of 6000 x 4000 pixels takes 0.2 ms, or
35 ms from a disk, instead of 330 ms.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL

from mxrcnn.files import atomic_write

#: the folder in a run's folder
FOLDER = "decoded"
#: bytes of a disk that are left free
RESERVE = 2 << 30


def kept(
    store: Path, path: Path, upright: bool, size: tuple[int, int], decode: Callable[[], np.ndarray]
) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of an image file, from the store, or decoded and put there.

    path: the file; a changed one is decoded anew. upright: whether it is turned by its EXIF tag.
    size: its (height, width). decode: gives its pixels. Raises what that raises. If the store
    cannot be written or its disk has less than RESERVE bytes left, warns and goes on.
    """
    file = store / f"{_stamp(path, upright)}.npy"
    try:
        pixels = np.load(file, mmap_mode="r", allow_pickle=False)
        if pixels.shape == (*size, 3) and pixels.dtype == np.uint8:
            return pixels
    except (OSError, ValueError):
        pass  # not there yet, or broken
    pixels = decode()
    try:
        store.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(store).free < RESERVE + pixels.nbytes:
            raise OSError(errno.ENOSPC, "the disk is almost full")
        with atomic_write(file, "wb") as handle:
            np.save(handle, pixels, allow_pickle=False)
    except OSError as error:
        warnings.warn(
            f"{store}: {error.strerror}; decoded images are not kept, but decoded for each tile",
            stacklevel=2,
        )
    return pixels


def _stamp(path: Path, upright: bool) -> str:
    """What the decoded pixels of a file depend on, as a file name."""
    try:
        found = os.stat(path)
        state = found.st_size, found.st_mtime_ns
    except OSError:
        state = None  # decoding it will say why
    about = json.dumps([os.path.abspath(path), state, upright, PIL.__version__])
    return hashlib.blake2b(about.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
