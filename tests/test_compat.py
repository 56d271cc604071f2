"""What is done before `import mxnet`: names put back, each with its reason; cores counted."""

from __future__ import annotations

import re
import subprocess
import sys
import types
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from symnet import compat

NAMES = [name for _, names in compat._NUMPY_NAMES for name in names]


def numpy_names_of(source: str) -> set[str]:
    """`a.b` for numpy.a.b wherever a source takes attributes of the numpy that it imports."""
    code = re.sub(r'("""|\'\'\').*?\1|#[^\n]*', "", source, flags=re.DOTALL)
    ours = "|".join(re.findall(r"(?m)^ *import numpy as (\w+)", code)) or "numpy"
    return set(re.findall(rf"(?<![\w.])(?:{ours})\.([A-Za-z_][\w.]*)", code))


def exists(dotted: str) -> bool:
    """Whether numpy has it, as far as the way leads through modules."""
    owner = np
    for name in dotted.split("."):
        if not isinstance(owner, (types.ModuleType, types.SimpleNamespace)):
            return True
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def test_numpy_has_every_name_that_mxnet_takes_from_it():
    compat.mx.nd  # noqa: B018 - imports and patches
    files = [getattr(m, "__file__", "") for n, m in sys.modules.items() if n.startswith("mxnet.")]
    sources = [Path(name) for name in files if name and b"import numpy" in Path(name).read_bytes()]
    assert len(sources) > 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = {
            f"{path}: {name}"
            for path in sources
            for name in numpy_names_of(path.read_text(encoding="utf-8"))
            if not exists(name)
        }
    assert not missing


def test_the_reader_of_numpy_names():
    source = "import numpy as onp\nonp.a(onp.b.c).d\nnp.e x.onp.f  # onp.g\n'''onp.h\n'''"
    assert numpy_names_of(source) == {"a", "b.c"}
    assert exists("float64")
    assert exists("linalg.norm.anything")
    assert not exists("linalg.normal")
    assert not exists("sometimes")


@pytest.fixture
def bare(monkeypatch) -> types.ModuleType:
    """A NumPy without any names, in compat's eyes; and nothing recorded yet."""
    module = types.ModuleType("numpy")
    monkeypatch.setattr(compat, "np", module)
    monkeypatch.setattr(compat, "PATCHED", {})
    return module


def test_what_numpy_lacks_is_put_back_and_recorded(bare):
    bare.isin, bare.ravel, bare.sort = np.isin, np.ravel, np.sort
    compat._restore_numpy_names()
    assert set(compat.PATCHED) == {f"numpy.{name}" for name in NAMES}
    assert all(len(why) > 20 for why in compat.PATCHED.values())
    assert bare.bool is bool
    assert bare.NINF < 0
    assert np.isinf(bare.NINF)
    assert np.signbit(bare.NZERO)
    assert not np.signbit(bare.PZERO)
    assert np.isnan(bare.NaN)
    assert bare.in1d([[1, 2], [3, 4]], [3, 1], invert=True).tolist() == [False, True, False, True]
    assert bare.msort(np.array([[3, 1], [2, 5]])).tolist() == [[2, 1], [3, 5]]
    with pytest.raises(RuntimeError, match=r"numpy_financial\.npv"):
        bare.npv(0.1, [1, 2])


def test_what_numpy_has_is_left_alone(bare):
    for name in NAMES:
        setattr(bare, name, name)
    compat._restore_numpy_names()
    assert not compat.PATCHED
    assert all(getattr(bare, name) == name for name in NAMES)


def test_what_numpy_warns_of_is_replaced(bare):
    def __getattr__(name: str) -> str:
        if name != "bool":
            return name
        warnings.warn("will go", DeprecationWarning, stacklevel=2)
        return "old"

    bare.__getattr__ = __getattr__
    compat._restore_numpy_names()
    assert list(compat.PATCHED) == ["numpy.bool"]
    assert bare.bool is bool


def test_patching_again_changes_nothing():
    compat.mx.nd  # noqa: B018 - imports and patches
    before = dict(compat.PATCHED)
    compat.patch()
    assert before == compat.PATCHED
    assert any("denormals" in name for name in before)


@pytest.mark.parametrize(
    ("less", "more"), [("1.9", "1.15"), ("1.26.4", "2.0"), ("2.5.5", "2.5.10"), ("1.0", "1.0.rc1")]
)
def test_versions_are_compared_as_distutils_did(less, more):
    version = compat._LooseVersion
    assert version(less) < more
    assert version(more) >= version(less)
    assert version(less) != version(more)
    assert version(less) == less


@pytest.mark.parametrize(("python", "extra_line"), [((3, 12, 1), False), ((3, 13, 0), True)])
def test_what_to_install(monkeypatch, python, extra_line):
    monkeypatch.setattr(compat.sys, "version_info", python)
    text = compat.how_to_install()
    assert "pip install 'mxrcnn[cpu]'" in text
    assert "pip install 'mxrcnn[cu112]'" in text
    assert ("pip install --no-deps mxnet==1.9.1" in text) == extra_line


def test_mxnet_is_the_release_that_the_patches_are_for():
    assert compat.mx.__version__ == "1.9.1"
    assert metadata.version("numpy") == np.__version__


# Control groups


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes control groups' files, and says which groups this process is in."""
    monkeypatch.setattr(compat, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(compat, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(compat.os, "sched_getaffinity", lambda _: range(8), raising=False)

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


@pytest.mark.parametrize(
    ("own", "files", "quota", "cores"),
    [
        ("0::/\n", {}, None, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, None, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5, 1),
        ("0::/gone/from/here\n", {"cpu.max": "300000 100000"}, 3.0, 3),
        (
            "2:cpu,cpuacct:/x\n1:memory:/y\n",
            {"cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000"},
            *(4.0, 4),
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            *(None, 8),
        ),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 64.0, 8),
    ],
)
def test_a_containers_quota_limits_the_cores(groups, own, files, quota, cores):
    groups(own, files)
    assert compat.cpu_quota() == quota
    assert compat.logical_cores() == cores
    assert 1 <= compat.physical_cores() <= cores


def test_where_there_are_no_control_groups(groups):
    assert compat.cgroup_texts("cpu", "cpu.max") == []
    assert compat.cpu_quota() is None
    assert compat.logical_cores() == 8


FORKING = """
import os, subprocess
subprocess._USE_VFORK = False  # as where there is no vfork
import numpy as np
from mxrcnn.compat import mx
from mxrcnn.data.loader import Loader

def result():
    return (mx.nd.array(np.full(2**20, 1e-39)) * 1).sum().asscalar()

if __name__ == "__main__":
    with Loader(abs, num_workers=2) as loader:
        print(list(loader.batches([-1])), result())
    subprocess.run(["true"], preexec_fn=lambda: None)
    print(result())
    if os.fork() == 0:
        os._exit(0)
    print(result(), np.float32(1e-39) > 0)
"""


def test_mxnet_flushes_denormals_after_forks(tmp_path):
    """A fork ends MXNet's threads; those that followed gave other bits, on Python 3.9 alone."""
    (tmp_path / "script.py").write_text(FORKING)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "[1] 0.0\n0.0\n0.0 True\n", done.stderr
