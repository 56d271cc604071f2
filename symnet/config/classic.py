"""Configs of the classic detectors: Faster R-CNN as in the original MXNet example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symnet.config.detector import RegionConfig
from symnet.geometry.anchors import AnchorSpec

#: image pixels per cell of the feature map
STRIDE = 16


@dataclass(frozen=True)
class ClassicConfig(RegionConfig):
    """The original example's values, with VGG16."""

    body: str = "vgg16"
    rpn_min_size: int = 16

    #: multiplies the filters of every layer in body and RPN
    width: float = 1.0
    #: residual units in the four stages of a ResNet v2; empty: the body's own
    units: tuple[int, ...] = ()
    #: anchor sizes in strides of 16 pixels: 8, 16, 32 are 128, 256, 512 pixels
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    #: how RoIs are pooled from the feature map, see symnet/ops/rois.py
    roi_op: Literal["roi_pool", "roi_align", "crop_resize"] = "roi_pool"
    #: outputs of fc6 and fc7; a ResNet uses its stage 4 instead
    box_head_dim: int = 4096
    #: fraction of these outputs that is dropped in training
    box_dropout: float = 0.5

    def body_strides(self) -> tuple[int, ...]:
        """The stride of the one feature map."""
        return (STRIDE,)

    @property
    def anchors(self) -> AnchorSpec:
        """The anchors of the feature map."""
        return AnchorSpec(STRIDE, tuple(self.anchor_scales), tuple(self.anchor_ratios))


@dataclass(frozen=True)
class ZFConfig(ClassicConfig):
    """The classic config with ZF."""

    body: str = "zf"
    trainable_layers: int = 5
    box_roi_size: int = 6


@dataclass(frozen=True)
class ResNet50C4Config(ClassicConfig):
    """The classic config with ResNet-50 v2: stages 1 to 3 are the body, stage 4 the RoI head."""

    body: str = "resnet50_v2"
    box_roi_size: int = 14


@dataclass(frozen=True)
class ResNet101C4Config(ResNet50C4Config):
    """The classic config with ResNet-101 v2."""

    body: str = "resnet101_v2"
