"""`python -m mxrcnn.doctor`: its report when all is well, and when something is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from mxrcnn import doctor
from symnet.machine import cores
from symnet.machine.install import how_to_install
from symnet.machine.memory import read_memory
from tests.conftest import REPO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there


def consult(*args: str, python: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    """Run the doctor as users do; returns its exit code and output."""
    unset = {k: v for k, v in os.environ.items() if not k.startswith(doctor._SETTINGS)}
    done = subprocess.run(
        [sys.executable, *python, "-m", "mxrcnn.doctor", *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPO,
        env={**unset, **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def found() -> dict:
    """Its findings on this machine, with one setting by the user."""
    code, out = consult("--json", OMP_NUM_THREADS="1")
    assert code == 0, out
    return json.loads(out)


def test_all_is_well(found):
    assert not found["problems"]
    assert found["python"]["version"] == platform.python_version()
    assert found["packages"][""]["numpy"] == np.__version__
    assert found["mxnet"]["version"] == "1.9.1"
    assert {"MKLDNN", "DIST_KVSTORE"} <= set(found["mxnet"]["features"])
    assert found["machine"]["usable_physical_cores"] == cores.physical_cores()
    assert found["machine"]["memory"] > found["machine"]["memory_available"] > 0
    assert found["settings"]["OMP_NUM_THREADS"] == {"value": "1", "by": "you"}
    assert found["settings"]["GOMP_SPINCOUNT"]["by"] == "mxrcnn"
    assert "OMP_NUM_THREADS=1" not in found["patched"]
    assert "numpy.int" in found["patched"]
    assert ("distutils.version" in found["patched"]) == (not _has_distutils())


def _has_distutils() -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('distutils') is None)"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_for_people(found):
    out = doctor.describe(found)
    assert out.endswith("missing or broken:\n  nothing")
    for needed in (f"numpy {np.__version__}", "mxnet 1.9.1", "MKLDNN", "OMP_NUM_THREADS"):
        assert needed in out
    assert re.search(r"^  numpy\.float: Python's own type, .* NumPy 1\.24 removed$", out, re.M)
    assert re.search(r"^  JPEG decoder: Pillow \d[\d.]*, libjpeg", out, re.M)
    assert re.search(r"^  memory: [\d.]+ GiB, [\d.]+ GiB available", out, re.M)


def test_nothing_is_installed():
    code, out = consult("--json", python=("-S",), PYTHONPATH="")
    found = json.loads(out)
    assert code == 1
    missing = {text.split()[0] for text in found["problems"] if "is not installed" in text}
    assert missing == {*doctor.PACKAGES[""], "MXNet"}
    assert set(found["packages"]["engine"].values()) == {None}
    code, out = consult(python=("-S",), PYTHONPATH="")
    assert code == 1
    assert "numpy is not installed: pip install numpy" in out


@pytest.fixture
def packages(tmp_path):
    """A folder with all installed packages except those named, for PYTHONPATH with -S."""

    def link(*without: str) -> Path:
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if path.name.lower().partition("-")[0] not in without:
                (tmp_path / path.name).symlink_to(path)
        return tmp_path

    return link


def test_without_mxnet(packages):
    code, out = consult(python=("-S",), PYTHONPATH=str(packages("mxnet")))
    assert code == 1
    last = out.splitlines()[-1]
    assert "MXNet is not installed" in last
    assert how_to_install() in last
    assert f"numpy {np.__version__}" in out
    assert "cores:" in out


def test_mxnet_that_does_not_load(packages):
    """Like mxnet-cu112 without a driver."""
    folder = packages("mxnet")
    (folder / "mxnet").mkdir()
    error = "libcuda.so.1: cannot open shared object file"
    (folder / "mxnet" / "__init__.py").write_text(f"raise OSError('{error}')\n")
    (folder / "mxnet_cu112-1.9.1.dist-info").mkdir()
    (folder / "mxnet_cu112-1.9.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mxnet-cu112\nVersion: 1.9.1\n"
    )
    code, out = consult("--json", python=("-S",), PYTHONPATH=str(folder))
    found = json.loads(out)
    assert code == 1
    assert found["problems"] == [
        f"mxnet-cu112 does not load (OSError: {error}): {how_to_install()}"
    ]
    assert found["mxnet"] == {}


def test_a_core_package_that_does_not_load(packages):
    folder = packages("mxnet", "defusedxml")
    (folder / "defusedxml").mkdir()
    (folder / "defusedxml" / "__init__.py").write_text("import nowhere_to_be_found\n")
    (folder / "defusedxml-0.7.1.dist-info").mkdir()
    (folder / "defusedxml-0.7.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: defusedxml\nVersion: 0.7.1\n"
    )
    code, out = consult(python=("-S",), PYTHONPATH=str(folder))
    assert code == 1
    assert "defusedxml 0.7.1 does not load (ModuleNotFoundError: No module named" in out
    assert "pip install --force-reinstall defusedxml" in out


def requirements() -> dict[str, list[str]]:
    """The requirements in pyproject.toml, by extra; "" is the core."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def test_it_knows_what_pyproject_asks_for():
    asked = requirements()
    names = {
        extra: {re.match(r"[\w-]+", line).group() for line in asked[extra]}
        for extra in doctor.PACKAGES
    }
    assert {*asked["tensorboard"], *asked["convert"], *asked["onnx"]} < set(asked["dev"])
    assert set(asked["gluoncv"]) < set(asked["dev"])
    names["dev"] -= {name for extra, found in names.items() if extra != "dev" for name in found}
    assert names == {extra: set(packages) for extra, packages in doctor.PACKAGES.items()}


@pytest.mark.parametrize(("python", "numpy"), [("3.9", "<2"), ("3.12", "<2"), ("3.13", ">=2.1")])
def test_it_asks_for_the_numpy_of_that_python(python, numpy):
    from packaging.requirements import Requirement

    asked = requirements()
    where = {"python_version": python}
    core = [r for r in map(Requirement, asked[""]) if r.name == "numpy"]
    found = [str(r.specifier) for r in core if r.marker.evaluate(where)]
    assert len(found) == 1
    assert numpy in found[0]
    engine = [Requirement(line) for line in asked["cpu"]]
    names = {r.name for r in engine if r.marker.evaluate(where)}
    assert names == ({"mxnet"} if numpy == "<2" else {"requests", "graphviz"})


@pytest.mark.parametrize(
    ("card", "usable", "said"),
    [
        ("", 0, []),
        ("NVIDIA A100-SXM4-40GB, 8.0", 1, []),
        ("NVIDIA A100-SXM4-40GB, 8.0", 0, ["is not used", "pip uninstall mxnet", "cu112"]),
        ("NVIDIA H100 80GB HBM3, 9.0", 0, ["up to 8.9, and this card has 9.0"]),
        ("NVIDIA something, [N/A]", 0, ["is not used"]),
    ],
)
def test_what_it_says_of_gpus(tmp_path, monkeypatch, card, usable, said):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{card}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cards = doctor._gpus()
    assert [c["name"] for c in cards] == [card.partition(",")[0]] * bool(card)
    advice = doctor._gpu_advice(cards, usable)
    assert len(advice) == bool(said)
    assert all(text in advice[0] for text in said)


def test_memory_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    assert read_memory().limit is None
    for text, limit in (("max", None), (str(2**60), None), (str(2**29), 2**29)):
        (tmp_path / "memory.max").write_text(text)
        assert read_memory().limit == limit
