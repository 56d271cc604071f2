"""tools/bench.py: what it measures, in turns with a peer, and what it reports."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.bench import run, sides
from mxrcnn.bench.export import to_torchvision
from mxrcnn.bench.flops import multiply_adds
from mxrcnn.bench.ours import Bench
from mxrcnn.bench.report import BenchReport, Measured, Timing, operator_table
from mxrcnn.bench.run import BenchRequest, check_peer, measure_all
from mxrcnn.bench.scene import default_size, write_files
from mxrcnn.bench.sides import Side, SideError, cpu_seconds, wait_until_idle
from mxrcnn.config import ConfigError
from mxrcnn.weights.torchvision import from_torchvision
from symnet.machine import mx
from symnet.ops.precision import precision
from tests.conftest import REPO
from tests.factories import TINY
from tests.test_tools import command

WORDS = tuple(
    f"{key}={value}".replace("(", "").replace(")", "")
    for key, value in TINY.items()
    if key.startswith("model.")
)
#: a side that sleeps as long as its spec says, and writes down when it worked
FAKE = """
import json, os, sys, time
spec = json.loads(sys.argv[1])
assert os.path.exists(spec["arrays"]) and os.environ["OMP_NUM_THREADS"] == "1"
print(json.dumps({"torch": "1.2", "torchvision": "3.4"}), flush=True)
for word in sys.stdin:
    slow = 2 if spec["layout"] == "contiguous" else 1
    rss = {"max_rss_mb": 1000 * slow}
    print(json.dumps({"seconds": slow * 10.0} if word == "step\\n" else rss), flush=True)
"""
KEYS = {"network", "size", "threads", "repeat", "cpu", "load_at_start", "max_rss_mb"}
KEYS |= {"memory_mb", "files", "gflop", "ceiling_gflops", "share_of_ceiling"}


# Counting


def two_layers() -> mx.sym.Symbol:
    """4 filters 3x3 over (1, 2, 6, 8), stride 2: 3x4 places; then 5 units of 48 values."""
    data = mx.sym.Convolution(
        mx.sym.Variable("data"),
        name="conv",
        num_filter=4,
        kernel=(3, 3),
        stride=(2, 2),
        pad=(1, 1),
    )
    return mx.sym.FullyConnected(mx.sym.relu(data), name="fc", num_hidden=5)


CONV, FC = 3 * 4 * 4 * 2 * 3 * 3, 5 * 48


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ((), CONV + FC),
        (("fc_weight",), CONV + 2 * FC),
        (("conv_weight",), 2 * CONV + 2 * FC),  # the gradient goes through fc, and ends at conv
        (("conv_bias", "fc_bias"), CONV + 2 * FC),
        (("conv_weight", "fc_weight"), 2 * CONV + 3 * FC),
    ],
)
def test_multiply_adds_of_two_layers(trained, expected):
    assert multiply_adds(two_layers(), {"data": (1, 2, 6, 8)}, trained) == expected


def test_multiply_adds_of_groups_and_transposed_convolutions():
    data = mx.sym.Variable("data")
    data = mx.sym.Convolution(data, name="a", num_filter=6, kernel=(1, 1), num_group=2)
    data = mx.sym.Deconvolution(data, name="b", num_filter=3, kernel=(2, 2), stride=(2, 2))
    # 5x7 places: 6 filters over 4 / 2 channels; then each of 6 values into 3 x 2 x 2
    assert multiply_adds(data, {"data": (1, 4, 5, 7)}) == 5 * 7 * (6 * 2 + 6 * 3 * 4)


def test_multiply_adds_do_not_depend_on_precision(tmp_path):
    write_files(tmp_path, (96, 128))
    counts = []
    for name in ("fp32", "bf16"):
        spec = {"network": "faster_rcnn_vgg16", "settings": WORDS, "size": (96, 128)}
        bench = Bench({**spec, "precision": "fp32", "folder": str(tmp_path)})
        with precision(name):
            from symnet import get_detector

            symbol = get_detector("faster_rcnn_vgg16").test_symbol(bench.config.model)
        counts.append(multiply_adds(symbol, bench.test_inputs()))
    assert counts[0] == counts[1] > 0


# Parameters for the other side


def test_names_go_there_and_back():
    params = {
        f"backbone.body.bn1_{leaf}": np.ones(3)
        for leaf in ("gamma", "beta", "moving_mean", "moving_var")
    }
    params.update({"fc6_weight": np.ones((2, 2)), "fc6_bias": np.ones(2)})
    assert from_torchvision(to_torchvision(params)).keys() == params.keys()


def test_the_vgg16_detector_under_torchvisions_names():
    rng = np.random.default_rng(0)
    params = {
        "conv1_1_weight": np.ones((64, 3, 3, 3)),
        "conv5_3_bias": np.ones(512),
        "rpn_cls_score_weight": rng.standard_normal((18, 512, 1, 1)),
        "fc7_weight": np.ones((8, 8)),
    }
    found = to_torchvision(params)
    assert found.keys() == {
        "backbone.0.weight",
        "backbone.28.bias",
        "rpn.head.cls_logits.weight",
        "roi_heads.box_head.layers.3.weight",
    }
    feature = rng.standard_normal(512)
    background, object_ = (params["rpn_cls_score_weight"][:, :, 0, 0] @ feature).reshape(2, 9)
    softmax = np.exp(object_) / (np.exp(object_) + np.exp(background))
    logits = found["rpn.head.cls_logits.weight"][:, :, 0, 0] @ feature
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), softmax)


# Sides


def make_side(script: str) -> Side:
    return Side("fake", [sys.executable, "-c", script], {}, {})


def test_a_side_that_ends_tells_why():
    with pytest.raises(SideError, match=r"fake: the process ended(.|\n)*ValueError: no such net"):
        make_side("raise ValueError('no such net')")


SPINNING = """
import sys, time
print({}, flush=True)
for word in sys.stdin:
    print({}, flush=True)
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_side_is_idle_when_it_has_answered():
    with make_side(SPINNING) as side:
        before = cpu_seconds(side.pid)
        side.ask("step")
        spent = cpu_seconds(side.pid) - before
        assert spent >= 0.35
        assert wait_until_idle(side.pid)
        assert cpu_seconds(side.pid) - before - spent < 0.05


