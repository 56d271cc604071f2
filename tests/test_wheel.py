"""The wheel: what its page says, and that it works in an empty folder without the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mxrcnn import __version__
from tests.all_layouts import FORMATS, predicted, sides_of
from tests.conftest import REPO

SOURCES = ("mxrcnn", "symnet", "docs/package.md", "pyproject.toml", "setup.py", "MANIFEST.in")
SMALL = ("width=0.1", "short_side=64", "long_side=96", "batch_size=20")


def test_the_long_description_stands_alone():
    """Outside the repository, links and pictures must be whole addresses."""
    text = (REPO / "docs" / "package.md").read_text("utf-8")
    assert re.findall(r"\]\((?!https://)", text) == []
    assert set(re.findall(r"mxrcnn-([\d.]+)-py3", text)) == {__version__}


def run(*words: object, cwd: Path) -> str:
    """Run a command without our packages on its path; returns its output."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = list(map(str, words))
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with sdist and wheel, built from a copy, as a build writes into its folder."""
    folder = tmp_path_factory.mktemp("build")
    for name in (*SOURCES, "LICENSE", "README.md"):
        target = folder / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, target)
    run(sys.executable, "-m", "build", "clone", "--outdir", "dist", cwd=folder)
    return folder / "dist"


def install(dist: Path, extra: str, place: Path) -> Path:
    """A new environment with the wheel and an extra; returns its folder of commands."""
    run(sys.executable, "-m", "venv", "env", cwd=place)
    pip = (place / "env/bin/python", "-m", "pip", "install", "--quiet")
    (wheel,) = dist.glob("*.whl")
    run(*pip, f"{wheel}[{extra}]", cwd=place)
    if extra == "cpu":
        run(*pip, "--no-deps", "mxnet==1.9.1", cwd=place)  # on Python 3.13 it is not there yet
    return place / "env" / "bin"


@pytest.mark.slow
def test_what_is_built(dist):
    files = sorted(dist.iterdir())
    assert [path.name for path in files] == [
        f"mxrcnn-{__version__}-py3-none-any.whl",
        f"mxrcnn-{__version__}.tar.gz",
    ]
    checked = run(
        sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=dist
    )
    assert checked.count("PASSED") == 2
    config = ("--config", REPO / "pyproject.toml")
    run(sys.executable, "-m", "check_wheel_contents", *config, files[0], cwd=dist)


def same_in_another_layout(mxrcnn: Path, place: Path) -> None:
    """The drawn test images in YOLO's form: train with --val, and predict as on the first form."""
    words = ("data/synthetic/VOC2007", "yolo", "--to", "yolo", "--imageset", "test")
    told = run(mxrcnn, "data", "convert", *words, cwd=place)
    assert "test: 100 images" in told
    words = ("--data", "yolo", "--val", 0.2, "--out", "second", "--preset", "quick", "--epochs", 1)
    run(mxrcnn, "train", *words, "--num-workers", 0, "--set", *SMALL, cwd=place)
    sides = sides_of(place / "second")  # groups stay together, so 0.2 is not 20 to the image
    assert len({*sides["train"], *sides["val"]}) == 100
    assert 15 <= len(sides["val"]) <= 25
    voc = place / "data/synthetic/VOC2007"
    stems = (voc / "ImageSets/Main/test.txt").read_text().split()[:20]
    for name, folder in (("of voc", voc / "JPEGImages"), ("of yolo", place / "yolo/images/test")):
        (place / "list.txt").write_text("".join(f"{folder / stem}.jpg\n" for stem in stems))
        words = ("--threshold", 0, "--save", FORMATS, "--out", name)
        run(mxrcnn, "predict", "second", "list.txt", *words, cwd=place)
    found = predicted(place / "of voc")
    assert len(found["coco"]) == 20
    assert sum(map(len, found["coco"].values())) > 0
    assert predicted(place / "of yolo") == found


@pytest.mark.slow
def test_from_nothing_to_boxes_outside_the_clone(dist, tmp_path):
    """With MXNet: train, test, predict. Then its ONNX file where there is no MXNet."""
    place, other = tmp_path / "with mxnet", tmp_path / "onnx"
    for folder in (place, other):
        folder.mkdir()
    mxrcnn = install(dist, "cpu", place) / "mxrcnn"
    assert "train a detector" in run(mxrcnn, "--help", cwd=place)
    words = ("--out", "first", "--imageset", "2007_test", "--epochs", 1, "--val-every", 0)
    words += ("--num-workers", 1, "--set", *SMALL)  # a loader process, too
    told = run(mxrcnn, "train", *words, cwd=place)
    assert "test it: mxrcnn test first" in told
    run(mxrcnn, "test", "first", "--pictures", 0, cwd=place)
    assert (place / "first" / "test_2007_test" / "report.json").is_file()
    photo = min((place / "data/synthetic/VOC2007/JPEGImages").iterdir())
    assert photo.name in run(mxrcnn, "predict", "first", photo, cwd=place)
    same_in_another_layout(mxrcnn, place)

    run(
        sys.executable,
        "-m",
        "mxrcnn",
        "export",
        place / "first",
        "--to",
        other / "a.onnx",
        cwd=REPO,
    )
    light = install(dist, "onnx", other)
    missing = "import importlib.util as u; assert u.find_spec('mxnet') is None"
    run(light / "python", "-c", missing, cwd=other)
    assert photo.name in run(light / "mxrcnn", "predict", "a.onnx", photo, cwd=other)
