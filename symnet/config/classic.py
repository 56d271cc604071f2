"""The configs of the classic detectors: Faster R-CNN as in the original MXNet example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symnet.config.detector import RegionConfig
from symnet.geometry.anchors import AnchorSpec

#: pixels of the image a cell of the feature map stands for
STRIDE = 16


@dataclass(frozen=True)
class ClassicConfig(RegionConfig):
    """The values of the original example, with VGG16."""

    body: str = "vgg16"
    rpn_min_size: int = 16

    #: a factor of the filters of every layer of body and RPN
    width: float = 1.0
    #: residual units of the four stages of a ResNet v2; empty: the body's own
    units: tuple[int, ...] = ()
    #: the anchors' sizes, in strides of 16 pixels: 8, 16, 32 are 128, 256, 512 pixels
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    #: how RoIs are cut out of the feature map, see symnet/ops/rois.py
    roi_op: Literal["roi_pool", "roi_align", "crop_resize"] = "roi_pool"
    #: outputs of fc6 and fc7; a ResNet has its stage 4 instead of them
    box_head_dim: int = 4096
    #: the share of these outputs that is dropped in training
    box_dropout: float = 0.5

    def body_strides(self) -> tuple[int, ...]:
        """The one feature map."""
        return (STRIDE,)

    @property
    def anchors(self) -> AnchorSpec:
        """The anchors of the feature map."""
        return AnchorSpec(STRIDE, tuple(self.anchor_scales), tuple(self.anchor_ratios))


@dataclass(frozen=True)
class ZFConfig(ClassicConfig):
    """With ZF."""

    body: str = "zf"
    trainable_layers: int = 5
    box_roi_size: int = 6


@dataclass(frozen=True)
class ResNet50C4Config(ClassicConfig):
    """With ResNet-50 v2: stages 1 to 3 are the body, stage 4 is the head of each RoI."""

    body: str = "resnet50_v2"
    box_roi_size: int = 14


@dataclass(frozen=True)
class ResNet101C4Config(ResNet50C4Config):
    """With ResNet-101 v2."""

    body: str = "resnet101_v2"
