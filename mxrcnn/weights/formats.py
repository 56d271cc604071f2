"""The files that parameters come in: arrays by name, as stored. Nothing in them is run."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mxrcnn.training.checkpoint import load_arrays, split_params
from mxrcnn.weights.budget import BudgetError, ByteBudget
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


#: NumPy's kinds of types that parameters may have
_NUMBERS = "fiub"


class WeightsError(ValueError):
    """A file of parameters that cannot be used; the message names it."""


def _missing(path: Path, package: str) -> WeightsError:
    return WeightsError(f"{path}: reading it needs {package}: {install_extra('convert')}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        _check_npz(path)
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except BudgetError:
        raise
    except Exception as error:  # on damaged files NumPy and zipfile raise nearly anything
        raise WeightsError(f"{path}: not a readable .npz without objects: {error}") from None


def _check_npz(path: Path) -> None:
    """BudgetError or ValueError unless its headers describe arrays that it holds, and not more."""
    budget = ByteBudget(path, packed=True)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename.removesuffix(".npy") for entry in entries}) < len(entries):
            raise ValueError("two of its arrays have the same name")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{entry.filename} is compressed as NumPy never does")
            with archive.open(entry) as handle:
                version = np.lib.format.read_magic(handle)
                if version not in _NPY_HEADERS:
                    raise ValueError(f"{entry.filename} is of version {version}, for named fields")
                shape, _, dtype = _NPY_HEADERS[version](handle)
                count = math.prod(shape)
                if min(shape, default=0) < 0 or count * dtype.itemsize > entry.file_size:
                    raise ValueError(f"{entry.filename} claims the shape {shape}: it is not whole")
                budget.take(entry.filename, count, dtype)


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_mxnet(path: Path) -> dict[str, np.ndarray]:
    stored = load_arrays(path)
    args, auxs = split_params(stored)
    named = {**args, **auxs}
    if len(named) < len(stored):
        raise WeightsError(f"{path}: two of its arrays differ only in arg: or aux: before the name")
    return {name: value.asnumpy() for name, value in named.items()}


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
    budget = ByteBudget(path, packed=False)
    budget.check("its first", budget.size)
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole .safetensors file: {error}") from None
    arrays = {}
    for name, entry in entries:
        kind, data, shape = entry["dtype"], entry["data"], entry["shape"]
        budget.take(name, math.prod(shape), 1)
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
    found: dict[str, h5py.Dataset] = {}
    budget = ByteBudget(path, packed=True)

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} lies outside it")
            if item.size is None or item.dtype.kind not in _NUMBERS:
                raise ValueError(f"{name} holds {item.dtype}, not numbers")
            budget.check(f"a chunk of {name}", math.prod(item.chunks or ()) * item.dtype.itemsize)
            budget.take(name, item.size, item.dtype)
            name = name[:-2] if name.endswith(":0") else name
            if name in found:
                raise ValueError(f"{name} is in it with and without :0")
            found[name] = item

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            return {name: item[()] for name, item in found.items()}
    except BudgetError:
        raise
    except Exception as error:  # h5py raises nearly anything on damaged files
        raise WeightsError(f"{path}: not a readable .h5 file: {error}") from None


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

    Raises WeightsError or CheckpointError for a file that is missing, broken, of another format,
    holds values that are no finite numbers, or takes more memory than its size allows (ByteBudget,
    looked at before any array is read).
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix not in READERS:
        raise WeightsError(f"{path}: expected {', '.join(READERS)}")
    try:
        arrays = READERS[path.suffix](path)
    except BudgetError as error:
        raise WeightsError(f"{path}: {error}") from None
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)  # of an .npz entry that is no array: None
        if dtype is None or dtype.kind not in _NUMBERS:
            raise WeightsError(f"{path}: {name} holds {dtype or 'no array'}, not numbers")
        with np.errstate(over="ignore"):
            arrays[name] = value.astype(np.float32, copy=False)
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} has values that are not finite in float32")
    return arrays
