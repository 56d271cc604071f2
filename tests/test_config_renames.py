"""Groups of settings, and old names and values of settings, on a small made-up config."""

from __future__ import annotations

import dataclasses
import json
from operator import attrgetter
from typing import Literal

import pytest

from mxrcnn.config import (
    ConfigError,
    dump_json,
    from_dict,
    make_config,
    override,
    parse_settings,
    renames,
    stored,
)
from mxrcnn.config.listing import list_settings
from mxrcnn.config.overrides import full_name
from mxrcnn.config.sections import fields_of
from symnet import get_detector, list_detectors


@dataclasses.dataclass(frozen=True)
class Form:
    box_cut_last: bool = False  #: cut boxes to the image after NMS
    anchors: Literal["corner", "centre"] = "corner"  #: where anchors lie
    offset: int = 0

    def __post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"model.form.offset={self.offset}: must be at least 0")


@dataclasses.dataclass(frozen=True)
class Model:
    num_classes: int = 2  #: with background
    form: Form = Form()  #: only for weights of other projects
    body: Literal["resnet50", "resnet50_v1d", "resnet18"] = "resnet50"
    top_n: int = 100  #: candidates before NMS


def body_of(given, model):
    if not given.keys() & {"depth", "body_form"}:
        return given["body"]
    depth = given.get("depth", 50)
    return f"resnet{depth}" + ("_v1d" if given.get("body_form") == "v1d" else "")


@pytest.fixture
def config(monkeypatch):
    """A config with this model, and tables with the former names of its fields."""
    made = dataclasses.replace(make_config("fcos_r50_fpn"), model=Model())
    monkeypatch.setattr(stored, "make_config", lambda network: made)
    monkeypatch.setitem(renames.RENAMED, "topk", "top_n")
    monkeypatch.setitem(renames.RENAMED, "anchor_form", "form.anchors")
    monkeypatch.setitem(renames.RENAMED, "momentum", "top_n")  # but that is a setting of today
    monkeypatch.setitem(renames.RENAMED, "gone", "no_such_field")
    monkeypatch.setitem(renames.REVALUED, "form.anchors", {"last_pixel": "centre"})
    merged = renames.Merged(("depth", "body_form", "body"), "body", body_of)
    monkeypatch.setattr(renames, "MERGED", (merged,))
    return made


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("model.form.box_cut_last=True", "model.form.box_cut_last", True),
        ("form.box_cut_last=True", "model.form.box_cut_last", True),
        ("model.box_cut_last=True", "model.form.box_cut_last", True),
        ("box_cut_last=True", "model.form.box_cut_last", True),
        ("topk=7", "model.top_n", 7),
        ("model.topk=7", "model.top_n", 7),
        ("anchor_form=last_pixel", "model.form.anchors", "centre"),
        ("model.anchor_form=centre", "model.form.anchors", "centre"),
        ("anchors=last_pixel", "model.form.anchors", "centre"),
        ("body=resnet50_v1d", "model.body", "resnet50_v1d"),
        ("depth=18", "model.body", "resnet18"),
        ("model.body_form=v1d", "model.body", "resnet50_v1d"),
        ("momentum=0.5", "train.momentum", 0.5),
    ],
)
def test_settings_by_all_their_names(config, word, name, value):
    changed = override(config, parse_settings([word]))
    found = changed
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    if "depth" not in word and "body_form" not in word:
        assert full_name(config, word.partition("=")[0]) == name
    assert from_dict(json.loads(dump_json(changed))) == changed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("box_cut_lst=1", r"unknown setting box_cut_lst; did you mean box_cut_last\?"),
        ("model.form.box_cut=1", r"model\.form\.box_cut; did you mean model\.form\.box_cut_last\?"),
        ("frm.offset=1", r"unknown setting frm\.offset; did you mean model\.form\.offset\?"),
        ("form.offset=half", r"model\.form\.offset='half': expected int"),
        ("offset=-1", r"model\.form\.offset=-1: must be at least 0"),
        ("train.topk=1", r"unknown setting train\.topk"),
        ("gone=1", "unknown setting gone"),
        ("topk=1 top_n=2", "topk=1 and top_n=2 are the same setting"),
    ],
)
def test_refused_settings(config, words, message):
    with pytest.raises(ConfigError, match=message):
        override(config, parse_settings(words.split()))


