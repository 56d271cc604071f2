"""The files that parameters come in: arrays by name, as stored. Nothing in them is run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mxrcnn.training.checkpoint import load_arrays, split_params
from mxrcnn.weights.pth import PthError, read_pth
from symnet.machine.install import install_extra

#: safetensors' names of types, and NumPy's
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


class WeightsError(ValueError):
    """A file of parameters that cannot be used; the message names it."""


def _missing(path: Path, package: str) -> WeightsError:
    return WeightsError(f"{path}: reading it needs {package}: {install_extra('convert')}")


#: unpacked bytes of an .npz that are always read, and what more may be for each of its own
_NPZ_SIZE, _NPZ_RATIO = 100 << 20, 100


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max(_NPZ_SIZE, _NPZ_RATIO * path.stat().st_size):
            raise ValueError(f"it would unpack to {size >> 20} MB")
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except Exception as error:  # on damaged files NumPy and zipfile raise nearly anything
        raise WeightsError(f"{path}: not a readable .npz without objects: {error}") from None


def _read_mxnet(path: Path) -> dict[str, np.ndarray]:
    args, auxs = split_params(load_arrays(path))
    return {name: value.asnumpy() for name, value in {**args, **auxs}.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_pth(path)
    except PthError as error:
        raise WeightsError(f"{path}: {error}") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError:
        raise _missing(path, "safetensors") from None
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole .safetensors file: {error}") from None
    arrays = {}
    for name, entry in entries:
        kind, data, shape = entry["dtype"], entry["data"], entry["shape"]
        if kind == "BF16":  # the upper half of a float32
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in _SAFETENSORS:
            values = np.frombuffer(data, _SAFETENSORS[kind])
        else:
            raise WeightsError(f"{path}: {name} is of type {kind}, which is not read")
        arrays[name] = values.reshape(shape)
    return arrays


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    """Keras weights: the data sets by their paths, without the `:0` at the end."""
    try:
        import h5py
    except ImportError:
        raise _missing(path, "h5py") from None
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual or item.size > path.stat().st_size:
                raise ValueError(f"{name} is larger than the file, or lies outside it")
            arrays[name[:-2] if name.endswith(":0") else name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except Exception as error:  # h5py raises nearly anything on damaged files
        raise WeightsError(f"{path}: not a readable .h5 file: {error}") from None
    return arrays


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".params": _read_mxnet,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".h5": _read_h5,
}


def read_params(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, float32, of a file of one of READERS; MXNet's names without arg:/aux:.

    Raises WeightsError or CheckpointError for a file that is missing, broken, of another format, or
    holds values that are no finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix not in READERS:
        raise WeightsError(f"{path}: expected {', '.join(READERS)}")
    arrays = READERS[path.suffix](path)
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)  # of an .npz entry that is no array: None
        if dtype is None or dtype.kind not in "fiub":
            raise WeightsError(f"{path}: {name} holds {dtype or 'no array'}, not numbers")
        with np.errstate(over="ignore"):
            arrays[name] = value.astype(np.float32, copy=False)
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} has values that are not finite in float32")
    return arrays
