"""Former names and values of the model's settings, so that configs saved with them still load.

Stored configs and `--set` both go through these tables. A former name is only translated if the
network has no field of that name, and has the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mxrcnn.config.sections import ConfigError


@dataclass(frozen=True)
class Merged:
    """Several former fields that are one field now.

    old: their names, which may include the new one. new: the field that they became.
    value(given, model): the new field's value. given has the former fields that are being set, by
    name; model is the section that they are set in. ConfigError if they contradict each other.
    """

    old: tuple[str, ...]
    new: str
    value: Callable[[Mapping[str, Any], Any], Any]


#: former name -> new name, without "model."; a group's field is "form.NAME". A field that has only
#: moved into a group needs no entry: its bare name is found there
RENAMED: dict[str, str] = {
    "rpn_fg_overlap": "rpn_fg_iou_thresh",
    "rpn_bg_overlap": "rpn_bg_iou_thresh",
    "rpn_batch_rois": "rpn_batch_size_per_image",
    "rpn_fg_fraction": "rpn_positive_fraction",
    "rpn_pre_topk": "rpn_pre_nms_top_n_train",
    "rpn_pre_topk_test": "rpn_pre_nms_top_n_test",
    "rpn_post_topk": "rpn_post_nms_top_n_train",
    "rpn_post_topk_test": "rpn_post_nms_top_n_test",
    "rpn_pre_nms_top_n": "rpn_pre_nms_top_n_train",
    "rpn_post_nms_top_n": "rpn_post_nms_top_n_train",
    "rcnn_fg_overlap": "box_fg_iou_thresh",
    "rcnn_batch_rois": "box_batch_size_per_image",
    "rcnn_fg_fraction": "box_positive_fraction",
    "rcnn_pooled_size": "box_roi_size",
    "rcnn_bbox_stds": "box_bbox_stds",
    "rcnn_dropout": "box_dropout",
    "fc_dim": "box_head_dim",
    **dict.fromkeys(("test_score_thresh", "box_score_thresh"), "score_thresh"),
    **dict.fromkeys(("test_nms_thresh", "box_nms_thresh"), "nms_thresh"),
    **dict.fromkeys(("test_pre_nms_top_n", "box_pre_nms_top_n"), "pre_nms_top_n"),
    **dict.fromkeys(("test_max_detections", "box_detections_per_img"), "detections_per_img"),
    "centre_radius": "center_sampling_radius",
}

#: name -> {former value: new value}, for text
REVALUED: dict[str, dict[str, str]] = {
    "body": {
        "regnet_x_400mf": "regnetx_400mf",
        "regnet_x_400mf_torchvision": "regnetx_400mf_torchvision",
    },
}


def _body(given: Mapping[str, Any], model: Any) -> str:
    """The current body name for a former ResNet depth and form, or for MobileNet with both set."""
    name = given.get("body", "resnet" if model.body.startswith("resnet") else model.body)
    if name == "mobilenet1_0" and "body" in given:
        return name
    if name != "resnet":
        others = ", ".join(f"model.{key}={given[key]!r}" for key in given if key != "body")
        raise ConfigError(f"model.body={name!r} and {others}: a body is one name, see model.body")
    number, _, form = model.body.removeprefix("resnet").partition("_")
    form = given.get("body_form", form or "torchvision")
    return f"resnet{given.get('depth', number)}" + (f"_{form}" if form != "torchvision" else "")


MERGED: tuple[Merged, ...] = (Merged(("body", "depth", "body_form"), "body", _body),)
