"""The set-up of every `import mxnet`; restored names; counting of cores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from symnet.machine import PATCHED, cores, engine, finder, install, mx, names
from tests.conftest import REPO

NAMES = [name for _, group in names._NUMPY_NAMES for name in group]


def numpy_names_of(source: str) -> set[str]:
    """`a.b` for every numpy.a.b that a source uses."""
    code = re.sub(r'("""|\'\'\').*?\1|#[^\n]*', "", source, flags=re.DOTALL)
    ours = "|".join(re.findall(r"(?m)^ *import numpy as (\w+)", code)) or "numpy"
    return set(re.findall(rf"(?<![\w.])(?:{ours})\.([A-Za-z_][\w.]*)", code))


def exists(dotted: str) -> bool:
    """True if numpy has this name, following modules only."""
    owner = np
    for name in dotted.split("."):
        if not isinstance(owner, (types.ModuleType, types.SimpleNamespace)):
            return True
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def test_numpy_has_every_name_that_mxnet_takes_from_it():
    mx.nd  # noqa: B018 - imports and patches
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
    """Make NumPy look as if it had none of the names."""
    module = types.ModuleType("numpy")
    monkeypatch.setattr(names, "np", module)
    return module


def test_what_numpy_lacks_is_put_back_and_recorded(bare):
    bare.isin, bare.ravel, bare.sort = np.isin, np.ravel, np.sort
    restored = names._restore_numpy_names()
    assert set(restored) == {f"numpy.{name}" for name in NAMES}
    assert all(len(why) > 20 for why in restored.values())
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
    assert not names._restore_numpy_names()
    assert all(getattr(bare, name) == name for name in NAMES)


def test_what_numpy_warns_of_is_replaced(bare):
    def __getattr__(name: str) -> str:
        if name != "bool":
            return name
        warnings.warn("will go", DeprecationWarning, stacklevel=2)
        return "old"

    bare.__getattr__ = __getattr__
    assert list(names._restore_numpy_names()) == ["numpy.bool"]
    assert bare.bool is bool


def test_preparing_again_changes_nothing():
    mx.nd  # noqa: B018 - imports and patches
    before = dict(PATCHED)
    engine.set_environment()
    assert names.restore_names() == {}
    assert before == PATCHED
    assert any("denormals" in name for name in before)


@pytest.mark.parametrize(
    ("less", "more"), [("1.9", "1.15"), ("1.26.4", "2.0"), ("2.5.5", "2.5.10"), ("1.0", "1.0.rc1")]
)
def test_versions_are_compared_as_distutils_did(less, more):
    version = names._LooseVersion
    assert version(less) < more
    assert version(more) >= version(less)
    assert version(less) != version(more)
    assert version(less) == less


@pytest.mark.parametrize(("python", "extra_line"), [((3, 12, 1), False), ((3, 13, 0), True)])
def test_what_to_install(monkeypatch, python, extra_line):
    monkeypatch.setattr(install.sys, "version_info", python)
    text = install.how_to_install()
    assert "pip install '.[cpu]'" in text
    assert "pip install '.[cu112]'" in text
    assert ("pip install --no-deps mxnet==1.9.1" in text) == extra_line


@pytest.mark.parametrize("folder", ["README.md", "docs", "mxrcnn", "symnet", "tools"])
def test_nobody_is_told_to_install_from_an_index(folder):
    """mxrcnn is on no index: anybody could register the name there."""
    root = REPO / folder
    files = [root] if root.is_file() else [*root.rglob("*.py"), *root.rglob("*.md")]
    assert files
    told = re.compile(r"pip install ['\"]?mxrcnn")
    assert [str(path) for path in files if told.search(path.read_text(encoding="utf-8"))] == []


def test_mxnet_is_the_release_that_the_patches_are_for():
    assert mx.__version__ == "1.9.1"
    assert metadata.version("numpy") == np.__version__


# The import, in processes of their own


def python(code: str, *options: str, **environment: str) -> list[str]:
    """The lines that a script prints, and its stderr as one last line."""
    unset = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**unset, "PYTHONPATH": str(REPO), **environment},
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), done.stderr]


@pytest.mark.parametrize("module", ["mxrcnn", "symnet"])
def test_to_import_ours_and_to_look_for_mxnet_loads_nothing_heavy(module):
    code = f"""
import sys, importlib.util as util
import {module}
spec = util.find_spec("mxnet")
print(spec.origin.endswith("__init__.py"), "limitations" in spec.loader.get_source("mxnet"))
heavy = {{"numpy", "mxnet", "PIL", "matplotlib", "ctypes", "multiprocessing", "subprocess"}}
print(sorted(heavy & set(sys.modules)), len(sys.modules) < 150)
"""
    assert python(code) == ["True True", "[] True", ""]


def test_without_mxnet():
    """The user's own import fails as usual; ours says what to install."""
    code = """
import importlib.util as util, mxrcnn
from symnet.machine import mx
print(util.find_spec("mxnet"))
for use in ("import mxnet", "mx.nd"):
    try:
        exec(use)
    except ImportError as error:
        print(type(error).__name__, error)
"""
    found = python(code, "-S")
    assert found[:2] == ["None", "ModuleNotFoundError No module named 'mxnet'"]
    assert "MXNet, which is not installed: in the clone" in found[2]
    assert install.how_to_install() in found[2]


