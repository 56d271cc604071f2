"""Invalid values in all networks' configs are refused, naming field, value and range."""

from __future__ import annotations

import re
import typing

import pytest

from mxrcnn.config import (
    ConfigError,
    dump_json,
    from_dict,
    load_json,
    make_config,
    override,
    to_dict,
)
from mxrcnn.config.sections import fields_of
from mxrcnn.training.configure import QUICK
from symnet import get_detector, list_detectors
from symnet.config.ranges import RANGES

NAN, INF = float("nan"), float("inf")

#: values of a field that no network takes
WRONG = {
    "num_classes": (1, 0, -3),
    "unused_classes": (-1,),
    "trainable_layers": (-1, 7),
    "units": ((3, 4, 6), (3, 4, 6, 3, 1), (3, 4, 0, 3)),
    "width": (0.0, -1.0, INF, NAN),
    "box_head_dim": (0,),
    "fpn_channels": (0, -256),
    "anchor_sizes": ((32, 64, 128, 256), (32, 64, 128, 256, 512, 1024), (32, 64, 0, 256, 512), ()),
    "anchor_scales": ((), (8, -16), (8, NAN)),
    "anchor_ratios": ((), (0.5, 0)),
    "size_range": ((4.0,), (4.0, 8.0, 16.0), (8.0, 4.0), (4.0, 7.0), (0.0, 4.0)),
    "center_sampling_radius": (-0.5,),
    "rpn_channels": (-1,),
    "rpn_batch_size_per_image": (0,),
    "rpn_positive_fraction": (-0.1, 1.5, 2.0),
    "rpn_fg_iou_thresh": (1.1, 0.2),  # the other is 0.3
    "rpn_bg_iou_thresh": (-0.1, 0.8),  # the other is 0.7
    "rpn_bbox_stds": ((1.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0)),
    "rpn_smooth_l1_beta": (0.0,),
    "box_smooth_l1_beta": (0.0, -1.0),
    "rpn_nms_thresh": (-0.1, 1.1, NAN),
    "rpn_score_thresh": (-0.1, 1.1),
    "rpn_min_size": (-1,),
    "rpn_pre_nms_top_n_train": (-2,),
    "rpn_post_nms_top_n_train": (0,),
    "rpn_post_nms_top_n_test": (0, -1),
    "box_batch_size_per_image": (0,),
    "box_positive_fraction": (2.0, -0.5),
    "box_fg_iou_thresh": (1.5,),
    "box_bbox_stds": ((0.1, 0.1, 0.2), (0.1, 0.1, 0.2, -0.2), (0.1,) * 5),
    "box_roi_size": (0,),
    "box_dropout": (-0.1, 1.0),
    "box_sampling_ratio": (-1,),
    "box_canonical_size": (0.0,),
    "box_head_convs": (-1,),
    "bbox_log_clip": (-1.0,),
    "mask_channels": (0,),
    "mask_layers": (-1,),
    "mask_roi_size": (0,),
    "mini_mask": (-1,),
    "head_layers": (-1,),
    "prior": (0.0, 1.0),
    "focal_alpha": (1.5,),
    "focal_gamma": (-2.0,),
    "box_loss_weight": (-1.0,),
    "score_thresh": (-0.1, 1.1, NAN),
    "nms_thresh": (1.5, -0.5),
    "pre_nms_top_n": (-2,),
    "detections_per_img": (0,),
    "sampling_seed": (-1,),
}

#: what only some networks refuse
OWN = {
    "faster_rcnn_r50v1_c4": {"rpn_channels": (0,), "rpn_pre_nms_top_n_test": (0, -1)},
    "mask_rcnn_r50v1_c4": {"rpn_channels": (0,), "box_positive_fraction": (0.0, 0.003)},
    "mask_rcnn_r50_fpn": {
        "box_positive_fraction": (0.0, 0.0009),
        "rpn_pre_nms_top_n_train": (0, -1),
    },
    "fcos_r50_fpn": {"pre_nms_top_n": (0, -1)},
}


def number_fields(network: str) -> set[str]:
    """The fields of a network's config that are numbers or tuples of numbers."""
    hints = fields_of(get_detector(network).config())
    return {
        name.rpartition(".")[2]
        for name, hint in hints
        if {hint, *typing.get_args(hint)} & {int, float}
    }


@pytest.mark.parametrize("network", list_detectors())
def test_values_out_of_range_are_named(network):
    config = make_config(network)
    seen = 0
    for table in (WRONG, OWN.get(network, {})):
        for name, values in table.items():
            for value in values if name in number_fields(network) else ():
                with pytest.raises(ConfigError) as caught:
                    override(config, {f"model.{name}": value})
                found = re.match(
                    r"model\.([\w.]+)=(.+?): (must|leaves|objects) .+", str(caught.value)
                )
                assert found, str(caught.value)
                assert name in str(caught.value)
                seen += 1
    assert seen > 20


def test_every_number_has_a_range_and_every_range_a_number():
    fields = {network: number_fields(network) for network in list_detectors()}
    for network, names in fields.items():
        assert names <= RANGES.keys(), network
    assert set.union(*fields.values()) == RANGES.keys()


@pytest.mark.parametrize(
    ("network", "name", "value", "text"),
    [
        ("faster_rcnn_r50_fpn", "trainable_layers", -1, "at least 0 and at most 5"),
        ("fcos_r50_fpn", "trainable_layers", 6, "at least 0 and at most 5"),
        ("faster_rcnn_mobilenet_v3_large_fpn", "trainable_layers", 7, "at least 0 and at most 6"),
        ("mask_rcnn_r50_fpn", "anchor_sizes", (8.0,) * 4, "five numbers, each above 0"),
        ("faster_rcnn_vgg16", "num_classes", 1, "at least 2"),
        ("faster_rcnn_vgg16", "box_positive_fraction", 2.0, "at least 0 and at most 1"),
        ("faster_rcnn_zf", "box_dropout", 1.0, "at least 0 and below 1"),
        ("faster_rcnn_r50_fpn", "rpn_fg_iou_thresh", 0.2, r"above model\.rpn_fg_iou_thresh=0.2"),
    ],
)
def test_the_message_tells_what_is_allowed(network, name, value, text):
    with pytest.raises(ConfigError, match=text) as caught:
        override(make_config(network), {f"model.{name}": value})
    assert repr(value) in str(caught.value)


def test_fields_that_bound_each_other_are_set_together():
    """In any order; set one by one, a valid pair could pass through an invalid state."""
    for names in (("fg", "bg"), ("bg", "fg")):
        values = {"fg": 0.25, "bg": 0.2}
        settings = {f"model.rpn_{name}_iou_thresh": values[name] for name in names}
        config = override(make_config("faster_rcnn_r50_fpn"), settings)
        assert (config.model.rpn_fg_iou_thresh, config.model.rpn_bg_iou_thresh) == (0.25, 0.2)


@pytest.mark.parametrize("network", list_detectors())
def test_presets_and_stored_configs_are_in_range(network, tmp_path):
    detector = get_detector(network)
    for preset in ({}, {**QUICK, **detector.quick}, detector.scratch, *detector.presets.values()):
        config = override(make_config(network), preset)
        assert from_dict(to_dict(config)) == config
    broken = tmp_path / "config.json"
    broken.write_text(re.sub(r'"num_classes": \d+', '"num_classes": 1', dump_json(config)))
    with pytest.raises(ConfigError, match=rf"{broken}: model\.num_classes=1: must be at least 2"):
        load_json(broken)
