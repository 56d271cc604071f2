"""Faster R-CNN C4 with ResNet v1b, as in gluoncv: stages 1 to 3 are shared, stage 4 is the head.

Unlike the classic graph with C4 (faster_rcnn_c4.py) widths are x2 - x1 throughout, objectness is a
sigmoid, RoIAlign samples 2 x 2 points a bin, boxes are cut to the image after NMS, and the body is
torchvision's ResNet. Letters as in faster_rcnn_fpn.py; the pyramid has one level, c4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from symnet import faster_rcnn_fpn, resnet
from symnet.anchors import AnchorSpec, SingleLevel
from symnet.compat import mx
from symnet.faster_rcnn_classic import STRIDE, pool_rois
from symnet.faster_rcnn_fpn import LOSSES, Trunk, detection_stages, make_detector, train_stages
from symnet.roi import box_predictor
from symnet.rpn import ProposalFilter, pyramid_proposals, pyramid_rpn

if TYPE_CHECKING:
    from symnet.layers import Symbol


@dataclass(frozen=True)
class FasterRCNNV1bConfig:
    """gluoncv's values for Pascal VOC. norm, trainable_layers as in FasterRCNNFPNConfig; scales are
    in strides of 16 pixels. bbox_log_clip bounds decoded dw and dh; 0: not at all, as gluoncv has
    it for Pascal VOC, where untrained layers make boxes that are not finite."""

    num_classes: int = 21
    unused_classes: int = 0
    depth: Literal[50, 101] = 50
    norm: Literal["frozen", "batch", "group"] = "frozen"
    trainable_layers: int = 3
    anchor_scales: tuple[float, ...] = (2, 4, 8, 16, 32)
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    rpn_channels: int = 1024
    rpn_pre_nms_top_n: int = 12000
    rpn_post_nms_top_n: int = 2000
    rpn_pre_nms_top_n_test: int = 6000
    rpn_post_nms_top_n_test: int = 300
    rpn_nms_thresh: float = 0.7
    rpn_min_size: float = 15
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_own_anchor: bool = True
    rpn_bbox_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    box_roi_size: int = 14
    box_batch_size_per_image: int = 128
    box_positive_fraction: float = 0.25
    box_fg_iou_thresh: float = 0.5
    box_bbox_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    box_score_thresh: float = 0.01
    box_nms_thresh: float = 0.3
    box_min_size: float = 0.0
    box_pre_nms_top_n: int = 6000
    box_detections_per_img: int = 100
    bbox_log_clip: float = math.log(1000 / 16)
    sampling_seed: int = 0

    @property
    def anchors(self) -> SingleLevel:
        """The anchors of c4."""
        scales, ratios = tuple(self.anchor_scales), tuple(self.anchor_ratios)
        return SingleLevel(AnchorSpec(STRIDE, scales, ratios))

    def proposal_filter(self, train: bool) -> ProposalFilter:
        """Which boxes become proposals, and how many at most."""
        best = self.rpn_pre_nms_top_n if train else self.rpn_pre_nms_top_n_test
        kept = self.rpn_post_nms_top_n if train else self.rpn_post_nms_top_n_test
        return ProposalFilter(
            best,
            min(kept, best),
            self.rpn_nms_thresh,
            min_size=self.rpn_min_size,
            bbox_stds=tuple(self.rpn_bbox_stds),
            clip=self.bbox_log_clip,
        )


def trunk(config: FasterRCNNV1bConfig, train: bool) -> Trunk:
    """Image -> stages 1 to 3 -> RPN -> proposals."""
    data, im_info = mx.sym.Variable("data"), mx.sym.Variable("im_info")
    c4 = resnet.resnet(data, config.depth, _norm(config, train))[2]
    rpn = pyramid_rpn([c4], config.anchors.num_anchors, config.rpn_channels)
    rois = pyramid_proposals(rpn, data, im_info, config.anchors, config.proposal_filter(train))
    return Trunk(im_info, [c4], rpn, rois)


def _norm(config: FasterRCNNV1bConfig, train: bool) -> str:
    return "folded" if train and config.norm == "frozen" else config.norm


def box_head(
    config: FasterRCNNV1bConfig, pyramid: list[Symbol], rois: Symbol, train: bool
) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C + unused) and box deltas (B*R, 4C) of rois (B*R, 5).

    RoIs without an image (batch index -1) are pooled from image 0; nothing of them counts.
    """
    image = mx.sym.relu(mx.sym.slice_axis(rois, axis=1, begin=0, end=1))
    rois = mx.sym.concat(image, mx.sym.slice_axis(rois, axis=1, begin=1, end=5), dim=1)
    pooled = pool_rois(pyramid[0], rois, "roi_align", STRIDE, config.box_roi_size)
    feature = resnet.stage(pooled, config.depth, 4, _norm(config, train))
    feature = mx.sym.Pooling(feature, pool_type="avg", global_pool=True, name="box_avg_pool")
    return box_predictor(feature, config.num_classes, config.unused_classes)


def train_symbol(config: FasterRCNNV1bConfig, images: int) -> Symbol:
    """The training graph with its four losses, for `images` images a device."""

    def head(config: Any, pyramid: list[Symbol], rois: Symbol) -> tuple[Symbol, Symbol]:
        return box_head(config, pyramid, rois, train=True)

    return mx.sym.Group(train_stages(config, images, trunk=trunk, box_head=head).outputs)


def test_symbol(config: FasterRCNNV1bConfig) -> Symbol:
    """The test graph: det_boxes, det_scores, det_classes, proposals."""

    def head(config: Any, pyramid: list[Symbol], rois: Symbol) -> tuple[Symbol, Symbol]:
        return box_head(config, pyramid, rois, train=False)

    return mx.sym.Group(detection_stages(config, trunk, head, cut_last=True)[1])


#: gluoncv's settings for COCO, where they differ from those for Pascal VOC
COCO = {
    "model.rpn_post_nms_top_n_test": 1000,
    "model.rpn_min_size": 0.0,
    "model.box_nms_thresh": 0.5,
    "model.box_pre_nms_top_n": 5000,
    "model.bbox_log_clip": 4.14,
    "data.short_side": 800,
    "data.long_side": 1333,
}

#: small images, few RoIs
QUICK = {
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

DETECTORS = {
    "faster_rcnn_r50_v1b": make_detector(
        "faster_rcnn_r50_v1b",
        FasterRCNNV1bConfig,
        train_symbol=train_symbol,
        test_symbol=test_symbol,
        losses=LOSSES,
        defaults={
            **{k: v for k, v in faster_rcnn_fpn.DEFAULTS.items() if not k.endswith("_side")},
            "data.resize": "antialias",
            "data.size_rounding": "round",
        },
        quick=QUICK,
        presets={"coco": COCO},
    )
}