def test_an_opencv_that_fails_leaves_nothing_on_the_path(tmp_path):
    (tmp_path / "cv2.py").write_text("import sys; sys.path.insert(0, '/cv2'); raise ImportError")
    code = "import sys, symnet, mxnet; print('/cv2' in sys.path, 'cv2' in sys.modules)"
    found = python(code, PYTHONPATH=f"{tmp_path}:{REPO}", OMP_NUM_THREADS="1")
    assert found[0] == "False False"


THREADS = """
import sys, threading, mxrcnn
assert "numpy" not in sys.modules
together, found = threading.Barrier(8), []
def user(number):
    together.wait()
    import mxnet.gluon as gluon
    import mxnet
    from symnet.machine import mx
    found.append(float((mxnet.nd.ones((2, 3)) * number).sum().asscalar()))
    assert mx.gluon is gluon and mx.nd is mxnet.nd
threads = [threading.Thread(target=user, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(found))
import importlib.util, os
import mxnet, numpy as np
from symnet.machine import MISSED, PATCHED
print(float((mxnet.nd.array(np.full(9, 1e-39)) * 1).sum().asscalar()), np.float32(1e-39) > 0)
names = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "DNNL_MAX_CPU_ISA")
print(*map(os.environ.get, names))
print("OMP_NUM_THREADS=3" in PATCHED, "GOMP_SPINCOUNT=20000" in PATCHED, MISSED)
print(type(mxnet.__loader__).__name__, importlib.util.find_spec("mxnet") is mxnet.__spec__)
"""


def test_any_import_of_mxnet_after_ours_has_our_settings():
    """Eight threads at once, a submodule first; on NumPy 1.26 `np.bool` was missing here."""
    assert python(THREADS, OMP_NUM_THREADS="3") == [
        str([6.0 * number for number in range(8)]),
        "0.0 True",
        "3 20000 None",
        "False True {}",
        "SourceFileLoader True",
        "",
    ]


MXNET_FIRST = """
import importlib.util, sys, warnings
spec = importlib.util.spec_from_file_location("names", sys.argv[1])
names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(names)
names.restore_names()
import mxnet
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mxrcnn
    import symnet.parts.rpn
    from symnet.machine import mx
    mx.nd.ones(1).wait_to_read()
ours = [w for w in caught if "mxnet was imported before" in str(w.message)]
print(len(ours), ours[0].category.__name__)
print(str(ours[0].message).replace(chr(10), "|"))
from mxrcnn import doctor
print(doctor.describe(doctor.examine()).replace(chr(10), "|"))
"""


def test_mxnet_before_ours_is_told_once_with_what_was_missed():
    script = MXNET_FIRST.replace("sys.argv[1]", repr(str(REPO / "symnet/machine/names.py")))
    count, told, report, _ = python(script, GOMP_SPINCOUNT="1")
    assert count == "1 RuntimeWarning"
    assert told.startswith(
        "mxnet was imported before mxrcnn (symnet), so these settings have no effect"
    )
    for line in (told, report.partition("missed, because mxnet was imported before mxrcnn:")[2]):
        assert re.search(r"\|  OMP_NUM_THREADS=\d+: MXNet would mistake every second core", line)
        assert "|  denormals flushed to zero in MXNet's threads: " in line
        assert "GOMP_SPINCOUNT" not in line.partition("missing or broken")[0]


def test_a_child_process_does_not_warn_again(monkeypatch):
    processes = types.SimpleNamespace(parent_process=lambda: "the script's process")
    monkeypatch.setitem(sys.modules, "mxnet", types.ModuleType("mxnet"))
    monkeypatch.setitem(sys.modules, "multiprocessing.process", processes)
    monkeypatch.setattr(finder, "MISSED", {})
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finder.install()
        assert "GOMP_SPINCOUNT=20000" in finder.MISSED
        processes.parent_process = lambda: None
        with pytest.raises(RuntimeWarning, match="GOMP_SPINCOUNT=20000"):
            finder.install()


# Control groups


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write control group files, and put this process into groups."""
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(8), raising=False)

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


@pytest.mark.parametrize(
    ("own", "files", "quota", "count"),
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
def test_a_containers_quota_limits_the_cores(groups, own, files, quota, count):
    groups(own, files)
    assert cores.cpu_quota() == quota
    assert cores.logical_cores() == count
    assert 1 <= cores.physical_cores() <= count


def test_where_there_are_no_control_groups(groups):
    assert cores.cgroup_texts("cpu", "cpu.max") == []
    assert cores.cpu_quota() is None
    assert cores.logical_cores() == 8


FORKING = """
import os, subprocess
subprocess._USE_VFORK = False  # as where there is no vfork
import numpy as np
from symnet.machine import mx
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
    """A fork ends MXNet's threads; on Python 3.9, the new ones computed other bits."""
    (tmp_path / "script.py").write_text(FORKING)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "[1] 0.0\n0.0\n0.0 True\n", done.stderr


def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    child = "from symnet.machine.memory import most_resident; print(most_resident())"
    parent = (
        f"import subprocess as s; full = b'1' * 10**9; s.run([{sys.executable!r}, '-c', {child!r}])"
    )
    words = [sys.executable, "-c", parent]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 5e6 < int(done.stdout) < 9e8
