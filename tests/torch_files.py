"""Writes checkpoints in torch.save's format without torch; torch's own are in data/torch."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mxrcnn.weights.torch_pickle import Program

TORCH = Path(__file__).parent / "data" / "torch"


def text(value: str) -> bytes:
    """The opcode that pushes a string."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integers(values) -> bytes:
    """The opcodes that push a tuple of integers."""
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def tensor(
    key: str, shape, strides, size: int, offset: int = 0, kind: str = "FloatStorage"
) -> bytes:
    """The opcodes that push a tensor."""
    storage = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    number = b"J" + struct.pack("<i", size)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + (storage + number + b"tQ" + b"J" + struct.pack("<i", offset))
        + (integers(shape) + integers(strides) + b"\x89ccollections\nOrderedDict\n)RtR")
    )


def program(items: Mapping[str, bytes]) -> bytes:
    """A pickle of an ordered dictionary: names, and the opcodes that push the values."""
    body = b"".join(text(name) + value for name, value in items.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + body + b"u."


def write_zip(
    path: Path, pickle: bytes, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a checkpoint with this pickle and these storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def write_pth(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a checkpoint of float32 arrays."""
    items, storages = {}, {}
    for place, (name, value) in enumerate(arrays.items()):
        value = np.ascontiguousarray(value, np.float32)
        strides = np.array(value.strides, int) // 4
        items[name] = tensor(str(place), value.shape, strides.tolist(), value.size)
        storages[str(place)] = value.tobytes()
    return write_zip(path, program(items), storages)


def write_torchs(path: Path, name: str, value: Callable[[str, tuple], np.ndarray]) -> Path:
    """Write a checkpoint with torch's own pickle for a model, and values by name and shape."""
    pickle = gzip.decompress((TORCH / f"{name}.pkl.gz").read_bytes())
    state = Program().run(pickle)
    storages = {
        entry.storage.key: np.asarray(value(key, entry.shape)).tobytes()
        for key, entry in state.items()
    }
    return write_zip(path, pickle, storages)
