"""Mask R-CNN (He et al. 2017) with a ResNet and a feature pyramid, as in torchvision.

Letters as in faster_rcnn_fpn.py; F mask RoIs of all images, S the side of a mask (28), h, w that of
a stored mask. Inputs besides Faster R-CNN's: gt_masks, packed bits uint8, see mask_target.py, and
active_classes (B, C), 1 for the classes of the image's data set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symnet import faster_rcnn_fpn
from symnet.config.ranges import refuse
from symnet.config.two_stage import FasterRCNNFPNConfig
from symnet.faster_rcnn_fpn import (
    DetectionStages,
    TrainStages,
    detection_stages,
    make_detector,
    pool_rois,
    train_stages,
)
from symnet.machine import mx
from symnet.parts.roi import mask_head, mask_loss, of_class, with_batch_index

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol


@dataclass(frozen=True)
class MaskFields:
    """What a mask branch adds to a config."""

    #: the side of masks stored in their boxes, as data.mini_mask; 0: masks of the image's size
    mini_mask: int = 0
    #: channels of the mask head
    mask_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_masks(1):
            rois = self.box_batch_size_per_image
            refuse(self, "box_positive_fraction", f"leaves none of {rois} RoIs to learn masks from")

    def num_masks(self, images: int) -> int:
        """F: room for as many RoIs as can be foreground."""
        return images * round(self.box_batch_size_per_image * self.box_positive_fraction)


@dataclass(frozen=True)
class MaskRCNNFPNConfig(MaskFields, FasterRCNNFPNConfig):
    """torchvision's values."""

    #: cells a side that a RoI is pooled to for its mask; the mask has twice as many
    mask_roi_size: int = 14
    #: as box_sampling_ratio, for masks
    mask_sampling_ratio: int = 2
    #: 3x3 convolutions of the mask head
    mask_layers: int = 4

    @property
    def mask_size(self) -> int:
        """S, the side of a mask."""
        return 2 * self.mask_roi_size


#: mask_logits(config, pyramid, rois)
MakeMaskLogits = Callable[[Any, list["Symbol"], "Symbol"], "Symbol"]


def mask_logits(config: MaskRCNNFPNConfig, pyramid: list[Symbol], rois: Symbol) -> Symbol:
    """Mask logits (F, C, S, S) of rois (F, 5)."""
    size, ratio = config.mask_roi_size, config.mask_sampling_ratio
    pooled = pool_rois(config, pyramid, rois, size, ratio, "mask_pool")
    return mask_head(pooled, config.mask_channels, config.mask_layers, config.num_classes)


def mask_training(
    config: Any, images: int, stages: TrainStages, mask_logits: MakeMaskLogits = mask_logits
) -> Symbol:
    """The training graph of those stages with the mask's loss."""
    from symnet.ops import mask_target  # noqa: F401 - registers the operator, needs mxnet

    rois, label, target = mx.sym.Custom(
        rois=stages.rois,
        label=stages.label,
        matched=stages.matched,
        gt_boxes=stages.gt_boxes,
        gt_masks=mx.sym.Variable("gt_masks", dtype="uint8"),
        op_type="mask_target",
        name="mask_target",
        num_masks=config.num_masks(images),
        size=config.mask_size,
        mini_mask=config.mini_mask,
    )
    loss = mask_loss(mask_logits(config, stages.pyramid, rois), label, target)
    counted = mx.sym.BlockGrad(mx.sym.sum(label > 0), name="mask_count")
    return mx.sym.Group([*stages.outputs, loss, counted])


