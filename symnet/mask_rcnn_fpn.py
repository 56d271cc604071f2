"""Mask R-CNN with a feature pyramid (He et al. 2017, figure 4 right), as in torchvision.

It adds a mask head of convolutions for each foreground RoI to Faster R-CNN with a pyramid. It has
two more inputs: gt_masks, packed bits uint8 (see ops/mask_target.py), and active_classes (B, C), 1
for the classes that the image is annotated for. Letters are those of two_stage.py.
"""

from __future__ import annotations

from symnet.config import presets
from symnet.config.two_stage import MaskPyramidConfig
from symnet.faster_rcnn_fpn import box_features, pool_from_levels, pyramid
from symnet.machine import Symbol
from symnet.parts.heads import mask_head
from symnet.two_stage import Stages, make_detector


def mask_logits(config: MaskPyramidConfig, maps: list[Symbol], rois: Symbol, train: bool) -> Symbol:
    """Mask logits (F, C, S, S) of rois (F, 5)."""
    size, ratio = config.mask_roi_size, config.form.mask_sampling_ratio
    pooled = pool_from_levels(config, maps, rois, size, ratio, "mask_pool")
    return mask_head(pooled, config.mask_channels, config.mask_layers, config.num_classes)


DETECTORS = {
    name: make_detector(
        name,
        MaskPyramidConfig,
        Stages(pyramid, box_features, mask_logits),
        defaults={**presets.TORCHVISION, "model.body": body, "data.masks": True},
        quick={**presets.MASK_PYRAMID_QUICK, **small},
        presets={"matterport": presets.MATTERPORT, "gluoncv": presets.GLUONCV_MASK_PYRAMID},
    )
    for name, body, small in presets.pyramid_networks("mask_rcnn")
}
