"""The command line: help, train -> test -> demo, and messages for mistakes."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mxrcnn.data import DATASETS
from mxrcnn.data.synthetic import SHAPES, ensure_synthetic
from mxrcnn.data.voc import load_voc
from mxrcnn.evaluation.coco import evaluate_coco
from mxrcnn.inference.detector import Detector
from symnet.machine import mx
from tests.conftest import REPO
from tests.factories import TINY, Picture, make_voc, noise

TOOLS = REPO / "tools"
WORDS = [f"{key}={value}".replace("(", "").replace(")", "") for key, value in TINY.items()]
PICTURE_FILES = {".png", ".jpg"}


@pytest.fixture
def tool(monkeypatch, capfd):
    """Runs a tool in this process; returns its exit code, its output and its errors."""

    def run(name: str, *args: str | Path | int) -> tuple[int, str, str]:
        capfd.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
            patched.syspath_prepend(str(TOOLS))
            with pytest.raises(SystemExit) as stopped:
                runpy.run_path(str(TOOLS / f"{name}.py"), run_name="__main__")
        return int(stopped.value.code), *capfd.readouterr()

    return run


def command(*args: str | Path | int, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def voc_run(data_root: Path, out: Path, *more: str | Path | int) -> list[str | Path | int]:
    return [
        *("--network", "faster_rcnn_vgg16", "--dataset", "voc", "--data-root", data_root),
        *("--imageset", "2007_train"),
        *("--out", out, "--num-workers", 0, "--batch-size", 2, *more, "--set", *WORDS),
    ]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 12, 3, (96, 128))


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A run of tools/train.py, started as users do; it has checkpoints of steps 10 and 12."""
    run = tmp_path_factory.mktemp("runs") / "run"
    more = ["--val-imageset", "2007_test", "--checkpoint-steps", 2]
    done = command(TOOLS / "train.py", *voc_run(data_root, run, *more))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"done: {run} (losses.png, log.jsonl); test it: python tools/test.py {run}" in (
        done.stdout
    )
    return run


def error_of(result: tuple[int, str, str]) -> str:
    """The one-line message of a tool for a mistake; no traceback."""
    code, _, err = result
    assert code == 1
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0][len("error: ") :]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ["--resume", "--checkpoint-steps", "--set", "examples:", "Default: quick"]),
        ("test", ["--metric", "{auto,voc07,voc12,coco}", "best|last|N", "--params FILE"]),
        ("demo", ["SOURCE", "--threshold", "default: 0.5", "--save", "examples:"]),
        ("quantize", ["--precision {int8,bf16}", "--images N", "--imageset NAME", "examples:"]),
        ("convert", ["--to", "--partial", "--class-names", "example"]),
        ("export", ["--to PLACE", "--check IMAGE", "best|last|N", "examples:"]),
    ],
)
def test_help_is_quick_and_complete(name, words):
    start = time.perf_counter()
    done = command(TOOLS / f"{name}.py", "--help")
    assert time.perf_counter() - start < 1
    assert done.returncode == 0
    assert [word for word in words if word not in done.stdout] == []
    # in narrow terminals, too, nothing but the examples is wider than the terminal
    narrow = command(TOOLS / f"{name}.py", "--help", COLUMNS="80").stdout
    assert max(map(len, narrow.splitlines())) <= 100


