"""Presets: the detectors' defaults, quick presets, and other projects' settings.

Keys are `section.field`. A preset only lists what differs from the config's defaults.
"""

from __future__ import annotations

from typing import Any

#: ImageNet's mean and standard deviation for pixels 0-255, torchvision's resizing and training
TORCHVISION = {
    "data.mean": (123.675, 116.28, 103.53),
    "data.std": (58.395, 57.12, 57.375),
    "data.short_side": 800,
    "data.long_side": 1333,
    "data.resize": "linear",
    "data.size_rounding": "floor",
    "train.lr": 0.00125,
    "train.weight_decay": 1e-4,
    "train.clip_gradient": 0.0,
    "train.warmup_steps": 1000,
    "train.warmup_factor": 0.001,
}

#: for quick presets without pretrained weights: a short warm-up, clipped gradients
_QUICK_TRAINING = {
    "train.warmup_steps": 100,
    "train.warmup_factor": 0.1,
    "train.clip_gradient": 5.0,
}

#: a slim body and few proposals
_TWO_STAGE_QUICK = {
    "model.body": "resnet18",
    "model.rpn_pre_nms_top_n_train": 500,
    "model.rpn_post_nms_top_n_train": 500,
    "model.rpn_pre_nms_top_n_test": 200,
    "model.rpn_post_nms_top_n_test": 200,
    **_QUICK_TRAINING,
}

PYRAMID_QUICK = {
    **_TWO_STAGE_QUICK,
    "model.fpn_channels": 64,
    "model.anchor_sizes": (16, 32, 64, 128, 256),
    "model.box_head_dim": 256,
    "model.box_batch_size_per_image": 64,
}

#: the low resolution of torchvision's MobileNetV3 detector, and its proposals when testing
COARSE_320 = {
    "data.short_side": 320,
    "data.long_side": 640,
    "model.rpn_pre_nms_top_n_test": 150,
    "model.rpn_post_nms_top_n_test": 150,
}

MASK_PYRAMID_QUICK = {**PYRAMID_QUICK, "model.mask_channels": 64, "model.mask_layers": 2}

#: bodies of the networks with a pyramid, by the part of the network's name
PYRAMID_BODIES = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "regnetx_400mf": "regnetx_400mf",
}
#: the body in the quick presets of those networks, if not ResNet-18
_OWN_QUICK_BODY = ("regnetx_400mf",)


