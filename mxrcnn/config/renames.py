"""Settings of the model that had other names or values: configs saved with them still load.

Stored configs and `--set` both go through these tables. An old name counts only where the network
has no field of that name, and has the one that it became.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Merged:
    """Several old fields that became one.

    old: their names, which may include the new one. new: the name of the field now.
    value(given, model): the new field's value. given has those of the old fields that are set,
    by name; model is the section that they are set in.
    """

    old: tuple[str, ...]
    new: str
    value: Callable[[Mapping[str, Any], Any], Any]


#: old name -> new name, both without "model."; a field of a group is "form.NAME". A field that only
#: moved into a group needs no entry: its bare name is still found
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

#: new name -> {old value: new value}, for values that are text
REVALUED: dict[str, dict[str, str]] = {
    "body": {
        "regnet_x_400mf": "regnetx_400mf",
        "regnet_x_400mf_torchvision": "regnetx_400mf_torchvision",
    },
}


def _body(given: Mapping[str, Any], model: Any) -> str:
    """The name of a body that was a depth, a form and, for other networks than ResNet, a name."""
    name = given.get("body", "resnet")
    if name != "resnet":
        return name
    number, _, form_now = model.body.removeprefix("resnet").partition("_")
    form = given.get("body_form", form_now or "torchvision")
    return f"resnet{given.get('depth', number)}" + (f"_{form}" if form != "torchvision" else "")


MERGED: tuple[Merged, ...] = (Merged(("body", "depth", "body_form"), "body", _body),)