@pytest.mark.parametrize("name", ["train", "test", "demo", "export"])
def test_help_does_not_load_mxnet(name):
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: assert not {'mxnet', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    script = f"import sys; sys.argv = [{str(TOOLS / name)!r} + '.py', '--help']\n{code}"
    assert command("-c", script, PYTHONPATH=str(TOOLS)).returncode == 0


def test_wrong_arguments_exit_with_2(tool):
    code, _, err = tool("test")
    assert code == 2
    assert "required: run" in err


def test_without_mxnet_it_says_what_to_install(trained):
    script = (
        "import runpy, sys; sys.modules['mxnet'] = None  # Python's way to say that there is none\n"
        f"sys.argv = ['demo.py', {str(trained)!r}, 'image.jpg']\n"
        f"runpy.run_path({str(TOOLS / 'demo.py')!r}, run_name='__main__')"
    )
    done = command("-c", script, PYTHONPATH=str(TOOLS))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: this needs Apache MXNet")
    assert "pip install '.[cpu]'" in line
    assert "pip install '.[cu112]'" in line


def test_what_training_writes(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    checkpoints = {
        f"checkpoints/step-{step:08d}/{name}"
        for step in (10, 12)
        for name in ("model.params", "momentum.params", "state.json")
    }
    others = {"config.json", "train-symbol.json", "test-symbol.json", "log.jsonl", "losses.png"}
    state = json.loads((trained / "checkpoints" / "step-00000012" / "state.json").read_text())
    others |= {"best.json", "training.lock", f"data/{state['data']}.json"}
    others |= {"train_batches.png", "val_pictures/epoch_0001.jpg"}
    assert names == checkpoints | others


def test_testing_writes_everything(trained, tmp_path):
    done = command(TOOLS / "test.py", trained, "--out", tmp_path, "--pictures", 2)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["per_class"]) == list(SHAPES)
    assert {"mAP", "images_per_second"} <= report["metrics"].keys()
    assert all(name in done.stdout for name in SHAPES)
    assert "written to" in done.stdout
    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert results
    assert results[0].keys() >= {"image_id", "category_id", "bbox", "score"}
    submissions = {path.name for path in (tmp_path / "results").rglob("*.txt")}
    assert len(submissions) == len(SHAPES)
    curves = [path for path in (tmp_path / "precision_recall").iterdir()]
    assert len(curves) >= len(SHAPES)
    pictures = {path.name[:5] for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {"best1", "best2", "worst"}
    for path in tmp_path.rglob("*"):
        if path.suffix in PICTURE_FILES:
            assert Image.open(path).size[0] > 50


@pytest.mark.parametrize(("metric", "key"), [("voc07", "mAP"), ("voc12", "mAP"), ("coco", "AP")])
def test_metrics(tool, trained, tmp_path, metric, key):
    code, out, _ = tool("test", trained, "--metric", metric, "--out", tmp_path)
    assert code == 0
    metrics = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert key in metrics
    assert len([name for name in metrics if name.startswith("A")]) == (12 if key == "AP" else 0)
    assert key in out


@pytest.mark.parametrize(
    ("choice", "step"), [((), 12), (("--checkpoint", "last"), 12), (("--checkpoint", "10"), 10)]
)
def test_checkpoints(tool, trained, tmp_path, choice, step):
    code, out, _ = tool("test", trained, *choice, "--out", tmp_path, "--pictures", 0)
    assert code == 0
    assert f"step-{step:08d}" in out
    assert not (tmp_path / "pictures").exists()


def test_a_bare_params_file_gives_the_same(tool, trained, tmp_path):
    params = tmp_path / "bare.params"
    params.write_bytes((trained / "checkpoints/step-00000010/model.params").read_bytes())
    tool("test", trained, "--checkpoint", 10, "--out", tmp_path / "a")
    code, out, _ = tool("test", trained, "--params", params, "--out", tmp_path / "b")
    assert code == 0
    assert str(params) in out
    ours, theirs = [(tmp_path / name / "coco_results.json").read_text() for name in "ab"]
    assert ours == theirs


def test_batches_and_workers_change_nothing_but_speed(tool, trained, tmp_path):
    tool("test", trained, "--out", tmp_path / "a")
    tool("test", trained, "--out", tmp_path / "b", "--batch-size", 2, "--num-workers", 1)
    ours, theirs = [json.loads((tmp_path / n / "coco_results.json").read_text()) for n in "ab"]
    assert len(ours) == len(theirs)
    scores = [np.array([row["score"] for row in rows]) for rows in (ours, theirs)]
    np.testing.assert_allclose(np.sort(scores[0]), np.sort(scores[1]), atol=1e-4)


def test_the_same_images_as_voc_and_coco_score_alike(tool, trained, data_root, tmp_path):
    reports = {}
    for kind, imageset in (("voc", "2007_test"), ("coco", "test")):
        options = ["--dataset", kind, "--data-root", data_root, "--imageset", imageset]
        options += ["--metric", "voc07"]  # the default follows the data set
        assert tool("test", trained, *options, "--out", tmp_path / kind)[0] == 0
        reports[kind] = json.loads((tmp_path / kind / "report.json").read_text())["metrics"]
    rates = [report.pop("images_per_second") for report in reports.values()]
    assert min(rates) > 0
    assert reports["voc"] == pytest.approx(reports["coco"], abs=1e-6)


def test_a_report_says_how_jpegs_were_decoded(tool, trained, tmp_path):
    circle = ("circle", 10, 10, 60, 60)
    sizes = {"large": (400, 400), "odd": (401, 400), "small": (96, 96)}
    pictures = {name: Picture(size, (circle,)) for name, size in sizes.items()}
    root = make_voc(
        tmp_path / "few", {**pictures, "png": Picture((400, 400), (circle,), "RGB", ".png")}
    )
    options = ["--dataset", "voc", "--data-root", root, "--imageset", "2007_train"]
    assert tool("test", trained, *options, "--out", tmp_path / "out")[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tested"]["decoder"].startswith("Pillow ")
    (note,) = (note for note in report["notes"] if "JPEG" in note)
    assert note.startswith("1 images are large JPEGs, which were decoded at 1/2")


def test_data_that_lacks_some_classes(tool, trained, tmp_path):
    pictures = {
        "a": Picture(objects=(("circle", 10, 10, 60, 60),)),
        "b": Picture(objects=(("star", 5, 5, 40, 40), ("circle", 30, 30, 70, 70))),
        "none": Picture(objects=()),
    }
    root = make_voc(tmp_path / "few", pictures)
    options = ["--dataset", "voc", "--data-root", root, "--imageset", "2007_train"]
    code, out, _ = tool("test", trained, *options, "--out", tmp_path / "out")
    assert code == 0
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["per_class"]
    aps = {name: row["AP"] for name, row in rows.items()}
    assert {name for name, ap in aps.items() if ap is None} == set(SHAPES) - {"circle", "star"}
    assert "cross" in out


def test_data_with_a_class_that_the_run_does_not_know(tool, trained, tmp_path):
    root = make_voc(tmp_path, {"a": Picture(objects=(("sqare", 10, 10, 60, 60),))})
    options = ["--dataset", "voc", "--data-root", root, "--imageset", "2007_train"]
    message = error_of(tool("test", trained, *options))
    assert "a.xml: unknown class 'sqare'; the closest known is 'square'" in message


def test_demo(trained, data_root, tmp_path):
    images = sorted((data_root / "VOC2007" / "JPEGImages").iterdir())[:1]
    noise((50, 300), "RGBA").save(tmp_path / "wide.png")
    images.append(tmp_path / "wide.png")
    done = command(
        TOOLS / "demo.py", trained, *images, "--out", tmp_path / "out", "--threshold", 0.05
    )
    assert done.returncode == 0, done.stderr
    drawn = sorted((tmp_path / "out" / "pictures").iterdir())
    assert [path.name for path in drawn] == [f"{images[0].stem}.png", "wide.png"]
    for path, image in zip(drawn, images):
        assert Image.open(path).size >= Image.open(image).size
        assert f"{image}: " in done.stdout
    found = Detector.load(trained).predict(images[0])
    shown = [line for line in done.stdout.split(str(images[1]))[0].splitlines() if line[:1] == " "]
    assert len(shown) == (found.scores >= 0.05).sum()
    assert all(line.split()[0] in SHAPES for line in shown)


def test_saved_results_score_as_the_test_does(tool, trained, data_root, tmp_path):
    """All of a data set's images, at threshold 0, with its ids: the same results, the same AP."""
    truth = data_root / "annotations" / "instances_test.json"
    options = ["--dataset", "coco", "--data-root", data_root, "--imageset", "test"]
    assert tool("test", trained, *options, "--out", tmp_path / "test", "--pictures", 0)[0] == 0
    document = json.loads(truth.read_text())
    folder = next(data_root.rglob(document["images"][0]["file_name"])).parent
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(folder / image["file_name"]) for image in document["images"]))
    words = ["--threshold", 0, "--save", "coco", "--ids", truth]
    code, _, errors = tool("demo", trained, listing, *words, "--out", tmp_path / "found")
    assert code == 0, errors
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    tested = json.loads((tmp_path / "test" / "coco_results.json").read_text())
    assert sorted(map(json.dumps, results)) == sorted(map(json.dumps, tested))
    ours = evaluate_coco(truth, results).metrics
    theirs = json.loads((tmp_path / "test" / "report.json").read_text())["metrics"]
    assert ours == pytest.approx({name: theirs[name] for name in ours}, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "7"], "has no checkpoint 7; it has 10, 12 (last)"),
        (["--checkpoint", "newest"], "has no checkpoint newest; it has 10, 12 (last)"),
        (["--params", "/no/such.params"], "/no/such.params: no such file"),
        (["--imageset", "2007_tset"], "no image set '2007_tset'; there is: 2007_test"),
        (["--data-root", "/no/such/folder"], "/no/such/folder"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--num-workers", "-1"], "--num-workers at least 0"),
        (["--gpus", "x"], "--gpus x: expected numbers such as 0,1"),
        (["--out", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_mistakes_in_testing(tool, trained, options, message):
    assert message in error_of(tool("test", trained, *options))


def test_params_of_another_network(tool, trained, tmp_path):
    path = tmp_path / "other.params"
    mx.nd.save(str(path), {"arg:conv9_weight": mx.nd.zeros(3)})
    message = error_of(tool("test", trained, "--params", path))
    assert message.startswith(f"{path}: ")
    assert "conv1_1_bias" in message


def test_params_of_another_shape(tool, trained, tmp_path):
    params = mx.nd.load(str(trained / "checkpoints" / "step-00000012" / "model.params"))
    params["arg:fc7_bias"] = mx.nd.zeros(33)
    path = tmp_path / "wide.params"
    mx.nd.save(str(path), params)
    message = error_of(tool("test", trained, "--params", path))
    assert message.startswith(f"{path}: ")
    assert "fc7_bias" in message


@pytest.mark.parametrize("name", ["test", "demo"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is not a run folder: it has no config.json"),
        ("{", "config.json: Expecting property name"),
        ('{"network": "yolo"}', "no network 'yolo'; there are: f"),
        ('{"network": "faster_rcnn_vgg16", "train": {"epoch": 1}}', "train.epoch; did you mean"),
        ('{"network": "faster_rcnn_vgg16"}', "has no checkpoint yet"),
    ],
)
def test_folders_that_are_no_runs(tool, tmp_path, name, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    args = [tmp_path] if name == "test" else [tmp_path, "image.jpg"]
    assert message in error_of(tool(name, *args))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "yolo"], "no network 'yolo'; there are: f"),
        (["--gpus", "a,b"], "--gpus a,b: expected numbers such as 0,1"),
        (["--imageset", "2007_tain"], "no image set '2007_tain'; there is: 2007_test, 2007_train"),
        (["--pretrained", "/no/vgg16.npz"], "/no/vgg16.npz: no such file"),
        (["--batch-size", "0"], "train.batch_size=0"),
        (["--log-interval", "0"], "train.log_interval=0"),
        (["--lr-decay-epoch", "7,x"], "train.lr_decay_epoch='x'"),
        (["--out", "/dev/null/run"], "/dev/null/run"),
        (["--resume", "/no/such/run"], "/no/such/run is not a run folder"),
        (["--lr", "1e38", "--epochs", "1"], "step"),
    ],
)
def test_mistakes_in_training(tool, data_root, tmp_path, options, message):
    result = tool("train", *voc_run(data_root, tmp_path / "run", *options))
    assert message in error_of(result)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("widht=1", "unknown setting widht; did you mean width?"),
        ("train.epoch=1", "train.epoch; did you mean train.epochs?"),
        ("tarin.epochs=1", "tarin"),
        ("width", "--set width: expected key=value"),
        ("epochs=many", "epochs='many': expected int"),
    ],
)
def test_wrong_settings(tool, data_root, tmp_path, word, message):
    args = voc_run(data_root, tmp_path / "run")
    assert message in error_of(tool("train", *args, word))
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there(tool, trained):
    if mx.context.num_gpus():
        pytest.skip("there are GPUs here")
    for name, args in (("test", [trained]), ("demo", [trained, "image.jpg"])):
        message = error_of(tool(name, *args, "--gpus", 0))
        assert "MXNet sees 0 GPUs" in message
        assert "pip install '.[cu112]'" in message