def pyramid_networks(family: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, body and own settings of the quick preset, of each network of a family."""
    return [
        (f"{family}_{name}_fpn", body, {"model.body": body} if body in _OWN_QUICK_BODY else {})
        for name, body in PYRAMID_BODIES.items()
    ]


C4_QUICK = {
    **_TWO_STAGE_QUICK,
    "model.anchor_scales": (1, 2, 4, 8),
    "model.rpn_channels": 64,
    "model.rpn_min_size": 0.0,
    "model.box_roi_size": 7,
    "model.box_batch_size_per_image": 32,
}

#: a small head, and more epochs: a loss per point needs more steps than a loss per region
FCOS_QUICK = {
    "model.fpn_channels": 64,
    "model.head_layers": 2,
    "train.lr": 0.02,
    "train.epochs": 4,
    "train.lr_decay_epoch": (3,),
    **_QUICK_TRAINING,
}

#: FCOS with RegNet: three levels, points at cell centres, no background channel
FCOS_REGNET = {
    "model.body": "regnetx_400mf",
    "model.fpn_channels": 128,
    "model.p6p7": False,
    "model.form.centred": True,
    "model.form.background_channel": False,
}

#: gluoncv's pyramid, with its settings for COCO; docs/weights.md lists the remaining differences
GLUONCV_PYRAMID = {
    "model.rpn_channels": 1024,
    "model.rpn_pre_nms_top_n_train": 12000,
    "model.rpn_pre_nms_top_n_test": 6000,
    "model.rpn_min_size": 0.0,
    "model.box_smooth_l1_beta": 1.0,
    "model.score_thresh": 0.01,
    "model.form.fpn_extra": "conv",
    "model.form.anchor_form": "classic",
    "model.form.rpn_nms_all": True,
    "model.form.rpn_inside_only": True,
    "model.form.rpn_best_below_bg": False,
    "model.form.box_level_offset": 1.0,
    "model.form.box_min_size": 0.0,
    "model.form.box_cut_last": True,
    "model.form.bbox_log_clip": 4.14,
    "data.resize": "antialias",
    "data.size_rounding": "round",
    "train.warmup_factor": 1 / 3,
}

GLUONCV_MASK_PYRAMID = {
    **GLUONCV_PYRAMID,
    "model.box_roi_size": 14,
    "model.form.box_avg_pool": True,
    "model.form.bbox_log_clip": 4.42,
}

#: gluoncv's C4 detectors, trained on Pascal VOC
GLUONCV_C4 = {
    **{k: v for k, v in TORCHVISION.items() if not k.endswith("_side")},
    "data.resize": "antialias",
    "data.size_rounding": "round",
    "train.lr": 0.001,
    "train.weight_decay": 5e-4,
    "train.warmup_steps": 0,
}

#: gluoncv's training settings for C4 detectors on COCO
GLUONCV_COCO_TRAINING = {
    "data.short_side": 800,
    "data.long_side": 1333,
    "train.lr": 0.00125,
    "train.weight_decay": 1e-4,
    "train.warmup_steps": 1000,
    "train.warmup_factor": 1 / 3,
}

GLUONCV_C4_COCO = {
    "model.rpn_post_nms_top_n_test": 1000,
    "model.rpn_min_size": 0.0,
    "model.nms_thresh": 0.5,
    "model.pre_nms_top_n": 5000,
    "model.form.bbox_log_clip": 4.14,
    **GLUONCV_COCO_TRAINING,
}

#: matterport's settings: square images, RPN targets divided by standard deviations, fewer RoIs, box
#: losses averaged over the foreground, masks stored as 56 x 56 crops of their boxes
MATTERPORT = {
    "data.short_side": 800,
    "data.long_side": 1024,
    "data.square": True,
    "data.mean": (123.7, 116.8, 103.9),
    "data.std": (1.0, 1.0, 1.0),
    "data.resize": "antialias",
    "data.size_rounding": "round",
    "data.mini_mask": 56,
    "model.mini_mask": 56,
    "model.rpn_pre_nms_top_n_train": 6000,
    "model.rpn_pre_nms_top_n_test": 6000,
    "model.rpn_smooth_l1_beta": 1.0,
    "model.box_smooth_l1_beta": 1.0,
    "model.box_batch_size_per_image": 200,
    "model.box_positive_fraction": 0.33,
    "model.score_thresh": 0.7,
    "model.nms_thresh": 0.3,
    "model.form.rpn_bbox_stds": (0.1, 0.1, 0.2, 0.2),
    "model.form.box_loss_mean": "foreground",
    "train.lr": 0.001,
    "train.clip_gradient": 5.0,
    "train.warmup_steps": 0,
}

#: the same plus what its own weights need: levels of RoIs are rounded, not floored, and are
#: relative to the last pixel of an image of 1024
MATTERPORT_FORM = {
    **MATTERPORT,
    "model.anchor_ratios": (2.0, 1.0, 0.5),
    "model.rpn_channels": 512,
    "model.rpn_min_size": 0.0,
    "model.form.anchor_form": "last_pixel",
    "model.form.rpn_nms_all": True,
    "model.form.box_sampling_ratio": 0,
    "model.form.mask_sampling_ratio": 0,
    "model.form.box_canonical_size": 224 * 1023 / 1024,
    "model.form.box_canonical_level": 4.5,
    "model.form.box_best_class": True,
    "model.form.box_min_size": 0.0,
}