def test_the_last_of_two_keys_wins(config):
    assert override(config, {"lr": 1, "train.lr": 2}).train.lr == 2
    assert override(config, {"topk": 3, "model.top_n": 3}).model.top_n == 3


def test_a_bare_name_that_a_section_and_its_group_have(config):
    @dataclasses.dataclass(frozen=True)
    class Twice:
        offset: int = 1
        form: Form = Form()

    config = dataclasses.replace(config, model=Twice())
    with pytest.raises(ConfigError, match=r"say model\.offset or model\.form\.offset"):
        override(config, {"offset": 2})
    assert override(config, {"model.offset": 2}).model == Twice(offset=2)
    assert override(config, {"form.offset": 2}).model == Twice(form=Form(offset=2))


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ({"topk": 5, "box_cut_last": True}, {"top_n": 5, "form": Form(True)}),
        ({"anchor_form": "last_pixel"}, {"form": Form(False, "centre")}),
        ({"body": "resnet", "depth": 50, "body_form": "v1d"}, {"body": "resnet50_v1d"}),
        ({"form": {"offset": 4}}, {"form": Form(offset=4)}),
        ({"form": {"box_cut_last": True}, "box_cut_last": True}, {"form": Form(True)}),
    ],
)
def test_configs_saved_with_old_names(config, model, changed):
    loaded = from_dict({"network": config.network, "model": model})
    assert loaded == dataclasses.replace(config, model=Model(**changed))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"topk": 5, "top_n": 6}, r"model\.topk=5 and model\.top_n=6 are the same setting"),
        ({"form": 3}, "model.form=3: expected fields"),
        ({"form": {"topk": 3}}, r"unknown setting model\.form\.topk"),
        ({"top_n": {"a": 3}}, r"model\.top_n=\{'a': 3\}: expected int"),
    ],
)
def test_saved_configs_that_cannot_be(config, model, message):
    with pytest.raises(ConfigError, match=message):
        from_dict({"network": config.network, "model": model})


def test_a_group_is_listed_under_its_own_heading(config):
    lines = list_settings(config).splitlines()
    at = lines.index("model.form: only for weights of other projects")
    assert [line.split()[0] for line in lines[at - 3 :]] == [
        *("model.num_classes", "model.body", "model.top_n", "model.form:"),
        *("model.form.box_cut_last", "model.form.anchors", "model.form.offset"),
    ]
    assert lines[at + 1].split(maxsplit=3)[3] == "cut boxes to the image after NMS"


def test_every_renamed_setting_leads_to_one_that_some_network_has():
    known = {name for network in list_detectors() for name, _ in fields_of(make_config(network))}
    now = [*renames.RENAMED.values(), *renames.REVALUED, *(m.new for m in renames.MERGED)]
    assert {f"model.{name}" for name in now} <= known


