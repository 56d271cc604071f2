"""Runs from before the settings were renamed: their configs still load, and give the same graphs.

old_configs.json holds configs as they were saved then, and what those graphs and frozen parameters
were, as hashes.
"""

import hashlib
import json
from pathlib import Path

import pytest

from mxrcnn.config import from_dict, make_config, override, to_dict
from symnet import get_detector, list_detectors
from symnet.machine import mx

OLD = json.loads((Path(__file__).parent / "old_configs.json").read_text())


def digest(values) -> str:
    return hashlib.sha1(json.dumps(values).encode()).hexdigest()[:12]


def structure(symbol) -> list:
    """Each node's operator, name, and the names of its inputs."""
    nodes = json.loads(symbol.tojson())["nodes"]
    return [[n["op"], n["name"], [nodes[i]["name"] for i, *_ in n["inputs"]]] for n in nodes]


def digests(config) -> dict[str, str]:
    """Of the training graph, the test graph, and the names of the frozen parameters."""
    detector = get_detector(config.network)
    with mx.name.NameManager():
        train = detector.train_symbol(config.model, 2)
    with mx.name.NameManager():
        test = detector.test_symbol(config.model)
    fixed = tuple(config.train.fixed)
    frozen = [
        name
        for name in train.list_arguments()
        if detector.frozen(config.model, name) or name.startswith(fixed)
    ]
    return {
        "train": digest(structure(train)),
        "test": digest(structure(test)),
        "frozen": digest(sorted(frozen)),
    }


def test_the_networks_of_then_are_still_there():
    then = {get_detector(old["config"]["network"]).name for old in OLD.values()}
    assert len(then) == 12
    assert then <= {*list_detectors()}


@pytest.mark.parametrize("name", OLD)
def test_old_configs_mean_the_same_graphs(name):
    config = from_dict(OLD[name]["config"])
    assert digests(config) == OLD[name]["digests"]
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("network", "old", "new"),
    [
        ("faster_rcnn_vgg16", {"test_nms_thresh": 0.4}, {"nms_thresh": 0.4}),
        ("faster_rcnn_vgg16", {"model.fc_dim": 64}, {"model.box_head_dim": 64}),
        ("faster_rcnn_r50_fpn", {"box_nms_thresh": 0.4}, {"model.nms_thresh": 0.4}),
        ("faster_rcnn_r50_fpn", {"depth": 18}, {"body": "resnet18"}),
        ("faster_rcnn_r50_fpn", {"body_form": "v1d"}, {"body": "resnet50_v1d"}),
        ("faster_rcnn_r50_fpn", {"model.box_cut_last": True}, {"model.form.box_cut_last": True}),
        ("faster_rcnn_r50_v1b", {"depth": 101}, {"body": "resnet101"}),
        ("fcos_r50_fpn", {"body": "regnet_x_400mf"}, {"body": "regnetx_400mf"}),
    ],
)
def test_settings_take_old_names(network, old, new):
    config = make_config(network)
    assert override(config, old) == override(config, new) != config


def test_old_names_of_networks():
    assert make_config("faster_rcnn_r50_v1b").network == "faster_rcnn_r50v1_c4"
    assert get_detector("faster_rcnn_r101_c4") is get_detector("faster_rcnn_r101v2_c4")
    assert "faster_rcnn_r50_v1b" not in list_detectors()