def test_data_without_its_folder(tool):
    assert error_of(tool("train", "--dataset", "voc")) == "--dataset voc needs --data-root"


def test_a_data_set_of_ones_own(tool, trained, data_root, tmp_path, monkeypatch):
    """A line in DATASETS is enough to train on it, to test on it and to check it."""
    asked = []

    def mine(data, imageset, class_names):
        asked.append((data.root, imageset, class_names))
        return replace(load_voc(data_root, "2007_test", SHAPES), name=imageset)

    tools = {"train": (), "check_data": (), "test": (trained,), "quantize": (trained,)}
    for name, args in tools.items():
        message = error_of(tool(name, *args, "--dataset", "mine", "--data-root", "x"))
        assert message == "no data set 'mine'; there are: " + ", ".join(DATASETS)
    monkeypatch.setitem(DATASETS, "mine", mine)
    words = ("--dataset", "mine", "--data-root", "x", "--imageset", "easy")
    code, out, errors = tool("check_data", *words)
    assert code == 0, errors
    assert "easy" in out
    code, out, errors = tool("test", trained, *words, "--pictures", 0, "--out", tmp_path)
    assert code == 0, errors
    words += ("--network", "faster_rcnn_vgg16", "--out", "/dev/null/run")
    code, out, _ = tool("train", *words, "--set", *WORDS)
    assert code == 1
    assert "data set mine" in out
    assert asked == [("x", "easy", "auto"), ("x", "easy", SHAPES), ("x", "easy", "auto")]


