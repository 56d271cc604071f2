"""Faster R-CNN C4 with ResNet v1b, as in gluoncv: stages 1 to 3 are shared, stage 4 is the head.

Unlike the classic graph with C4 (faster_rcnn_c4.py) widths are x2 - x1 throughout, objectness is a
sigmoid, RoIAlign samples 2 x 2 points a bin, boxes are cut to the image after NMS, and the body is
torchvision's ResNet. Letters as in faster_rcnn_fpn.py; the pyramid has one level, c4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from symnet import faster_rcnn_fpn
from symnet.bodies import resnet
from symnet.classic import STRIDE, pool_rois
from symnet.config.ranges import refuse
from symnet.config.two_stage import RCNNConfig
from symnet.faster_rcnn_fpn import (
    LOSSES,
    Trunk,
    detection_stages,
    make_detector,
    train_stages,
)
from symnet.geometry.anchors import AnchorSpec, ClassicLevels
from symnet.machine import mx
from symnet.parts.box_loss import BETA
from symnet.parts.roi import box_predictor
from symnet.parts.rpn import pyramid_proposals, pyramid_rpn

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol


@dataclass(frozen=True)
class FasterRCNNV1bConfig(RCNNConfig):
    """gluoncv's values for Pascal VOC, and its form; docs/weights.md tells what differs.

    gluoncv has no bbox_log_clip for Pascal VOC, where untrained layers make boxes that are not
    finite."""

    #: the anchors' sizes, in strides of 16 pixels
    anchor_scales: tuple[float, ...] = (2, 4, 8, 16, 32)
    #: channels of the RPN's convolution
    rpn_channels: int = 1024

    # other values than RCNNConfig's
    num_classes: int = 21
    rpn_inside_only: bool = True
    rpn_best_below_bg: bool = False
    rpn_min_size: float = 15
    rpn_pre_nms_top_n: int = 12000
    rpn_pre_nms_top_n_test: int = 6000
    rpn_post_nms_top_n_test: int = 300
    box_batch_size_per_image: int = 128
    box_roi_size: int = 14
    box_smooth_l1_beta: float = 1.0
    box_min_size: float = 0.0
    box_score_thresh: float = 0.01
    box_cut_last: bool = True
    box_pre_nms_top_n: int = 6000
    box_nms_thresh: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rpn_channels:
            refuse(self, "rpn_channels", "must be at least 1; there is no pyramid to take it from")

    @property
    def anchors(self) -> ClassicLevels:
        """The anchors of c4."""
        scales, ratios = tuple(self.anchor_scales), tuple(self.anchor_ratios)
        return ClassicLevels((AnchorSpec(STRIDE, scales, ratios),))


def trunk(config: FasterRCNNV1bConfig, train: bool) -> Trunk:
    """Image -> stages 1 to 3 -> RPN -> proposals."""
    data, im_info = mx.sym.Variable("data"), mx.sym.Variable("im_info")
    c4 = resnet.resnet(data, config.depth, _norm(config, train), config.body_form)[2]
    rpn = pyramid_rpn([c4], config.anchors.num_anchors, config.rpn_channels)
    rois = pyramid_proposals(rpn, data, im_info, config.anchors, config.proposal_filter(train))
    return Trunk(im_info, [c4], rpn, rois)


def _norm(config: FasterRCNNV1bConfig, train: bool) -> str:
    return "folded" if train and config.norm == "frozen" else config.norm


def roi_features(
    config: FasterRCNNV1bConfig, pyramid: list[Symbol], rois: Symbol, train: bool
) -> Symbol:
    """Stage 4 of each of rois (R, 5): (R, 2048, 7, 7), half the side that they are pooled to.

    RoIs without an image (batch index -1) are pooled from image 0; nothing of them counts.
    """
    image = mx.sym.relu(mx.sym.slice_axis(rois, axis=1, begin=0, end=1))
    rois = mx.sym.concat(image, mx.sym.slice_axis(rois, axis=1, begin=1, end=5), dim=1)
    pooled = pool_rois(pyramid[0], rois, "roi_align", STRIDE, config.box_roi_size)
    return resnet.stage(pooled, config.depth, 4, _norm(config, train), config.body_form)


def box_head(
    config: FasterRCNNV1bConfig, pyramid: list[Symbol], rois: Symbol, train: bool
) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C + unused) and box deltas (B*R, 4C) of rois (B*R, 5)."""
    feature = roi_features(config, pyramid, rois, train)
    feature = mx.sym.Pooling(feature, pool_type="avg", global_pool=True, name="box_avg_pool")
    return box_predictor(feature, config.num_classes, config.unused_classes)


def train_symbol(config: FasterRCNNV1bConfig, images: int) -> Symbol:
    """The training graph with its four losses, for `images` images a device."""
    head = partial(box_head, train=True)
    return mx.sym.Group(train_stages(config, images, trunk=trunk, box_head=head).outputs)


def test_symbol(config: FasterRCNNV1bConfig) -> Symbol:
    """The test graph: det_boxes, det_scores, det_classes, proposals."""
    return mx.sym.Group(detection_stages(config, trunk, partial(box_head, train=False)).outputs)


#: gluoncv's settings for COCO, where they differ from those for Pascal VOC
COCO = {
    "model.rpn_post_nms_top_n_test": 1000,
    "model.rpn_min_size": 0.0,
    "model.box_nms_thresh": 0.5,
    "model.box_pre_nms_top_n": 5000,
    "model.bbox_log_clip": 4.14,
    "data.short_side": 800,
    "data.long_side": 1333,
    "train.lr": 0.00125,
    "train.weight_decay": 1e-4,
    "train.warmup_steps": 1000,
    "train.warmup_factor": 1 / 3,
}

#: a slim body, small images, few RoIs
QUICK = {
    "model.depth": 18,
    "model.anchor_scales": (1, 2, 4, 8),
    "model.rpn_channels": 64,
    "model.rpn_pre_nms_top_n": 500,
    "model.rpn_post_nms_top_n": 500,
    "model.rpn_pre_nms_top_n_test": 200,
    "model.rpn_post_nms_top_n_test": 200,
    "model.rpn_min_size": 0.0,
    "model.box_roi_size": 7,
    "model.box_batch_size_per_image": 32,
    "train.warmup_steps": 100,
    "train.warmup_factor": 0.1,
    "train.clip_gradient": 5.0,
}

DEFAULTS = {
    **{k: v for k, v in faster_rcnn_fpn.DEFAULTS.items() if not k.endswith("_side")},
    "data.resize": "antialias",
    "data.size_rounding": "round",
    "train.lr": 0.001,
    "train.weight_decay": 5e-4,
    "train.warmup_steps": 0,
}

#: older runs of this form were trained with torchvision's rules
BEFORE = {"rpn_inside_only": False, "rpn_best_below_bg": True, "box_smooth_l1_beta": BETA}

DETECTORS = {
    "faster_rcnn_r50_v1b": make_detector(
        "faster_rcnn_r50_v1b",
        FasterRCNNV1bConfig,
        train_symbol=train_symbol,
        test_symbol=test_symbol,
        losses=LOSSES,
        defaults=DEFAULTS,
        quick=QUICK,
        presets={"coco": COCO},
        before=BEFORE,
    )
}
