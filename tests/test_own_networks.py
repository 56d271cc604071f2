"""A body and a detector from outside the package, through the public registries; any body in any
detector that finds its strides."""

import pytest

import symnet
from mxrcnn.config import ConfigError, make_config, override
from symnet import bodies, get_detector, list_detectors, register_detector
from symnet.bodies import Body, get_body, list_bodies, register_body
from symnet.config import presets
from symnet.config.two_stage import PyramidConfig
from symnet.faster_rcnn_fpn import pool_from_levels, pyramid
from symnet.machine import mx
from symnet.parts.layers import conv, fc, relu
from symnet.two_stage import Stages, make_detector
from tests.test_symnet_graph import Small, check_update, inferred

# --- a body -------------------------------------------------------------------------------------

CHANNELS = {4: 16, 8: 24, 16: 32, 32: 40}


def plain_maps(data, norm):
    """A convolution of stride 2 for each level, after a stem: {4: c2, ..., 32: c5}."""
    data, maps = relu(conv(data, "plain.stem", 8, stride=2), "plain.stem_relu"), {}
    for stride, filters in CHANNELS.items():
        data = relu(conv(data, f"plain.c{stride}", filters, stride=2), f"plain.c{stride}_relu")
        maps[stride] = data
    return maps


PLAIN = Body(plain_maps, CHANNELS, (("plain.stem",), *((f"plain.c{s}_",) for s in CHANNELS)))

# --- a detector: one fully connected layer, with a dropout, instead of two ------------------------


def one_layer(config, maps, rois, train):
    pooled = pool_from_levels(config, maps, rois, config.box_roi_size, 2, "box_pool")
    hidden = relu(fc(pooled, "box_head.fc", config.box_head_dim, side=7), "box_head.relu")
    return mx.sym.Dropout(hidden, p=0.1)


LIGHT_HEAD = make_detector(
    "faster_rcnn_light_head",
    PyramidConfig,
    Stages(pyramid, one_layer),
    defaults=presets.TORCHVISION,
    quick=presets.PYRAMID_QUICK,
)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(symnet, "_REGISTERED", {})
    monkeypatch.setattr(bodies, "_BODIES", dict(bodies._BODIES))
    register_body("plain", PLAIN)
    register_detector(LIGHT_HEAD)


def test_an_own_body_in_an_own_detector_trains_and_tests(registered):
    assert "faster_rcnn_light_head" in list_detectors()
    small = Small("faster_rcnn_light_head", {"model.body": "plain", "model.trainable_layers": 3})
    names = set(small.network.shapes)
    assert {"plain.c32_weight", "box_head.fc_weight"} <= names
    assert {n for n in names if small.is_fixed(n)} == {
        f"plain.{layer}_{leaf}" for layer in ("stem", "c4") for leaf in ("weight", "bias")
    }
    check_update(small)
    symbol = small.detector.test_symbol(small.config.model)
    _, outputs = inferred(symbol, data=(1, 3, 96, 160), im_info=(1, 3))
    assert outputs["det_boxes_output"] == (1, 100, 4)


@pytest.mark.parametrize("again", [("body", "plain"), ("detector", "faster_rcnn_light_head")])
def test_a_name_is_taken_once(registered, again):
    with pytest.raises(ValueError, match=again[1]):
        register_body("plain", PLAIN) if again[0] == "body" else register_detector(LIGHT_HEAD)


@pytest.mark.parametrize(
    ("network", "body"),
    [
        ("faster_rcnn_r50_fpn", "regnetx_400mf"),
        ("mask_rcnn_r50_fpn", "mobilenet1_0"),
        ("fcos_r50_fpn", "resnet50_v2"),
        ("faster_rcnn_vgg16", "resnet18"),
        ("faster_rcnn_vgg16", "regnetx_400mf"),
        ("faster_rcnn_r50v1_c4", "resnet18_v1d"),
    ],
)
def test_any_body_trains_where_it_has_the_strides(network, body):
    quick = {"model.width": 1.0} if network == "faster_rcnn_vgg16" else {}
    small = Small(network, {**quick, "model.body": body, "model.norm": "frozen"})
    assert any(name.startswith(get_body(body).prefixes) for name in small.network.shapes)
    check_update(small)


@pytest.mark.parametrize("network", list_detectors())
def test_a_body_that_does_not_fit_is_refused(network):
    """With the reason; every body either fits or is refused."""
    config, fitting = make_config(network), 0
    for body in list_bodies():
        strides = set(config.model.body_strides()) <= get_body(body).channels.keys()
        head = "c4" not in network or "v2" in network or get_body(body).head is not None
        if strides and head:
            override(config, {"model.body": body})
            fitting += 1
        else:
            with pytest.raises(ConfigError, match=rf"model\.body='{body}': has no"):
                override(config, {"model.body": body})
    assert fitting > (0 if "mobilenet" in network else 5)
    with pytest.raises(ConfigError, match=r"model\.body='resnet51': no body .* resnet50"):
        override(config, {"model.body": "resnet51"})


def test_settings_that_a_body_does_not_have_are_refused():
    vgg16 = make_config("faster_rcnn_vgg16")
    with pytest.raises(ConfigError, match=r"model\.width=0\.5: resnet50 has no such setting"):
        override(vgg16, {"body": "resnet50", "width": 0.5})
    with pytest.raises(ConfigError, match=r"model\.norm='group': resnet50_v2 has frozen and batch"):
        override(vgg16, {"body": "resnet50_v2", "norm": "group"})
    assert get_detector("faster_rcnn_vgg16").config(width=0.5).body == "vgg16"