def test_a_second_training_does_not_overwrite_the_first(tool, trained, data_root):
    message = error_of(tool("train", *voc_run(data_root, trained)))
    assert message.endswith(f"continue it with --resume {trained}, or choose another --out")


def test_no_such_run_to_resume(tool, tmp_path):
    message = error_of(tool("train", "--resume", tmp_path))
    assert message == f"{tmp_path} is not a run folder: it has no config.json"


def test_resuming_with_more_epochs(tool, data_root, tmp_path):
    run = tmp_path / "run"
    assert tool("train", *voc_run(data_root, run))[0] == 0
    code, out, _ = tool("train", "--resume", run, "--epochs", 2, "--num-workers", 0)
    assert code == 0
    assert "resuming at step 12 of 24" in out
    assert json.loads((run / "checkpoints/step-00000024/state.json").read_text())["epoch"] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.write_bytes(b""), "not a readable image"),
        (lambda path: path.write_text("<svg/>"), "not a readable image"),
        (lambda path: path.mkdir(), "no image or video in it"),
    ],
    ids=["missing", "empty", "text", "folder"],
)
def test_images_that_demo_cannot_read(tool, trained, tmp_path, make, message):
    path = tmp_path / "image.jpg"
    make(path)
    said = error_of(tool("demo", trained, path, "--out", tmp_path / "out"))
    assert said.startswith(f"{path}: {message}")