def mask_detections(
    config: Any, stages: DetectionStages, mask_logits: MakeMaskLogits = mask_logits
) -> Symbol:
    """The test graph: as Faster R-CNN's, and det_masks (B, D, S, S), probabilities in the boxes."""
    classes = stages.outputs[2]
    found = mx.sym.expand_dims(classes > 0, axis=2)
    rois = mx.sym.reshape(with_batch_index(stages.boxes, found), shape=(-3, 0))
    logits = mask_logits(config, stages.pyramid, rois)
    masks = mx.sym.sigmoid(of_class(logits, mx.sym.relu(mx.sym.reshape(classes, shape=(-1,)))))
    # as many rows as det_boxes has
    masks = mx.sym.reshape_like(
        masks, mx.sym.expand_dims(classes, axis=2), lhs_end=1, rhs_end=2, name="det_masks"
    )
    return mx.sym.Group([*stages.outputs, masks])


def train_symbol(config: MaskRCNNFPNConfig, images: int) -> Symbol:
    """The training graph with its five losses, for `images` images a device."""
    stages = train_stages(config, images, mx.sym.Variable("active_classes"))
    return mask_training(config, images, stages)


def test_symbol(config: MaskRCNNFPNConfig) -> Symbol:
    """The test graph: det_boxes, det_scores, det_classes, proposals, det_masks."""
    return mask_detections(config, detection_stages(config))


#: small mask heads
QUICK = {
    **faster_rcnn_fpn.QUICK,
    "model.mask_channels": 64,
    "model.mask_layers": 2,
}

#: the settings of matterport's Mask R-CNN: square images, targets of the RPN divided too, fewer
#: RoIs, box losses that are means over the foreground, masks stored as 56 x 56 squares in their
#: boxes; what trains otherwise is in docs/weights.md
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
    "model.rpn_pre_nms_top_n": 6000,
    "model.rpn_pre_nms_top_n_test": 6000,
    "model.rpn_bbox_stds": (0.1, 0.1, 0.2, 0.2),
    "model.rpn_smooth_l1_beta": 1.0,
    "model.box_smooth_l1_beta": 1.0,
    "model.box_loss_mean": "foreground",
    "model.box_batch_size_per_image": 200,
    "model.box_positive_fraction": 0.33,
    "model.box_score_thresh": 0.7,
    "model.box_nms_thresh": 0.3,
    "train.lr": 0.001,
    "train.clip_gradient": 5.0,
    "train.warmup_steps": 0,
}

#: the form of matterport's network, for its own weights; its RoIs' levels are rounded, not floored,
#: and relative to the last pixel of an image of 1024
MATTERPORT_FORM = {
    **MATTERPORT,
    "model.body_form": "keras",
    "model.anchor_form": "last_pixel",
    "model.anchor_ratios": (2.0, 1.0, 0.5),
    "model.rpn_channels": 512,
    "model.rpn_nms_all": True,
    "model.rpn_min_size": 0.0,
    "model.box_sampling_ratio": 0,
    "model.mask_sampling_ratio": 0,
    "model.box_canonical_size": 224 * 1023 / 1024,
    "model.box_canonical_level": 4.5,
    "model.box_best_class": True,
    "model.box_min_size": 0.0,
}

#: gluoncv's form and settings, where they differ from torchvision's
GLUONCV = {
    **faster_rcnn_fpn.GLUONCV,
    "model.box_roi_size": 14,
    "model.box_avg_pool": True,
    "model.bbox_log_clip": 4.42,
}

#: what all detectors with masks have
MASK_FIELDS = {
    "losses": (*faster_rcnn_fpn.LOSSES, "MaskLoss"),
    "data_names": ("data", "im_info", "gt_boxes", "gt_masks", "active_classes"),
}

DETECTORS = {
    f"mask_rcnn_r{depth}_fpn": make_detector(
        f"mask_rcnn_r{depth}_fpn",
        MaskRCNNFPNConfig,
        train_symbol=train_symbol,
        test_symbol=test_symbol,
        defaults={**faster_rcnn_fpn.DEFAULTS, "model.depth": depth, "data.masks": True},
        quick=QUICK,
        presets={"matterport": MATTERPORT, "gluoncv": GLUONCV},
        **MASK_FIELDS,
    )
    for depth in (50, 101)
}