def test_a_process_that_never_rests_is_noticed(monkeypatch):
    monkeypatch.setattr(sides, "PATIENCE", 0.3)
    with make_side(SPINNING.replace("0.4", "60")) as side:
        side._process.stdin.write("step\n")
        side._process.stdin.flush()
        side._answer()
        assert not wait_until_idle(side.pid)
        side._process.kill()


# Report


def timing(*seconds: float, mb: int = 100) -> Timing:
    return Timing([{"seconds": s} for s in seconds], mb, {"torch": "1.2"})


def test_medians_ratios_and_the_faster_layout():
    slow, fast = timing(9, 9, 9, mb=50), timing(4, 4, 80)
    row = Measured(
        mode="train",
        precision="bf16",
        ours=timing(3, 1, 2, mb=30),
        peers={"contiguous": slow, "channels_last": fast},
        multiply_adds=10,
        files={"images_per_second": 0.5, "waiting": 0.015},
        ceiling=20,
    )
    report = BenchReport("net", (60, 80), 2, 3, 0.25, [row])
    found = report.json()
    assert set(found) == KEYS | {"train_bf16", "peer", "ratio"}
    assert (found["train_bf16"], found["max_rss_mb"]) == (2, 30)
    assert found["peer"]["train_bf16"] == 4
    assert found["peer"]["layout"] == {"train_bf16": "channels_last"}
    assert found["ratio"] == {"train_bf16": 0.5, "max_rss_mb": 0.3}
    assert found["share_of_ceiling"] == {"train_bf16": 0.25}
    lines = report.table().splitlines()
    assert (
        lines[3].split()
        == "training step, bf16 2.000 30 MB 4.000 100 MB channels_last 0.50".split()
    )
    assert "1.5%" in report.table()
    assert len({len(line) for line in lines[2:4]}) == 1


def test_no_peer_no_ratios():
    row = Measured("infer", "fp32", timing(1), {}, 10, {"images_per_second": 1, "waiting": 0}, 20)
    report = BenchReport("net", (60, 80), 2, 1, 0.0, [row])
    assert set(report.json()) == KEYS | {"infer_fp32"}
    assert "torchvision" not in report.table()


