"""Mask R-CNN on c4 (He et al. 2017, figure 4 left), as in gluoncv.

The mask branch runs Faster R-CNN's stage 4 again with the same parameters: in training on the
foreground RoIs, in testing on the detections before they are clipped to the image. Letters are
those of two_stage.py.
"""

from __future__ import annotations

from symnet.config import presets
from symnet.config.two_stage import MaskC4Config
from symnet.faster_rcnn_c4 import BEFORE, box_features, c4, roi_maps
from symnet.machine import Symbol, mx
from symnet.parts.heads import mask_head
from symnet.two_stage import Stages, make_detector


def mask_logits(config: MaskC4Config, maps: list[Symbol], rois: Symbol, train: bool) -> Symbol:
    """Mask logits (F, C, S, S) of rois (F, 5)."""
    with mx.name.Prefix("mask."):
        feature = roi_maps(config, maps, rois, train)
    return mask_head(feature, config.mask_channels, 0, config.num_classes)


DETECTORS = {
    "mask_rcnn_r50v1_c4": make_detector(
        "mask_rcnn_r50v1_c4",
        MaskC4Config,
        Stages(c4, box_features, mask_logits),
        defaults={**presets.GLUONCV_C4, **presets.GLUONCV_COCO_TRAINING, "data.masks": True},
        quick={**presets.C4_QUICK, "model.mask_channels": 64},
        before=BEFORE,
    )
}
