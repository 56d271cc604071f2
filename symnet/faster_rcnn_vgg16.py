"""Faster R-CNN with VGG16 through the functions of the original MXNet example.

Letters: B images per device, H, W padded image size, A anchors per position, R RoIs per image,
C classes with background 0, G objects, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symnet.classic import classic_test_graph, classic_train_graph
from symnet.config.classic import ClassicConfig
from symnet.geometry.anchors import AnchorSpec
from symnet.machine import Symbol


def get_vgg_train(
    anchor_scales: Sequence[float],
    anchor_ratios: Sequence[float],
    rpn_feature_stride: int,
    rpn_pre_topk: int,
    rpn_post_topk: int,
    rpn_nms_thresh: float,
    rpn_min_size: int,
    rpn_batch_rois: int,
    num_classes: int,
    rcnn_feature_stride: int,
    rcnn_pooled_size: Sequence[int],
    rcnn_batch_size: int,
    rcnn_batch_rois: int,
    rcnn_fg_fraction: float,
    rcnn_fg_overlap: float,
    rcnn_bbox_stds: Sequence[float],
) -> Symbol:
    """The classic training graph with the original example's arguments.

    rcnn_batch_size is B, the images per device; rpn_batch_rois and rcnn_batch_rois are samples per
    image. Inputs: data (B, 3, H, W), im_info (B, 3) as height, width, scale, gt_boxes (G, 5) for
    one image or (B, G, 5) padded with -1, label (B, A*H/16*W/16), bbox_target and bbox_weight
    (B, 4A, H/16, W/16). Outputs in order: rpn_cls_prob, rpn_bbox_loss, cls_prob (B, R, C),
    bbox_loss (B, R, 4C), label (B, R).
    """
    config = ClassicConfig(
        num_classes=num_classes,
        rpn_batch_size_per_image=rpn_batch_rois,
        rpn_nms_thresh=rpn_nms_thresh,
        rpn_min_size=rpn_min_size,
        rpn_pre_nms_top_n_train=rpn_pre_topk,
        rpn_post_nms_top_n_train=rpn_post_topk,
        box_roi_size=_side(rcnn_pooled_size),
        box_batch_size_per_image=rcnn_batch_rois,
        box_positive_fraction=rcnn_fg_fraction,
        box_fg_iou_thresh=rcnn_fg_overlap,
        box_bbox_stds=tuple(rcnn_bbox_stds),
    )
    anchors = AnchorSpec(rpn_feature_stride, tuple(anchor_scales), tuple(anchor_ratios))
    return classic_train_graph(config, rcnn_batch_size, anchors, rcnn_feature_stride)


def get_vgg_test(
    anchor_scales: Sequence[float],
    anchor_ratios: Sequence[float],
    rpn_feature_stride: int,
    rpn_pre_topk: int,
    rpn_post_topk: int,
    rpn_nms_thresh: float,
    rpn_min_size: int,
    num_classes: int,
    rcnn_feature_stride: int,
    rcnn_pooled_size: Sequence[int],
    rcnn_batch_size: int = 1,
    rcnn_bbox_stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
) -> Symbol:
    """The classic test graph: det_boxes (B, D, 4), det_scores and det_classes (B, D), proposals.

    The arguments are those of get_vgg_train. rcnn_batch_size is unused and only kept for
    compatibility: the graph takes any number of images. Inputs: data (B, 3, H, W), im_info (B, 3).
    """
    config = ClassicConfig(
        num_classes=num_classes,
        rpn_nms_thresh=rpn_nms_thresh,
        rpn_min_size=rpn_min_size,
        rpn_pre_nms_top_n_test=rpn_pre_topk,
        rpn_post_nms_top_n_test=rpn_post_topk,
        box_roi_size=_side(rcnn_pooled_size),
        box_bbox_stds=tuple(rcnn_bbox_stds),
    )
    anchors = AnchorSpec(rpn_feature_stride, tuple(anchor_scales), tuple(anchor_ratios))
    return classic_test_graph(config, anchors, rcnn_feature_stride)


def _side(pooled_size: int | Sequence[int]) -> int:
    sides = set(np.atleast_1d(pooled_size).tolist())
    if len(sides) != 1:
        raise ValueError(f"rcnn_pooled_size must be square, not {pooled_size}")
    return sides.pop()