# The whole


def test_usual_sizes():
    assert default_size("faster_rcnn_vgg16") == (600, 1000)
    assert default_size("mask_rcnn_r50_fpn") == (800, 1066)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("int8", [True, False])
def test_without_a_precision_all_that_apply(monkeypatch, bf16, int8):
    monkeypatch.setattr(run, "has_bf16", lambda: bf16)
    monkeypatch.setattr(run, "has_int8", lambda: int8)
    wanted = ("fp32", *["bf16"] * bf16, *["int8"] * int8)
    assert BenchRequest().precisions() == wanted
    assert BenchRequest(mode="train").precisions() == tuple(x for x in wanted if x != "int8")


def test_int8_is_for_inference():
    assert BenchRequest().modes("int8") == ("infer",)
    assert BenchRequest().modes("bf16") == ("train", "infer")
    with pytest.raises(ConfigError, match="int8 is for inference"):
        BenchRequest(precision="int8", mode="train").precisions()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"network": "faster_rcnn_zf"}, "torchvision is measured on faster_rcnn_vgg16"),
        ({"words": ("width=0.5",)}, "model.width: with --peer, the network must be"),
        ({"peer": "/no/python"}, "/no/python: No such file"),
        ({"peer": "/bin/false"}, "cannot import torchvision .*pip install torch torchvision"),
    ],
)
def test_peers_that_cannot_be(change, problem):
    with pytest.raises(ConfigError, match=problem):
        check_peer(BenchRequest(**{"peer": sys.executable, **change}))


@pytest.mark.slow
def test_against_a_fake_peer(tmp_path):
    script = tmp_path / "peer.py"
    script.write_text(FAKE)
    request = BenchRequest(
        size=(96, 128),
        precision="fp32",
        repeat=1,
        threads=1,
        words=WORDS,
        peer=sys.executable,
        matrix=64,
    )
    report = measure_all(request, script)
    found = report.json()
    assert found["peer"]["torchvision"] == "3.4"
    assert found["peer"]["train_fp32"] == found["peer"]["infer_fp32"] == 10
    assert found["peer"]["max_rss_mb"] == 1000
    assert found["ratio"]["infer_fp32"] == pytest.approx(found["infer_fp32"] / 10, abs=1e-3)
    assert 0 < found["infer_fp32"] < 10


@pytest.mark.slow
def test_the_command(tmp_path):
    out = tmp_path / "bench.json"
    words = ("--set", *WORDS, "--size", "96x128", "--repeat", 1, "--precision", "fp32")
    done = command(REPO / "tools" / "bench.py", *words, "--json", out)
    assert done.returncode == 0, done.stderr
    assert "training step, fp32" in done.stdout
    assert "train fp32 1/1" in done.stderr
    assert set(json.loads(out.read_text())) == KEYS | {"train_fp32", "infer_fp32"}


def test_wrong_words_end_with_a_message():
    done = command(REPO / "tools" / "bench.py", "--set", "widht=1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean" in done.stderr
    assert "Traceback" not in done.stderr
    done = command(REPO / "tools" / "bench.py", "--size", "600")
    assert done.returncode == 2


def test_the_other_side_needs_nothing_of_ours():
    text = Path(run.PEER_SCRIPT).read_text()
    assert "import mxrcnn" not in text
    assert "from mxrcnn" not in text
    assert "symnet" not in text


@pytest.mark.slow
def test_operators_are_told_apart():
    request = BenchRequest(
        precision="fp32",
        mode="infer",
        size=(64, 96),
        repeat=1,
        words=("width=0.1", "box_head_dim=16"),
    )
    lines = run.profile(request).splitlines()
    assert lines[0].split() == ["infer,", "fp32", "ms", "a", "step"]
    assert lines[-1].startswith("all others")
    assert Path(os.devnull).is_char_device()  # a run as root removed it: MXNet removes its file


def test_a_table_of_operators():
    text = operator_table("train, fp32", {"Convolution": 12.34, "softmax": 0.6, "sum": 0.5})
    rows = [line.rsplit(None, 1) for line in text.splitlines()[1:]]
    assert rows == [["Convolution", "12.3"], ["all others", "1.1"]]
