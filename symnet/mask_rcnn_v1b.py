"""Mask R-CNN C4 with ResNet v1b, as in gluoncv (He et al. 2017, figure 4 left).

Letters as in mask_rcnn_fpn.py. The mask branch goes through stage 4 again, with the same
parameters: in training with the foreground RoIs, in testing with the detections, as they are before
they are cut to the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from symnet import faster_rcnn_v1b
from symnet.faster_rcnn_fpn import detection_stages, make_detector, train_stages
from symnet.faster_rcnn_v1b import FasterRCNNV1bConfig, box_head, roi_features, trunk
from symnet.machine import mx
from symnet.mask_rcnn_fpn import MASK_FIELDS, MaskFields, mask_detections, mask_training
from symnet.parts.layers import shared_parameters
from symnet.parts.roi import mask_head

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol


@dataclass(frozen=True)
class MaskRCNNV1bConfig(MaskFields, FasterRCNNV1bConfig):
    """gluoncv's values for COCO."""

    num_classes: int = 81
    rpn_post_nms_top_n_test: int = 1000
    rpn_min_size: float = 0.0
    box_nms_thresh: float = 0.5
    box_pre_nms_top_n: int = 5000
    bbox_log_clip: float = 4.42

    @property
    def mask_size(self) -> int:
        """S, the side of a mask: stage 4 halves the RoI, the mask head doubles it."""
        return 2 * -(-self.box_roi_size // 2)


def mask_logits(
    config: MaskRCNNV1bConfig, pyramid: list[Symbol], rois: Symbol, train: bool
) -> Symbol:
    """Mask logits (F, C, S, S) of rois (F, 5)."""
    with mx.name.Prefix("mask."):
        feature = roi_features(config, pyramid, rois, train)
    return mask_head(feature, config.mask_channels, 0, config.num_classes)


def train_symbol(config: MaskRCNNV1bConfig, images: int) -> Symbol:
    """The training graph with its five losses, for `images` images a device."""
    active = mx.sym.Variable("active_classes")
    with shared_parameters():
        head = partial(box_head, train=True)
        stages = train_stages(config, images, active, trunk=trunk, box_head=head)
        return mask_training(config, images, stages, partial(mask_logits, train=True))


def test_symbol(config: MaskRCNNV1bConfig) -> Symbol:
    """The test graph: det_boxes, det_scores, det_classes, proposals, det_masks."""
    with shared_parameters():
        stages = detection_stages(config, trunk, partial(box_head, train=False))
        return mask_detections(config, stages, partial(mask_logits, train=False))


DETECTORS = {
    "mask_rcnn_r50_v1b": make_detector(
        "mask_rcnn_r50_v1b",
        MaskRCNNV1bConfig,
        train_symbol=train_symbol,
        test_symbol=test_symbol,
        defaults={
            **faster_rcnn_v1b.DEFAULTS,
            **{k: v for k, v in faster_rcnn_v1b.COCO.items() if not k.startswith("model.")},
            "data.masks": True,
        },
        quick={**faster_rcnn_v1b.QUICK, "model.mask_channels": 64},
        before=faster_rcnn_v1b.BEFORE,
        **MASK_FIELDS,
    )
}
