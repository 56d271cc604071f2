"""Reading torch's checkpoints: files that torch wrote, and everything that must be refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.errors import USER_ERRORS
from mxrcnn.weights.pth import PthError, read_pth
from mxrcnn.weights.reading import read_params
from mxrcnn.weights.torch_pickle import Program
from tests.torch_files import TORCH, program, tensor, text, write_pth, write_zip

ROW = np.arange(6, dtype=np.float32)
#: numbers of a storage `0` with six elements
SIX = {"0": ROW.tobytes()}


def reads(path: Path, items: dict[str, bytes], storages=None) -> dict[str, np.ndarray]:
    return read_pth(
        write_zip(path / "a.pth", program(items), SIX if storages is None else storages)
    )


@pytest.mark.parametrize("name", ["small", "small_row"])
def test_what_torch_wrote(name):
    """small*.pth: a training checkpoint of torch 2.15, in both layouts, with `module.` names."""
    found = read_pth(TORCH / f"{name}.pth")
    with np.load(TORCH / "small.npz") as want:
        assert found.keys() == set(want.files)
        for key, value in found.items():
            assert value.shape == want[key].shape
            np.testing.assert_array_equal(value.astype(np.float32), want[key])
    assert (found["d"].dtype, found["i"].dtype, found["h"].dtype) == ("f8", "i8", "f2")
    assert found["b"].dtype == np.float32  # bfloat16


def test_views_of_a_storage(tmp_path):
    items = {
        "all": tensor("0", (2, 3), (3, 1), 6),
        "turned": tensor("0", (3, 2), (1, 3), 6),
        "part": tensor("0", (2,), (2,), 6, offset=3),
        "scalar": tensor("0", (), (), 6, offset=5),
        "none": tensor("0", (0, 4), (4, 1), 6),
    }
    found = reads(tmp_path, items)
    want = {
        "all": ROW.reshape(2, 3),
        "turned": ROW.reshape(2, 3).T,
        "part": [3, 5],
        "scalar": 5,
        "none": np.zeros((0, 4)),
    }
    assert found.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
def test_the_weights_of_a_training_checkpoint(tmp_path, wrapper):
    weights = b"}(" + text("module.w") + tensor("0", (6,), (1,), 6) + b"u"
    items = {"epoch": b"K\x03", "optimizer": b"}", wrapper: weights, "best": b"N"}
    found = reads(tmp_path, items)
    np.testing.assert_array_equal(found["w"], ROW)
    assert len(found) == 1


def test_old_parameters(tmp_path):
    """torch.nn.Parameter as pickled by torch 0.2: called with its tensor, then given a state."""
    one = b"ctorch.nn.parameter\nParameter\n" + tensor("0", (6,), (1,), 6)
    np.testing.assert_array_equal(reads(tmp_path, {"w": one + b"\x85R\x88\x89N\x87b"})["w"], ROW)


# What is refused


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def attacks(trap: Path) -> dict[str, bytes]:
    """Pickles that make the folder `trap` when Python unpickles them."""
    made = {f"protocol {p}": pickle.dumps({"w": Malicious(trap)}, p) for p in range(6)}
    made["nested"] = pickle.dumps({"model": [{"w": (1, Malicious(trap))}]}, 2)
    made["as a key"] = pickle.dumps({(Malicious(trap),): 1}, 2)
    code = f"__import__('os').mkdir({str(trap)!r})"
    argument = text(code) + b"\x85"
    made["eval"] = b"\x80\x02cbuiltins\neval\n" + argument + b"R."
    made["stack global"] = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93" + argument + b"R."
    made["inst"] = b"(" + text(code) + b"ibuiltins\neval\n."
    made["obj"] = b"(cbuiltins\neval\n" + text(code) + b"o."
    made["after torch's own"] = program(
        {"w": tensor("0", (6,), (1,), 6), "x": b"cbuiltins\neval\n" + argument + b"R"}
    )
    made["within a tensor's arguments"] = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(cbuiltins\neval\n" + argument + b"RtR."
    )
    return made


@pytest.mark.parametrize("kind", sorted(attacks(Path("x"))))
def test_malicious_pickles_are_refused_and_nothing_runs(tmp_path, kind):
    trap = tmp_path / "trap"
    attack = attacks(trap)[kind]
    write_zip(tmp_path / "zip.pth", attack, SIX)
    (tmp_path / "row.pth").write_bytes(attack)
    for name in ("zip.pth", "row.pth"):
        with pytest.raises(USER_ERRORS, match=rf"{name}: .*(only tensors are read|opcode|broken)"):
            read_params(tmp_path / name)
    assert not trap.exists()
    if "torch" not in kind and "tensor" not in kind:  # these need torch before they strike
        pickle.loads(attack)
        assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x82\x01.",  # EXT1
        b"\x83\x01\x00.",
        b"\x84\x01\x00\x00\x00.",
        b"}}b.",  # BUILD of a dictionary is a state dict's; of a list it is none
        b"]}b.",
        b"ccollections\nOrderedDict\n}b.",
        b"ccollections\nOrderedDict\n]\x85R.",
        b"ctorch._utils\n_rebuild_parameter\nK\x01\x85R.",
        b"ctorch.nn.parameter\nParameter\n)\x81.",
        b"cos\nsystem\n.",
        b"ctorch.hub\nload\n.",
        b"ctorch\n_C._init\n.",
        b"X\x01\x00\x00\x00aQ.",  # a persistent id that is no storage
        b"P1\n.",
        b"\x97.",
        b"(.",
        b"0.",
        b"h\x05.",
        b"t.",
        b"}(K\x01u.",
        b"K\x01K\x02.",
        b"",
        b"\x80\x02",
        b"Garbage",
    ],
)
def test_other_programs_are_refused(tmp_path, opcodes):
    with pytest.raises(PthError):
        read_pth(write_zip(tmp_path / "a.pth", opcodes, SIX))
    (tmp_path / "row.pth").write_bytes(opcodes)
    with pytest.raises(PthError):
        read_pth(tmp_path / "row.pth")


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (tensor("0", (7,), (1,), 6), "does not lie in its storage"),
        (tensor("0", (6,), (1,), 6, offset=1), "does not lie in its storage"),
        (tensor("0", (2,), (6,), 6), "does not lie in its storage"),
        (tensor("0", (10**6, 10**6), (0, 0), 6), "does not lie in its storage"),
        (tensor("0", (7,), (0,), 6), "does not lie in its storage"),
        (tensor("0", (-1,), (1,), 6), "impossible"),
        (tensor("0", (2,), (-1,), 6, offset=5), "impossible"),
        (tensor("0", (2,), (1,), 6, offset=-1), "impossible"),
        (tensor("0", (1,) * 20, (1,) * 20, 6), "impossible"),
        (tensor("0", (2, 3), (1,), 6), "impossible"),
        (tensor("0", (7,), (1,), 7), "too few"),
        (tensor("1", (6,), (1,), 6), "no archive/data/1"),
        (tensor("../data.pkl", (1,), (1,), 1), "no archive/data/"),
        (tensor("0", (1,), (1,), 6, kind="QInt8Storage"), "asks for"),
    ],
)
def test_tensors_outside_their_storage(tmp_path, item, why):
    with pytest.raises(PthError, match=why):
        reads(tmp_path, {"w": item})


def test_a_storage_may_not_be_repeated_over_and_over(tmp_path):
    with pytest.raises(PthError, match=r"the limit for a file of 0\.3 MB is 1\.1 MB"):
        reads(
            tmp_path,
            {str(i): tensor("0", (1000,), (1,), 1000) for i in range(2000)},
            {"0": bytes(4000)},
        )


def test_compressed_and_repeated_entries(tmp_path):
    pickled = program({"w": tensor("0", (6,), (1,), 6)})
    with pytest.raises(PthError, match="compressed"):
        read_pth(write_zip(tmp_path / "a.pth", pickled, SIX, zipfile.ZIP_DEFLATED))
    path = write_zip(tmp_path / "b.pth", pickled, SIX)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(24))
    with pytest.raises(PthError, match="same name"):
        read_pth(tmp_path / "b.pth")


def test_a_script_of_torch_is_named(tmp_path):
    with zipfile.ZipFile(write_pth(tmp_path / "a.pth", {"w": ROW}), "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(PthError, match="TorchScript"):
        read_pth(tmp_path / "a.pth")


def test_two_values_of_one_name(tmp_path):
    one = text("w") + tensor("0", (6,), (1,), 6)
    with pytest.raises(PthError, match="two values"):
        read_pth(write_zip(tmp_path / "a.pth", b"\x80\x02}(" + 2 * one + b"u.", SIX))


@pytest.mark.parametrize("name", ["small", "small_row"])
def test_damaged_files_give_arrays_or_the_named_error(tmp_path, name):
    whole = (TORCH / f"{name}.pth").read_bytes()
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "a.pth", 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(1, len(whole)) if rng.random() < 0.2 else None])
        try:
            found = read_pth(path)
        except PthError:
            refused += 1
        else:
            assert all(isinstance(value, np.ndarray) for value in found.values())
    assert refused > 50


def test_damaged_programs_give_data_or_the_named_error():
    """Only the program, without the zip's checksums."""
    with zipfile.ZipFile(TORCH / "small.pth") as archive:
        whole = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            Program().run(bytes(damaged))
        except PthError:
            refused += 1
    assert 300 < refused < 1500