def test_a_broken_annotation_is_named(tool, data_root, tmp_path):
    root = make_voc(tmp_path / "voc", {"good": Picture(), "bad": Picture()})
    path = root / "VOC2007" / "Annotations" / "bad.xml"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ElementTree.ParseError):
        ElementTree.parse(path)
    assert str(path) in error_of(tool("train", *voc_run(root, tmp_path / "run")))
    more = ["--skip-bad", "--epochs", 1]
    code, out, _ = tool("train", *voc_run(root, tmp_path / "run", *more))
    assert code == 0
    assert "1 bad entries were skipped" in out
    assert str(path) in out


def test_an_image_that_breaks_off_in_training_is_named(tool, tmp_path):
    root = make_voc(tmp_path / "voc", {"good": Picture(), "bad": Picture()})
    path = root / "VOC2007" / "JPEGImages" / "bad.jpg"
    path.write_bytes(path.read_bytes()[:-500])
    assert str(path) in error_of(tool("train", *voc_run(root, tmp_path / "run")))


def test_what_was_decoded_is_remembered(tool, trained, data_root, tmp_path):
    """By --skip-bad, in the run folder: of a training that failed, and of a test."""
    for path in data_root.glob("*/JPEGImages/*"):
        os.utime(path, (1, 1))
    out = tmp_path / "run"
    args = voc_run(data_root, out, "--skip-bad", "--lr", "1e38", "--epochs", 1)
    assert "12 images were decoded at an earlier start" not in tool("train", *args)[1]
    assert len(json.loads((out / "decoded.json").read_text())["images"]) == 12
    (out / "config.json").unlink()
    assert "12 images were decoded at an earlier start" in tool("train", *args)[1]
    words = (trained, "--skip-bad", "--pictures", 0, "--out", tmp_path / "test")
    outputs = [tool("test", *words)[1] for _ in range(2)]
    assert ["3 images were decoded" in output for output in outputs] == [False, True]


def test_ctrl_c_while_the_data_is_read(tool, trained, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mxrcnn.evaluation.run.open_dataset", interrupt)
    code, _, err = tool("test", trained)
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err
