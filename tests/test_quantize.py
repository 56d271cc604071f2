"""Runs in int8 and bfloat16: the same detections, in an ordinary run folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.config import ConfigError, make_config, override
from mxrcnn.data.records import Dataset
from mxrcnn.data.voc import load_voc
from mxrcnn.evaluation.quantized import QuantizeRequest, quantize_and_test
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.quantize import quantize, quantize_run
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState
from mxrcnn.training.network import first_value
from symnet import get_detector
from symnet.machine import has_bf16, has_int8, mx
from symnet.ops.precision import BFLOAT16, precision
from tests.factories import Picture, different_networks, make_voc, plain_quick

ROOT = Path(__file__).resolve().parent.parent
needs_int8 = pytest.mark.skipif(not has_int8(), reason="the processor has no int8 products")
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="the processor has no bfloat16")
PRECISIONS = [
    pytest.param("int8", marks=needs_int8),
    pytest.param("bf16", marks=needs_bf16),
]

#: quick presets, with images so large that no map is of a size that oneDNN corrupts memory at
COMMON = {"data.short_side": 256, "data.long_side": 320, "data.class_names": ("dog", "cat")}


def small_config(network):
    config = override(
        make_config(network), {**plain_quick(network), "model.num_classes": 3, **COMMON}
    )
    names = ("score_thresh", "score_thresh")
    thresholds = {f"model.{name}": 0.0 for name in names if hasattr(config.model, name)}
    return override(config, thresholds)


def random_params(config, side=256):
    """Initial values, with moving statistics that are not the identity."""
    symbol = get_detector(config.network).test_symbol(config.model)
    inputs = {"data": (1, 3, side, side), "im_info": (1, 3)}
    args, _, auxs = symbol.infer_shape(**inputs)
    kinds = [("arg", n, s) for n, s in zip(symbol.list_arguments(), args) if n not in inputs]
    kinds += [("aux", n, s) for n, s in zip(symbol.list_auxiliary_states(), auxs)]
    params = {}
    for kind, name, shape in kinds:
        value = first_value(config, name, shape, scratch=True)
        if name.endswith("moving_var"):
            value = value * 2
        if name.endswith(("cls_score_weight", "cls_logits_weight")):
            value = value * 0.005  # sure of nothing: rounding moves scores little
        params[f"{kind}:{name}"] = mx.nd.array(value)
    return params


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    pictures = {"a": Picture((180, 220)), "b": Picture((220, 180)), "c": Picture(objects=())}
    root = make_voc(tmp_path_factory.mktemp("pictures"), pictures)
    return load_voc(str(root), "2007_train", ("dog", "cat"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the quick VGG16, with one checkpoint."""
    config = small_config("faster_rcnn_vgg16")
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.create(config, {"test": get_detector(config.network).test_symbol(config.model)})
    folder.save(TrainState(step=3), random_params(config), {"fc6_weight": mx.nd.ones(1)}, keep=1)
    return folder.path


def image(seed=0, size=(256, 320)):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 32, size[1] // 32, 3), np.uint8)
    return coarse.repeat(32, axis=0).repeat(32, axis=1)


# --- all networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("network", different_networks())
def test_the_types_of_every_network_fit_in_bf16(network):
    """Seen without a processor that has bfloat16: sums of bfloat16 and float32 are refused."""
    config = small_config(network)
    with precision("bf16_stored"):
        symbol = get_detector(network).test_symbol(config.model)
    types, outputs, _ = symbol.infer_type(data=np.float32)
    assert sum(kind == BFLOAT16 for kind in types) > 10
    assert {*outputs} == {np.float32}


@needs_int8
@pytest.mark.slow
@pytest.mark.parametrize("network", different_networks())
def test_every_network_quantizes(network, dataset):
    config = small_config(network)
    params = random_params(config)
    exact = in_float32(config, params).predict(image())
    made = quantize(config, params, "int8", dataset)
    fast = Detector(made.symbol, made.args, made.auxs, config, precision="int8")
    found = fast.predict(image())
    assert len(exact) > 0
    assert np.isfinite(found.boxes).all()
    count = min(len(found), len(exact))
    assert count > 0.7 * len(exact)
    np.testing.assert_allclose(found.scores[:count], exact.scores[:count], atol=0.05)


def in_float32(config, params):
    from mxrcnn.runs.checkpoint import split_params

    symbol = get_detector(config.network).test_symbol(config.model)
    return Detector(symbol, *split_params(params), config)


# --- run folders --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_quantized_run_is_a_run(run, dataset, tmp_path, precision):
    out = quantize_run(run, tmp_path / "fast", precision, dataset)
    detector = Detector.load(out)
    assert detector.precision == precision
    exact, found = Detector.load(run).predict(image()), detector.predict(image())
    assert len(found) > 0
    count = min(len(found), len(exact), 20)
    np.testing.assert_allclose(found.scores[:count], exact.scores[:count], atol=0.05)
    assert not np.array_equal(found.scores[:count], exact.scores[:count])