#: by network: the model of a config saved before the renames, and what it is now
SAVED = {
    "faster_rcnn_vgg16": (
        {
            "rpn_fg_overlap": 0.6,
            "rpn_bg_overlap": 0.2,
            "rpn_batch_rois": 64,
            "rpn_fg_fraction": 0.4,
            "rpn_pre_topk": 70,
            "rpn_pre_topk_test": 60,
            "rpn_post_topk": 50,
            "rpn_post_topk_test": 40,
            "rcnn_fg_overlap": 0.55,
            "rcnn_batch_rois": 32,
            "rcnn_fg_fraction": 0.3,
            "rcnn_pooled_size": 6,
            "rcnn_bbox_stds": [0.2] * 4,
            "rcnn_dropout": 0.1,
            "fc_dim": 64,
            "test_score_thresh": 0.01,
            "test_nms_thresh": 0.4,
            "test_pre_nms_top_n": 99,
            "test_max_detections": 9,
        },
        {
            "rpn_fg_iou_thresh": 0.6,
            "rpn_bg_iou_thresh": 0.2,
            "rpn_batch_size_per_image": 64,
            "rpn_positive_fraction": 0.4,
            "rpn_pre_nms_top_n_train": 70,
            "rpn_pre_nms_top_n_test": 60,
            "rpn_post_nms_top_n_train": 50,
            "rpn_post_nms_top_n_test": 40,
            "box_fg_iou_thresh": 0.55,
            "box_batch_size_per_image": 32,
            "box_positive_fraction": 0.3,
            "box_roi_size": 6,
            "box_bbox_stds": (0.2,) * 4,
            "box_dropout": 0.1,
            "box_head_dim": 64,
            "score_thresh": 0.01,
            "nms_thresh": 0.4,
            "pre_nms_top_n": 99,
            "detections_per_img": 9,
            "trainable_layers": 5,  # what those runs had, which are frozen by train.fixed
        },
    ),
    "faster_rcnn_r50_fpn": (
        {
            "depth": 101,
            "body_form": "v1d",
            "body": "resnet",
            "unused_classes": 3,
            "rpn_pre_nms_top_n": 70,
            "rpn_post_nms_top_n": 50,
            "box_score_thresh": 0.01,
            "box_nms_thresh": 0.4,
            "box_pre_nms_top_n": 99,
            "box_detections_per_img": 9,
            "box_cut_last": True,
            "anchor_form": "last_pixel",
        },
        {
            "body": "resnet101_v1d",
            "form.unused_classes": 3,
            "form.box_cut_last": True,
            "rpn_pre_nms_top_n_train": 70,
            "rpn_post_nms_top_n_train": 50,
            "score_thresh": 0.01,
            "nms_thresh": 0.4,
            "pre_nms_top_n": 99,
            "detections_per_img": 9,
            "form.anchor_form": "last_pixel",
        },
    ),
    "mask_rcnn_r50_fpn": (
        {"depth": 50, "body_form": "torchvision", "body": "mobilenet1_0"},
        {"body": "mobilenet1_0"},
    ),
    "faster_rcnn_r50_v1b": (
        {"depth": 34, "body_form": "torchvision"},
        {"body": "resnet34", "form.rpn_inside_only": False, "form.rpn_best_below_bg": True},
    ),
    "fcos_regnetx_400mf": (
        {"body": "regnet_x_400mf_torchvision", "centre_radius": 2.0},
        {"body": "regnetx_400mf_torchvision", "center_sampling_radius": 2.0},
    ),
}


@pytest.mark.parametrize("network", SAVED)
def test_runs_saved_before_the_renames(network):
    saved, now = SAVED[network]
    loaded = from_dict({"network": network, "model": saved})
    expected = make_config(network)
    assert loaded.network == expected.network
    assert {name: attrgetter(f"model.{name}")(loaded) for name in now} == now
    names = [name for name, _ in fields_of(expected)]
    changed = {n for n in names if attrgetter(n)(loaded) != attrgetter(n)(expected)}
    before = {f"model.{name}" for name in get_detector(network).before}
    assert changed <= {f"model.{name}" for name in now} | before


@pytest.mark.parametrize(
    ("network", "words", "body"),
    [
        ("faster_rcnn_r50_fpn", "depth=18", "resnet18"),
        ("faster_rcnn_r50_fpn", "body=resnet50_keras", "resnet50_keras"),
        ("fcos_regnetx_400mf", "body=regnet_x_400mf", "regnetx_400mf"),
    ],
)
def test_old_ways_to_choose_a_body(network, words, body):
    config = override(make_config(network), parse_settings(words.split()))
    assert config.model.body == body
    if body.startswith("resnet50"):  # the form stays
        assert override(config, {"model.depth": 101}).model.body == body.replace("50", "101")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("faster_rcnn_r50_fpn", "body=resnet50_v1d depth=18"),
        ("fcos_regnetx_400mf", "depth=18"),
    ],
)
def test_a_depth_that_the_body_contradicts(network, words):
    with pytest.raises(ConfigError, match=r"model\.body='\w+' and model\.depth=18: a body is one"):
        override(make_config(network), parse_settings(words.split()))
