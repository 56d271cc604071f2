"""Readers for parameter files of every supported format. No code in a file is ever run."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mxrcnn.runs.budget import BudgetError, ByteBudget
from mxrcnn.runs.checkpoint import load_arrays, split_params
from mxrcnn.weights.pth import PthError, from_bfloat16, read_pth
from symnet.machine.install import install_extra

#: safetensors' type names -> NumPy's
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
#: the NumPy type kinds that parameters may have
_NUMBERS = "fiub"


class WeightsError(ValueError):
    """A parameter file that cannot be used. The message names it."""


def _missing(path: Path, package: str) -> WeightsError:
    return WeightsError(f"{path}: reading it needs {package}: {install_extra('convert')}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        _check_npz(path)
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except BudgetError:
        raise
    except Exception as error:  # NumPy and zipfile raise nearly anything for damaged files
        raise WeightsError(f"{path}: not a readable .npz of plain arrays: {error}") from None


def _check_npz(path: Path) -> None:
    """Raise unless the file holds the arrays that its headers describe, within the memory limit.

    Raises BudgetError or ValueError.
    """
    budget = ByteBudget(path, packed=True)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename.removesuffix(".npy") for entry in entries}) < len(entries):
            raise ValueError("two of its arrays have the same name")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{entry.filename} uses a compression that NumPy never writes")
            with archive.open(entry) as handle:
                version = np.lib.format.read_magic(handle)
                if version not in _NPY_HEADERS:
                    raise ValueError(
                        f"{entry.filename} has .npy version {version}, for structured arrays"
                    )
                shape, _, dtype = _NPY_HEADERS[version](handle)
                count = math.prod(shape)
                if min(shape, default=0) < 0 or count * dtype.itemsize > entry.file_size:
                    raise ValueError(
                        f"{entry.filename} is truncated: its header claims the shape {shape}"
                    )
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
        raise WeightsError(f"{path}: two array names differ only in their arg: or aux: prefix")
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
    budget.check("the raw file", budget.size)
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged or truncated .safetensors file: {error}") from None
    arrays = {}
    for name, entry in entries:
        kind, data, shape = entry["dtype"], entry["data"], entry["shape"]
        budget.take(name, math.prod(shape), 1)
        if kind == "BF16":
            values = from_bfloat16(np.frombuffer(data, "<u2"))
        elif kind in _SAFETENSORS:
            values = np.frombuffer(data, _SAFETENSORS[kind])
        else:
            raise WeightsError(f"{path}: {name} has the type {kind}, which is not supported")
        arrays[name] = values.reshape(shape)
    return arrays


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    """Keras weights by data set path, without the trailing `:0`."""
    try:
        import h5py
    except ImportError:
        raise _missing(path, "h5py") from None
    found: dict[str, h5py.Dataset] = {}
    budget = ByteBudget(path, packed=True)

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} is stored in another file")
            if item.size is None or item.dtype.kind not in _NUMBERS:
                raise ValueError(f"{name} holds {item.dtype}, not numbers")
            budget.check(f"a chunk of {name}", math.prod(item.chunks or ()) * item.dtype.itemsize)
            budget.take(name, item.size, item.dtype)
            name = name[:-2] if name.endswith(":0") else name
            if name in found:
                raise ValueError(f"it has {name} both with and without :0")
            found[name] = item

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            return {name: item[()] for name, item in found.items()}
    except BudgetError:
        raise
    except Exception as error:  # h5py raises nearly anything for damaged files
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
    """Read a file in any format of READERS: float32 arrays by name, MXNet's without arg:/aux:.

    Raises WeightsError or CheckpointError if the file is missing, damaged or of an unknown format,
    if a value is not a finite number, or if the arrays exceed the memory limit (ByteBudget, checked
    before any array is read).
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix not in READERS:
        raise WeightsError(f"{path}: unknown file type; expected {', '.join(READERS)}")
    try:
        arrays = READERS[path.suffix](path)
    except BudgetError as error:
        raise WeightsError(f"{path}: {error}") from None
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)  # None for an .npz entry that is not an array
        if dtype is None or dtype.kind not in _NUMBERS:
            raise WeightsError(f"{path}: {name} holds {dtype or 'no array'}, not numbers")
        with np.errstate(over="ignore"):
            arrays[name] = value.astype(np.float32, copy=False)
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} has values that are not finite in float32")
    return arrays
