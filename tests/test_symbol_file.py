"""Edited graphs give a one-line error that names the file, whatever reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxrcnn.evaluation.run import TestRequest, run_test
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.quantize import quantize_run
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder
from mxrcnn.training.configure import TrainRequest
from mxrcnn.training.run import prepare
from symnet.machine import mx
from tests.broken import write_run
from tests.factories import Picture, make_voc

PIXELS = np.zeros((40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def node(graph: dict[str, Any], name: str) -> dict[str, Any]:
    return next(n for n in graph["nodes"] if n["name"] == name)


def attribute(name: str, key: str, value: str) -> Callable[[dict[str, Any]], None]:
    """An edit of one attribute of an operator."""
    return lambda graph: node(graph, name)["attrs"].update({key: value})


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda graph: node(graph, old).update(name=new)


def without_output(graph: dict[str, Any]) -> None:
    names = [graph["nodes"][head[0]]["name"] for head in graph["heads"]]
    del graph["heads"][names.index("det_scores")]


#: edits of test-symbol.json, and what is told
EDITS = {
    "unknown operator": (
        lambda graph: node(graph, "conv1_1").update(op="Konvolution"),
        r"not a whole symbol \(.*Operator Konvolution is not registered\)",
    ),
    "text for a number": (
        attribute("conv1_1", "num_filter", "many"),
        "not a whole symbol .*num_filter expect int",
    ),
    "unknown attribute": (attribute("conv1_1", "colour", "red"), "Cannot find argument 'colour'"),
    "padding of three sides": (attribute("conv1_1", "pad", "(1, 1, 1)"), "Padding must have"),
    "kernel beyond the image": (
        attribute("conv1_1", "kernel", "(999, 999)"),
        r"shapes do not fit together for data of 1 x 3 x 256 x 256 \(.*kernel size exceed",
    ),
    "constant shape": (
        attribute("rpn_cls_score_reshape", "shape", "(1, 2, 144, 16)"),
        "shapes do not fit together for data of 2 x 3 x 512 x 256",
    ),
    "missing input": (lambda graph: node(graph, "conv1_1")["inputs"].pop(), "shapes do not fit"),
    "no data": (renamed("data", "image"), "the graph has no input data"),
    "no scores": (without_output, "the graph has no output det_scores"),
    "renamed parameter": (
        renamed("conv1_1_weight", "conv1_1_kernel"),
        r"edited, or of another run\? It needs conv1_1_kernel of \(8, 3, 3, 3\), and the network "
        r"of config\.json has none \(.*model\.params: there is no conv1_1_kernel",
    ),
    "other width": (
        attribute("conv1_2", "num_filter", "5"),
        r"It needs conv1_2_weight of \(5, 8, 3, 3\), and the network of config.json has of \(8, 8",
    ),
}


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    graph = json.loads(path.read_text())
    change(graph)
    path.write_text(json.dumps(graph))


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS)
def test_an_edited_graph_is_named_in_one_line(run, change, message, capfd):
    path = run / "test-symbol.json"
    edit(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        Detector.load(run)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_edit_that_fits_is_used(run):
    def change(graph: dict[str, Any]) -> None:
        nms = next(n for n in graph["nodes"] if n["op"] == "_contrib_box_nms")
        nms["attrs"]["overlap_thresh"] = "0.25"

    edit(run / "test-symbol.json", change)
    assert len(Detector.load(run).predict(PIXELS)) >= 0


def test_a_graph_that_cannot_be_bound_for_an_image(run):
    """It fits the sizes that are tried on reading."""
    edit(run / "test-symbol.json", attribute("conv1_1", "kernel", "(70, 70)"))
    edit(run / "test-symbol.json", attribute("conv1_1", "pad", "(34, 34)"))
    symbol = RunFolder(run).symbol("test")
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 256, 256), im_info=(1, 3))
    named = dict(zip(symbol.list_arguments(), shapes))
    args = {k: mx.nd.zeros(v) for k, v in named.items() if k not in ("data", "im_info")}
    detector = Detector(symbol, args, {}, RunFolder(run).config())
    with pytest.raises(CheckpointError, match="cannot be bound for data of 1 x 3 x ") as caught:
        detector.forward(np.zeros((1, 3, 1, 1), np.float32), np.ones((1, 3), np.float32))
    assert "\n" not in str(caught.value)


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "test": lambda run, data: run_test(
        TestRequest(run=str(run), imageset="2007_train", settings={"data.root": str(data)})
    ),
    "demo and export, in another precision": lambda run, _: Detector.load(run, precision="int8"),
    "quantize": lambda run, data: quantize_run(run, run / "int8", "int8"),
    "resume": lambda run, data: prepare(
        TrainRequest(resume=str(run), settings={"data.root": str(data)})
    ),
}


@pytest.fixture
def voc_run(run, tmp_path) -> tuple[Path, Path]:
    """The run as one of a VOC data set of 4 images, of which the checkpoint has seen 3; and its
    folder."""
    data = make_voc(tmp_path / "devkit", {f"{n}": Picture() for n in range(4)})
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["data"].update(dataset="voc", imageset="2007_train", flip=False)
    path.write_text(json.dumps(config))
    return run, data


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whatever_reads_it(voc_run, read):
    run, data = voc_run
    edit(run / "test-symbol.json", EDITS["unknown operator"][0])
    with pytest.raises(CheckpointError, match=r"test-symbol\.json: not a whole symbol"):
        read(run, data)


def test_the_graph_that_training_does_not_read(voc_run, capsys):
    """Training makes its graph from config.json; whoever edited the file is told."""
    run, data = voc_run
    request = TrainRequest(resume=str(run), settings={"data.root": str(data)})
    path = run / "train-symbol.json"
    state = RunFolder(run).folder() / "momentum.params"
    mx.nd.save(str(state), {})
    prepare(request).run.unlock()
    assert "is not the trained graph" not in capsys.readouterr().out
    edit(path, renamed("conv1_1_weight", "conv1_1_kernel"))
    prepare(request).run.unlock()
    assert f"{path} is not the trained graph, which is built" in capsys.readouterr().out
    edit(path, EDITS["unknown operator"][0])
    with pytest.raises(CheckpointError, match=r"train-symbol\.json: not a whole symbol"):
        prepare(request)
