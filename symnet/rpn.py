"""The region proposal network: head, losses and proposals (Faster R-CNN, section 3).

Letters: B images, A anchors a position, H, W the feature map's size, P proposals an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symnet.anchors import AnchorSpec
from symnet.compat import mx
from symnet.layers import conv, float32, mean_loss, relu
from symnet.vgg import thin

if TYPE_CHECKING:
    from symnet.layers import Symbol


@dataclass(frozen=True)
class RPNHead:
    """cls_score (B, 2, A*H, W): background, object; cls_prob (B, 2A, H, W); bbox_pred
    (B, 4A, H, W)."""

    cls_score: Symbol
    cls_prob: Symbol
    bbox_pred: Symbol


def rpn_head(feature: Symbol, num_anchors: int, width: float = 1.0) -> RPNHead:
    """Scores and box deltas of all anchors from a feature map (B, _, H, W)."""
    hidden = relu(conv(feature, "rpn_conv_3x3", thin(512, width)), "rpn_relu")
    score = float32(conv(hidden, "rpn_cls_score", 2 * num_anchors, kernel=1))
    score = mx.sym.reshape(score, shape=(0, 2, -1, 0), name="rpn_cls_score_reshape")
    prob = mx.sym.softmax(score, axis=1, name="rpn_cls_act")
    prob = mx.sym.reshape(prob, shape=(0, 2 * num_anchors, -1, 0), name="rpn_cls_act_reshape")
    bbox_pred = conv(hidden, "rpn_bbox_pred", 4 * num_anchors, kernel=1)
    return RPNHead(score, prob, float32(bbox_pred))


def rpn_losses(
    head: RPNHead, label: Symbol, bbox_target: Symbol, bbox_weight: Symbol, num_samples: int
) -> tuple[Symbol, Symbol]:
    """The class loss (mean over the sampled anchors) and the box loss (sum / num_samples).

    label (B, A*H*W) with -1 ignored; bbox_target, bbox_weight (B, 4A, H, W).
    """
    cls_prob = mx.sym.SoftmaxOutput(
        head.cls_score,
        label,
        multi_output=True,
        normalization="valid",
        use_ignore=True,
        ignore_label=-1,
        name="rpn_cls_prob",
    )
    difference = head.bbox_pred - bbox_target
    loss = bbox_weight * mx.sym.smooth_l1(difference, scalar=3.0, name="rpn_bbox_loss_")
    return cls_prob, mean_loss(loss, "rpn_bbox_loss", num_samples)


def rpn_proposals(
    head: RPNHead,
    im_info: Symbol,
    anchors: AnchorSpec,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_thresh: float,
    min_size: int,
) -> Symbol:
    """The best boxes after NMS as rois (B*P, 5): batch index, xyxy. im_info (B, 3): h, w, scale."""
    return mx.sym.contrib.MultiProposal(
        cls_prob=head.cls_prob,
        bbox_pred=head.bbox_pred,
        im_info=im_info,
        feature_stride=anchors.stride,
        scales=anchors.scales,
        ratios=anchors.ratios,
        rpn_pre_nms_top_n=pre_nms_top_n,
        rpn_post_nms_top_n=post_nms_top_n,
        threshold=nms_thresh,
        rpn_min_size=min_size,
        name="rois",
    )