def quantized_layers(symbol):
    """Whether a layer computes in int8, by the name of its weight."""
    nodes = json.loads(symbol.tojson())["nodes"]
    return {
        nodes[node["inputs"][1][0]]["name"]: node.get("attrs", {}).get("quantized") == "true"
        for node in nodes
        if node["op"].startswith("_sg_mkldnn")
    }


@needs_int8
def test_int8_is_int8(run, dataset, tmp_path):
    """All convolutions are quantized except prediction layers."""
    out = quantize_run(run, tmp_path / "fast", "int8", dataset)
    by_weight = quantized_layers(mx.sym.load(str(out / "test-symbol.json")))
    exact = {"rpn_cls_score", "rpn_bbox_pred", "cls_score", "bbox_pred"}
    assert by_weight == {name: name[: -len("_weight")] not in exact for name in by_weight}
    assert {"conv1_1_weight", "rpn_conv_3x3_weight", "fc6_weight", "fc7_weight"} <= set(by_weight)


@needs_int8
def test_which_layers_of_mobilenet_v3_are_int8(dataset):
    """The stem and the 1x1 convolutions; not depthwise ones, nor squeeze and excitation."""
    config = small_config("faster_rcnn_mobilenet_v3_large_fpn")
    made = quantize(config, random_params(config), "int8", dataset)
    low = quantized_layers(made.symbol)
    exact = {name[: -len("_weight")] for name in low if ".body." in name and not low[name]}
    depthwise = {f"{n}.block.{int(n > 1)}.0" for n in range(1, 16)}  # the first does not expand
    squeezed = {f"{n}.block.2.fc{i}" for n in (4, 5, 6, 11, 12, 13, 14, 15) for i in (1, 2)}
    assert exact == {f"backbone.body.{name}" for name in depthwise | squeezed}
    assert sum(low[name] for name in low if ".body." in name) == 2 + 14 + 15


@needs_int8
def test_grouped_convolutions_stay_exact(dataset):
    config = small_config("fcos_regnetx_400mf")
    made = quantize(config, random_params(config), "int8", dataset)
    low = quantized_layers(made.symbol)
    grouped = [name for name in low if ".f.b." in name]
    assert len(grouped) > 10
    assert not any(low[name] for name in grouped)
    assert all(low[name] for name in low if ".f.a." in name)


@needs_int8
def test_a_fresh_process_has_the_same_detections(run, dataset, tmp_path):
    out = quantize_run(run, tmp_path / "fast", "int8", dataset)
    here = Detector.load(out).predict(image())
    code = (
        "import sys; from tests.test_quantize import *; "
        "found = Detector.load(sys.argv[1]).predict(image()); "
        "np.savez(sys.argv[2], boxes=found.boxes, scores=found.scores)"
    )
    where = tmp_path / "found.npz"
    subprocess.run([sys.executable, "-c", code, str(out), str(where)], check=True, cwd=ROOT)
    with np.load(where) as there:
        np.testing.assert_array_equal(there["boxes"], here.boxes)
        np.testing.assert_array_equal(there["scores"], here.scores)


@needs_int8
def test_accuracy_and_speed_are_told_and_noted(run, tmp_path):
    root = make_voc(tmp_path / "data", {"a": Picture((180, 220)), "b": Picture((180, 220))})
    request = QuantizeRequest(
        run=str(run),
        out=str(tmp_path / "fast"),
        settings={"data.dataset": "voc", "data.root": str(root)},
        images=1,
        imageset="2007_train",
    )
    table = quantize_and_test(request)
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["fp32", "int8"]
    note = json.loads((tmp_path / "fast" / "quantized.json").read_text())
    assert (note["precision"], note["imageset"], note["images"]) == ("int8", "2007_train", 1)
    assert set(note["measured"]["int8"]) == {"mAP", "images_per_second"}
    assert note["metric"] == "voc07"
    assert set(note["best_f1_threshold"]) == {"dog", "cat"}
    assert table.splitlines()[0].split() == ["voc07", "mAP", "images/s"]


# --- what cannot be -----------------------------------------------------------------------------


@needs_int8
def test_refusals(run, dataset, tmp_path):
    out = quantize_run(run, tmp_path / "fast", "int8", dataset)
    with pytest.raises(CheckpointError, match="quantized already, to int8"):
        quantize_run(out, tmp_path / "again", "int8", dataset)
    with pytest.raises(CheckpointError, match="exists already"):
        quantize_run(run, out, "int8", dataset)
    with pytest.raises(CheckpointError, match="quantized to int8: it cannot run in bf16"):
        Detector.load(out, precision="bf16")
    with pytest.raises(CheckpointError, match="cannot be trained"):
        RunFolder(out).load_state()
    with pytest.raises(ConfigError, match="none"):
        quantize_run(run, tmp_path / "none", "int8", Dataset("none", ("dog",), ()))
    with pytest.raises(ConfigError, match="fp16"):
        quantize_run(run, tmp_path / "none", "fp16", dataset)
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".*partial"))
