"""Reads PyTorch checkpoints (.pth, .pt) without torch: raw tensor bytes, located by their pickle.

Both of torch's layouts are supported: the zip of torch >= 1.6, and the older sequence of pickles,
which many files published by torchvision still use. No pickle is ever loaded: see
mxrcnn/weights/torch_pickle.py.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mxrcnn.runs.budget import BudgetError, ByteBudget
from mxrcnn.weights.torch_pickle import Program, PthError, Storage, Tensor

__all__ = ["PthError", "read_pth"]

#: the first pickle of the older layout holds this number
MAGIC = 0x1950A86A20F9469CFC6C
#: longer pickles are refused; a large detector's has 0.1 MB
MAX_PICKLE = 64 << 20


def from_bfloat16(values: np.ndarray) -> np.ndarray:
    """bfloat16 values, given as uint16, as float32: they are its upper 16 bits."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _view(tensor: Tensor, data: bytes, order: str) -> np.ndarray:
    """A tensor's array, from the bytes of its storage; PthError if there are too few."""
    storage = tensor.storage
    bfloat16 = storage.dtype == "bfloat16"
    dtype = np.dtype("u2" if bfloat16 else storage.dtype).newbyteorder(order)
    if len(data) < storage.size * storage.itemsize:
        raise PthError(
            f"storage {storage.key} has only {len(data)} bytes, too few: is the file truncated?"
        )
    count = math.prod(tensor.shape)
    if not count:
        return np.zeros(tensor.shape, np.float32)
    flat = np.frombuffer(data, dtype, count=storage.size)[tensor.offset :]
    strides = tuple(step * dtype.itemsize for step in tensor.strides)
    array = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
    if bfloat16:
        return from_bfloat16(array)
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(tensor.shape)


def _is_weights(value: Any) -> bool:
    return type(value) is dict and any(
        type(name) is str and type(item) is Tensor for name, item in value.items()
    )


#: keys under which training scripts store the parameters, next to optimizer states and the like
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "net")


def _state_dict(document: Any) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, at its top level or under a key such as `model`."""
    if type(document) is dict and not _is_weights(document):
        inner = [document[name] for name in _WRAPPERS if _is_weights(document.get(name))]
        document = inner[0] if inner else document
    if not _is_weights(document):
        raise PthError(
            "it has no state dict (named tensors), neither at its top level nor under "
            f"{', '.join(_WRAPPERS)}"
        )
    named = {k: v for k, v in document.items() if type(k) is str and type(v) is Tensor}
    for prefix in ("module.", "_orig_mod."):  # added by DataParallel and torch.compile
        if all(name.startswith(prefix) for name in named):
            named = {name[len(prefix) :]: value for name, value in named.items()}
    return named


def _arrays(
    document: Any, data_of: Callable[[Storage], bytes], budget: ByteBudget, order: str
) -> dict[str, np.ndarray]:
    """The arrays of the checkpoint's state dict. Each storage is read once.

    Raises BudgetError if tensors share storages so often that they exceed the memory limit.
    """
    tensors = _state_dict(document)
    for name, tensor in tensors.items():
        budget.take(name, math.prod(tensor.shape), tensor.storage.itemsize)
    found, sharing = {}, {}
    for name, tensor in tensors.items():
        sharing.setdefault(tensor.storage.key, []).append(name)
    for names in sharing.values():
        data = data_of(tensors[names[0]].storage)
        found.update({name: _view(tensors[name], data, order) for name in names})
    return {name: found[name] for name in tensors}


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        entries = _checked_entries(archive, path.stat().st_size)
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise PthError("its zip has no data.pkl: torch.save did not write it")
        folder = pickles[0].partition("/")[0]
        if f"{folder}/constants.pkl" in entries:
            raise PthError(
                "it is a TorchScript program (torch.jit.save); save its state_dict() instead"
            )
        if entries[pickles[0]] > MAX_PICKLE:
            raise PthError(f"its data.pkl is longer than {MAX_PICKLE} bytes")
        order = _byte_order(archive, entries, f"{folder}/byteorder")

        def data_of(storage: Storage) -> bytes:
            name = f"{folder}/data/{storage.key}"
            if name not in entries:
                raise PthError(f"its zip has no {name}")
            return archive.read(name)

        document = Program().run(archive.read(pickles[0]))
        return _arrays(document, data_of, ByteBudget(path, packed=False), order)


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """The sizes of a zip's entries, by name.

    Raises PthError if entries are compressed, repeated, or larger than the file together.
    """
    listed = archive.infolist()
    entries = {entry.filename: entry.file_size for entry in listed}
    if len(entries) != len(listed):
        raise PthError("two entries of its zip have the same name")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in listed):
        raise PthError("its zip is compressed, which torch.save never does")
    if sum(entries.values()) > size:
        raise PthError("the entries of its zip overlap")
    return entries


def _byte_order(archive: zipfile.ZipFile, entries: Mapping[str, int], name: str) -> str:
    """NumPy's letter for the file's byte order, which is little-endian if it does not say."""
    if name not in entries:
        return "<"
    word = archive.read(name)[:16]
    if word not in (b"little", b"big"):
        raise PthError(f"its byteorder is {word!r}, neither 'little' nor 'big'")
    return "<" if word == b"little" else ">"


def _read_sequence(path: Path) -> dict[str, np.ndarray]:
    """Read the older layout: magic number, version, system, document, keys, then each storage."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        if Program().run(handle) != MAGIC:
            raise PthError("it is not a checkpoint that torch.save wrote")
        version, system = Program().run(handle), Program().run(handle)
        if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
            raise PthError(
                "its version or byte order is not supported: save it again with torch >= 1.6"
            )
        program = Program()
        document, keys = program.run(handle), Program().run(handle)
        places = _storage_places(handle, keys, program.storages)

        def data_of(storage: Storage) -> bytes:
            if storage.key not in places:
                raise PthError(f"it has no storage {storage.key}")
            handle.seek(places[storage.key])
            return handle.read(min(size, storage.size * storage.itemsize))

        return _arrays(document, data_of, ByteBudget(path, packed=False), "<")


def _storage_places(handle: BinaryIO, keys: Any, storages: Mapping[str, Storage]) -> dict[str, int]:
    """The position of each storage's elements; their number, in 8 bytes, precedes them."""
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise PthError("it has no list of storages")
    places: dict[str, int] = {}
    for key in keys:
        if key in places or key not in storages:
            raise PthError(f"its list of storages has {key!r} twice, or no tensor uses it")
        stored = int.from_bytes(handle.read(8), "little")
        if stored != storages[key].size:
            raise PthError(f"storage {key} has {stored} elements, not {storages[key].size}")
        places[key] = handle.tell()
        handle.seek(storages[key].size * storages[key].itemsize, io.SEEK_CUR)
    return places


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint's state dict; bfloat16 as float32, other types as stored.

    The state dict may be at the top level, or under `model`, `state_dict` or the like. A prefix
    `module.` that all names have is removed. Raises PthError if the file holds anything else or is
    damaged, and OSError if it cannot be opened.
    """
    with Path(path).open("rb") as handle:
        is_zip = handle.read(4) == b"PK\x03\x04"
    try:
        return _read_zip(Path(path)) if is_zip else _read_sequence(Path(path))
    except (PthError, BudgetError) as error:
        raise PthError(str(error)[:600]) from None
    except Exception as error:  # zipfile raises nearly anything for damaged files
        raise PthError(f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from None
