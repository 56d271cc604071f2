"""The configs of the classic detectors: Faster R-CNN on one map, as in the original MXNet example.

Fields stand in the order in which data flow through the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symnet.config.body import DetectorConfig
from symnet.config.ranges import check_order
from symnet.geometry.anchors import AnchorSpec

#: pixels of the image a cell of the feature map stands for
STRIDE = 16


@dataclass(frozen=True)
class ClassicConfig(DetectorConfig):
    """The values of the original example, with VGG16."""

    body: str = "vgg16"

    #: a factor of the filters of every layer of body and RPN
    width: float = 1.0
    #: residual units of the four stages of a ResNet v2; empty: the body's own
    units: tuple[int, ...] = ()
    #: the anchors' sizes, in strides of 16 pixels: 8, 16, 32 are 128, 256, 512 pixels
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    #: height over width of the anchors
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    #: an anchor is foreground if its IoU with an object is at least this
    rpn_fg_iou_thresh: float = 0.7
    #: an anchor is background if its IoU with every object is below this
    rpn_bg_iou_thresh: float = 0.3
    #: an anchor or RoI is not background if more than this share of its area lies in a crowd or
    #: difficult object; 0: off
    ignore_overlap: float = 0.0
    #: sampled anchors of an image for the RPN's losses
    rpn_batch_size_per_image: int = 256
    #: the largest share of foreground among them
    rpn_positive_fraction: float = 0.5
    #: proposals with a side below this, in pixels of the original image, are left out
    rpn_min_size: int = 16
    #: the best anchors that go into NMS, in training; -1: all
    rpn_pre_nms_top_n_train: int = 12000
    #: the same in testing
    rpn_pre_nms_top_n_test: int = 6000
    #: NMS removes a proposal whose IoU with a better one is above this
    rpn_nms_thresh: float = 0.7
    #: proposals of an image after NMS, in training
    rpn_post_nms_top_n_train: int = 2000
    #: the same in testing
    rpn_post_nms_top_n_test: int = 300
    #: a proposal is foreground if its IoU with an object is at least this, else background
    box_fg_iou_thresh: float = 0.5
    #: sampled RoIs of an image for the box head's losses
    box_batch_size_per_image: int = 128
    #: the largest share of foreground among them
    box_positive_fraction: float = 0.25
    #: seed of the sampling
    sampling_seed: int = 0
    #: how RoIs are cut out of the feature map, see symnet/ops/rois.py
    roi_op: Literal["roi_pool", "roi_align", "crop_resize"] = "roi_pool"
    #: the side of a pooled RoI, in cells
    box_roi_size: int = 7
    #: outputs of fc6 and fc7; a ResNet has its stage 4 instead of them
    box_head_dim: int = 4096
    #: the share of these outputs that is dropped in training
    box_dropout: float = 0.5
    #: the box head's targets dx, dy, dw, dh are divided by these
    box_bbox_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    #: detections must score above this
    score_thresh: float = 1e-3
    #: the best candidates of an image that go into NMS; -1: all
    pre_nms_top_n: int = 2000
    #: NMS removes a detection whose IoU with a better one of its class is above this
    nms_thresh: float = 0.3
    #: the most detections of an image
    detections_per_img: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self, "rpn_bg_iou_thresh", "rpn_fg_iou_thresh")

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
