"""Files whose arrays would take far more memory than the files suggest are refused unread."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.runs.budget import MAX_BYTES, BudgetError, ByteBudget
from mxrcnn.runs.checkpoint import CheckpointError
from mxrcnn.weights.formats import WeightsError, read_params
from tests.torch_files import program, tensor, write_zip

h5py = pytest.importorskip("h5py")
MIB = 1 << 20
#: parameters of VGG16, the largest network here: 553 MB as float32
VGG16 = 138_357_544


def h5(fill: Callable) -> Callable[[Path], Path]:
    """Writes an .h5 file."""

    def write(folder: Path) -> Path:
        with h5py.File(folder / "a.h5", "w") as file:
            fill(file)
        return folder / "a.h5"

    return write


def many_small(file) -> None:
    """No data set has more numbers than the file has bytes; 0.2 MB became 183 MB."""
    for number in range(480):
        file.create_dataset(f"layer{number}", shape=(100_000,), dtype="<f4")


def never_written(file) -> None:
    file.create_dataset("a", shape=(300 * MIB // 4,), dtype="<f4")


def one_large_chunk(file) -> None:
    """One number in a chunk of 400 MB, which HDF5 unpacks to read it."""
    options = {"maxshape": (None,), "chunks": (100 * MIB,), "compression": "gzip"}
    file.create_dataset("a", shape=(1,), dtype="<f4", **options)


def of_bytes(file) -> None:
    """It fits as stored, but not as float32, which takes four times as much."""
    file.create_dataset("a", shape=(20 * MIB,), dtype="u1")


def npz(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(3):
            archive.writestr(f"{number}.npy", npy((8 * MIB,), bytes(32 * MIB)))
    return folder / "a.npz"


def npz_of_another_method(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy((4,), bytes(16)))
    return folder / "a.npz"


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def npz_of_a_false_header(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy((12 * MIB,), bytes(16)))
    return folder / "a.npz"


def pth(folder: Path) -> Path:
    """A storage of 40 KB that 50 tensors share."""
    items = {str(i): tensor("0", (10_000,), (1,), 10_000) for i in range(50)}
    return write_zip(folder / "a.pth", program(items), {"0": bytes(40_000)})


def sparse(path: Path, start: bytes, size: int = 5 << 30) -> Path:
    """A sparse file of this size that begins like this."""
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def huge_safetensors(folder: Path) -> Path:
    return sparse(folder / "a.safetensors", struct.pack("<Q", 2) + b"{}")


def huge_params(folder: Path) -> Path:
    """Three whole arrays of 1.9 GB each."""
    array = struct.pack("<IiiqiiI", 0xF993FAC9, 0, 1, 500_000_000, 1, 0, 0)
    path = sparse(folder / "a.params", struct.pack("<QQQ", 0x112, 0, 3) + array, 7 << 30)
    with path.open("r+b") as file:
        for number in range(3):
            file.seek(24 + number * (len(array) + 2_000_000_000))
            file.write(array)
    return path


BOMBS = {
    "many small h5 data sets": (
        h5(many_small),
        r"with layer\d+, its arrays .* 6\d.\d MB",
    ),
    "an h5 data set that was never written": (h5(never_written), "with a, .* at least 300.0 MB"),
    "a large chunk of h5": (h5(one_large_chunk), "with a chunk of a, .* 400.0 MB"),
    "h5 of bytes": (h5(of_bytes), "80.0 MB"),
    "compressed npz": (npz, "with 2.npy, .* at least 96.0 MB"),
    "npz by another method": (npz_of_another_method, "compression that NumPy never writes"),
    "npz whose header lies": (npz_of_a_false_header, "is truncated"),
    "pth that shares a storage": (pth, r"the limit for a file of 0\.0 MB is 0\.\d MB"),
    "safetensors of 5 GB": (huge_safetensors, "limit for .* is 4,096.0 MB"),
    "params of 6 GB": (huge_params, "with array 3 of 3, .* limit for .* is 4,096.0 MB"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_read(tmp_path, name):
    write, why = BOMBS[name]
    path = write(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises((WeightsError, CheckpointError), match=why) as caught:
            read_params(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("size", "packed", "counts", "itemsize", "fits"),
    [
        (VGG16 * 4, False, [VGG16], 4, True),
        (VGG16 * 4, True, [VGG16], 4, True),
        (VGG16 * 2, False, [VGG16], 2, True),  # float16, of which twice the memory is needed
        (VGG16, False, [VGG16], 1, True),  # int8
        (VGG16, False, [VGG16, 1], 1, False),
        (VGG16 * 8, False, [VGG16], 8, True),
        (VGG16 * 4 // 10, True, [VGG16], 4, True),  # nine of ten weights pruned, compressed
        (VGG16 * 4 // 10, False, [VGG16], 4, False),
        (5 << 30, False, [1 << 30], 4, True),  # the most that any file may hold
        (5 << 30, True, [1 << 30, 1], 4, False),
        (0, False, [], 4, True),
        (0, False, [1], 4, False),
        (0, True, [16 * MIB], 4, True),
        (0, True, [16 * MIB, 1], 4, False),
    ],
)
def test_what_fits(tmp_path, size, packed, counts, itemsize, fits):
    budget = ByteBudget(sparse(tmp_path / "a", b"", size), packed)
    *first, last = counts or [0]
    for count in first:
        budget.take("a", count, itemsize)
    if fits:
        budget.take("a", last, itemsize)
    else:
        with pytest.raises(BudgetError, match=r"limit for .* is [\d,.]+ MB$"):
            budget.take("a", last, itemsize)
    assert budget.taken <= budget.limit <= MAX_BYTES


@pytest.mark.parametrize("kind", ["npz", "h5", "params"])
def test_two_arrays_of_one_name_are_refused(tmp_path, kind):
    """One of them was silently dropped."""
    path, value = tmp_path / f"a.{kind}", np.ones(2, np.float32)
    if kind == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", npy((1,), bytes(4)))
            archive.writestr("a", npy((1,), bytes(4)))
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["kernel"], file["kernel:0"] = value, value
    else:
        from symnet.machine import mx

        mx.nd.save(str(path), {"arg:a": mx.nd.array(value), "aux:a": mx.nd.array(value)})
    with pytest.raises(
        WeightsError, match=r"a\.\w+: .*(have the same name|two array names|with and without :0)"
    ):
        read_params(path)
