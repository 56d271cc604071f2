"""The figure of a graph: its contents, folding, gradients and drawing."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from mxrcnn import graph_figure
from mxrcnn.graph_figure import KINDS, detector_graph, draw_graph, outline
from mxrcnn.graph_figure.layout import lay_out
from symnet import get_detector, list_detectors
from symnet.machine import mx

TOOL = Path(__file__).resolve().parent.parent / "tools" / "draw_graph.py"
#: the single-level graphs; those of pyramids have some 2,000 nodes and take half a minute to draw
GRAPHS = [
    (name, train) for name in ("faster_rcnn_vgg16", "faster_rcnn_zf") for train in (True, False)
]

#: the classic training graph as the paper draws it: arrows, and whether a gradient flows back
CLASSIC = {
    ("data", "conv1"): False,
    ("conv1", "conv2"): True,
    ("conv2", "conv3"): True,
    ("conv3", "conv4"): True,
    ("conv4", "conv5"): True,
    ("conv5", "rpn_conv_3x3"): True,
    ("rpn_conv_3x3", "rpn_cls_score"): True,
    ("rpn_conv_3x3", "rpn_bbox_pred"): True,
    ("rpn_cls_score", "rpn_cls_prob"): True,
    ("label", "rpn_cls_prob"): False,
    ("rpn_bbox_pred", "rpn_bbox_loss"): True,
    ("bbox_target", "rpn_bbox_loss"): False,
    ("bbox_weight", "rpn_bbox_loss"): False,
    ("rpn_cls_score", "rpn_cls_act"): False,
    ("rpn_cls_act", "rois"): False,
    ("rpn_bbox_pred", "rois"): False,
    ("im_info", "rois"): False,
    ("rois", "proposal_target"): False,
    ("gt_boxes", "proposal_target"): False,
    ("conv5", "roi_pool"): True,
    ("proposal_target", "roi_pool"): False,
    ("roi_pool", "fc6"): True,
    ("fc6", "fc7"): True,
    ("fc7", "cls_score"): True,
    ("fc7", "bbox_pred"): True,
    ("cls_score", "cls_prob"): True,
    ("proposal_target", "cls_prob"): False,
    ("bbox_pred", "bbox_loss"): True,
    ("proposal_target", "bbox_loss"): False,
    ("proposal_target", "label_blockgrad"): False,
}


def graph(name="faster_rcnn_vgg16", train=True):
    detector = get_detector(name)
    return detector_graph(detector, detector.config(), (600, 800), train)


def arrows(steps):
    names = [step.name for step in steps.steps]
    return {(names[e.source], names[e.target]): e.gradient for e in steps.edges}


@pytest.mark.parametrize("name", list_detectors())
def test_all_inputs_of_a_graph_have_a_shape(name):
    detector = get_detector(name)
    symbol, shapes = detector_graph(detector, detector.config(), (200, 300), train=True)
    assert set(detector.label_names) <= set(shapes) & set(symbol.list_arguments())
    symbol.infer_shape(**shapes)


def step(steps, name):
    return next(step for step in steps.steps if step.name == name)


@pytest.mark.parametrize(("name", "train"), GRAPHS)
@pytest.mark.parametrize("rules", [graph_figure.RULES, ()], ids=["folded", "unfolded"])
def test_every_node_is_in_one_step_or_is_a_parameter(name, train, rules):
    symbol, shapes = graph(name, train)
    steps = outline(symbol, shapes, rules)
    nodes = json.loads(symbol.tojson())["nodes"]
    shown = [member for step in steps.steps for member in step.members]
    assert sorted([*shown, *steps.left_out]) == sorted(node["name"] for node in nodes)
    with_inputs = {node["name"] for node in nodes if node["inputs"]}
    parameters = {n["name"] for n in nodes if n["op"] == "null"} - set(shapes)
    assert parameters <= set(steps.left_out)
    by_name = {node["name"]: node for node in nodes}
    for left in set(steps.left_out) & with_inputs:
        sources = {nodes[source]["name"] for source, *_ in by_name[left]["inputs"]}
        assert sources <= set(steps.left_out), f"{left} has data among its inputs"
    if not rules:
        assert len(shown) == len(steps.steps)
    assert {step.kind for step in steps.steps} <= set(KINDS)
    assert all(edge.source < edge.target for edge in steps.edges)


def test_the_classic_graph_reads_like_the_paper():
    steps = outline(*graph())
    assert arrows(steps) == CLASSIC
    assert step(steps, "conv1").lines == ("2 × 3×3, 64 + pool", "1×64×304×400")
    assert step(steps, "conv5").lines == ("3 × 3×3, 512", "1×512×38×50")
    assert step(steps, "rpn_bbox_loss").lines == ("smooth L1 loss", "1×36×38×50")
    shapes = ("rois 128×5", "label 128", "bbox_target, bbox_weight 128×84")
    assert step(steps, "proposal_target").lines == ("custom operator", *shapes)
    kinds = {kind: {s.name for s in steps.steps if s.kind == kind} for kind in KINDS}
    inputs = {"data", "label", "bbox_target", "bbox_weight", "im_info", "gt_boxes"}
    losses = {"rpn_cls_prob", "rpn_bbox_loss", "cls_prob", "bbox_loss", "label_blockgrad"}
    assert kinds["input"] == inputs
    assert kinds["loss"] == losses
    assert kinds["proposal"] == {"rois", "proposal_target"}
    assert kinds["other"] == {"rpn_cls_act", "roi_pool"}


def test_the_classic_test_graph_decodes_in_one_step():
    steps = outline(*graph(train=False))
    found = arrows(steps)
    assert {("bbox_pred", "decode and clip boxes"), ("cls_prob", "NMS, IoU 0.3")} <= set(found)
    outputs = {s.name for s in steps.steps if s.kind == "loss"}
    assert outputs == {"det_boxes", "det_scores", "det_classes", "proposals"}
    assert all(found.values()), "without a loss no arrow is set apart"
    assert step(steps, "decode and clip boxes").kind == "other", "constants are not weights"


def pyramid():
    """Two residual units in a stage, and a head with shared weights on two levels."""
    data = mx.sym.Variable("data")
    for unit in (1, 2):
        name = f"stage1_unit{unit}"
        path = mx.sym.Convolution(data, num_filter=3, kernel=(1, 1), name=f"{name}_conv")
        path = mx.sym.BatchNorm(path, name=f"{name}_bn")
        data = mx.sym.Activation(path + data, act_type="relu", name=f"{name}_relu")
    small = mx.sym.Pooling(data, kernel=(2, 2), stride=(2, 2), pool_type="max", name="p6")
    weights = {name: mx.sym.Variable(f"head_{name}") for name in ("weight", "bias")}
    head = {"num_filter": 4, "kernel": (3, 3), **weights}
    levels = [mx.sym.Convolution(x, name=f"head_{i}", **head) for i, x in enumerate((data, small))]
    levels = [mx.sym.reshape(level, shape=(0, -1)) for level in levels]
    return mx.sym.MakeLoss(mx.sym.concat(*levels, dim=1), name="loss")


def test_stages_and_shared_heads_are_one_step_each():
    steps = outline(pyramid(), {"data": (1, 3, 8, 8)})
    assert [s.name for s in steps.steps] == ["data", "stage1", "p6", "head_0", "loss"]
    assert step(steps, "stage1").lines == ("2 × 1×1, 3", "1×3×8×8")
    assert step(steps, "head_0").lines[0] == "on 2 levels: 3×3, 4"
    assert arrows(steps)["stage1", "head_0"]


def chain(*names):
    """A chain of 1x1 convolutions with these names, and a loss; "stop" blocks gradients."""
    data = mx.sym.Variable("data")
    for name in names:
        if name == "stop":
            data = mx.sym.BlockGrad(data, name=name)
        else:
            data = mx.sym.Convolution(data, num_filter=3, kernel=(1, 1), name=name)
    return outline(mx.sym.MakeLoss(data, name="loss"), {"data": (1, 3, 8, 8)})


def test_a_stage_that_another_interrupts_stays_unfolded():
    names = ["conv1_1", "conv2_1", "conv1_2"]
    assert [s.name for s in chain(*names).steps] == ["data", *names, "loss"]


def test_no_gradient_flows_back_over_a_stop():
    found = arrows(chain("a", "stop", "b"))
    expected = {("data", "a"): False, ("a", "stop"): False, ("stop", "b"): False}
    assert found == {**expected, ("b", "loss"): True}


@pytest.mark.parametrize(("name", "train"), GRAPHS)
def test_drawings_are_equal_and_small(tmp_path, name, train):
    symbol, shapes = graph(name, train)
    paths = [tmp_path / "one.png", tmp_path / "other.png"]
    for path in paths:
        draw_graph(symbol, shapes, path, f"{name} costs $1, not $2")
    one, other = (path.read_bytes() for path in paths)
    assert one == other
    assert len(one) < 300_000
    assert min(Image.open(paths[0]).size) > 600


@pytest.mark.parametrize(("name", "train"), GRAPHS)
@pytest.mark.parametrize("rules", [graph_figure.RULES, ()], ids=["folded", "unfolded"])
def test_boxes_are_apart_and_arrows_point_down(name, train, rules):
    layout = lay_out(outline(*graph(name, train), rules))
    for a, b in combinations([item for item in layout.items if item.steps], 2):
        apart_x = abs(a.x - b.x) >= (a.width + b.width) / 2 - 1e-6
        assert apart_x or a.top + a.height <= b.top or b.top + b.height <= a.top
    for upper, lower in layout.segments:
        assert layout.items[upper].row + 1 == layout.items[lower].row


def test_wrong_inputs_are_named(tmp_path):
    symbol, shapes = graph()
    with pytest.raises(ValueError, match="image"):
        draw_graph(symbol, {**shapes, "image": (1,)}, tmp_path / "graph.png")
    assert not list(tmp_path.iterdir())


def test_help_does_not_load_mxnet():
    code = (
        "import runpy, sys\n"
        "tool = sys.argv[1]; sys.path.insert(0, tool.rpartition('/')[0])\n"
        "sys.argv = [tool, '--help']\n"
        "try: runpy.run_path(tool, run_name='__main__')\n"
        "except SystemExit: print('mxnet' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(TOOL)], capture_output=True, text=True, check=True
    )
    assert "--network" in done.stdout
    assert done.stdout.split()[-1] == "False"
