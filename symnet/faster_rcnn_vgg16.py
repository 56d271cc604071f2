"""Faster R-CNN with VGG16: the classic graph (Ren et al. 2015, as in the original MXNet example).

Letters: B images a device, H, W the padded image, A anchors a position, R RoIs an image, C classes
with background 0, G objects, D detections. The names of inputs, parameters and outputs are those of
the original graph: they are its checkpoint format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from symnet.anchors import AnchorSpec
from symnet.boxes import BoxCoder
from symnet.compat import mx
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.layers import float32
from symnet.metrics import rcnn_metrics, rpn_metrics
from symnet.roi import decode_boxes, detections, roi_head, roi_losses
from symnet.rpn import rpn_head, rpn_losses, rpn_proposals
from symnet.targets import RPNSampling, rpn_targets
from symnet.vgg import FC_DIM, STRIDE, get_vgg_feature, get_vgg_top_feature

if TYPE_CHECKING:
    from symnet.layers import Symbol

#: contrib.MultiProposal counts a width as x2 - x1 + 1
OFFSET = 1


@dataclass(frozen=True)
class FasterRCNNVGG16Config:
    """The classic values. Scales are in strides: 8, 16, 32 are anchors of 128, 256, 512 pixels."""

    num_classes: int = 21
    width: float = 1.0
    fc_dim: int = FC_DIM
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    rpn_batch_rois: int = 256
    rpn_fg_fraction: float = 0.5
    rpn_fg_overlap: float = 0.7
    rpn_bg_overlap: float = 0.3
    rpn_nms_thresh: float = 0.7
    rpn_min_size: int = 16
    rpn_pre_topk: int = 12000
    rpn_post_topk: int = 2000
    rpn_pre_topk_test: int = 6000
    rpn_post_topk_test: int = 300
    rcnn_pooled_size: int = 7
    rcnn_dropout: float = 0.5
    rcnn_batch_rois: int = 128
    rcnn_fg_fraction: float = 0.25
    rcnn_fg_overlap: float = 0.5
    rcnn_bbox_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    test_nms_thresh: float = 0.3
    test_score_thresh: float = 1e-3
    test_pre_nms_top_n: int = 2000
    test_max_detections: int = 100
    sampling_seed: int = 0

    @property
    def anchors(self) -> AnchorSpec:
        """The anchors of the one feature map."""
        return AnchorSpec(STRIDE, tuple(self.anchor_scales), tuple(self.anchor_ratios))


def _roi_pool(feature: Symbol, rois: Symbol, stride: int, size: int) -> Symbol:
    return mx.sym.ROIPooling(
        float32(feature),
        rois,
        pooled_size=(size, size),
        spatial_scale=1.0 / stride,
        name="roi_pool",
    )


def _train_graph(
    config: FasterRCNNVGG16Config, anchors: AnchorSpec, stride: int, images: int
) -> Symbol:
    """The training graph for `images` images a device; every loss is the mean over its samples."""
    from symnet import proposal_target  # noqa: F401 - registers the operator, needs mxnet

    feature = get_vgg_feature(mx.sym.Variable("data"), config.width)

    rpn = rpn_head(feature, anchors.num_anchors, config.width)
    rpn_cls_prob, rpn_bbox_loss = rpn_losses(
        rpn,
        *(mx.sym.Variable(name) for name in LABELS),
        num_samples=config.rpn_batch_rois * images,
    )
    proposals = rpn_proposals(
        rpn,
        mx.sym.Variable("im_info"),
        anchors,
        config.rpn_pre_topk,
        config.rpn_post_topk,
        config.rpn_nms_thresh,
        config.rpn_min_size,
    )
    num_rois = config.rcnn_batch_rois * images
    rois, label, bbox_target, bbox_weight = mx.sym.Custom(
        rois=proposals,
        gt_boxes=mx.sym.Variable("gt_boxes"),
        op_type="proposal_target",
        name="proposal_target",
        num_classes=config.num_classes,
        batch_images=images,
        batch_rois=num_rois,
        fg_fraction=config.rcnn_fg_fraction,
        fg_overlap=config.rcnn_fg_overlap,
        box_stds=tuple(config.rcnn_bbox_stds),
        seed=config.sampling_seed,
    )
    pooled = _roi_pool(feature, rois, stride, config.rcnn_pooled_size)
    cls_score, bbox_pred = roi_head(
        get_vgg_top_feature(pooled, config.fc_dim, config.rcnn_dropout), config.num_classes
    )
    cls_prob, bbox_loss = roi_losses(
        cls_score, bbox_pred, label, bbox_target, bbox_weight, num_rois
    )

    def per_image(data: Symbol, name: str, *rest: int) -> Symbol:
        shape = (-1, config.rcnn_batch_rois, *rest)
        return mx.sym.reshape(data, shape=shape, name=f"{name}_reshape")

    return mx.sym.Group(
        [
            rpn_cls_prob,
            rpn_bbox_loss,
            per_image(cls_prob, "cls_prob", config.num_classes),
            per_image(bbox_loss, "bbox_loss", 4 * config.num_classes),
            mx.sym.BlockGrad(per_image(label, "label"), name="label_blockgrad"),
        ]
    )


def _test_graph(config: FasterRCNNVGG16Config, anchors: AnchorSpec, stride: int) -> Symbol:
    """The test graph, for any B: detections in network pixels, and their proposals."""
    im_info = mx.sym.Variable("im_info")
    feature = get_vgg_feature(mx.sym.Variable("data"), config.width)
    rois = rpn_proposals(
        rpn_head(feature, anchors.num_anchors, config.width),
        im_info,
        anchors,
        config.rpn_pre_topk_test,
        config.rpn_post_topk_test,
        config.rpn_nms_thresh,
        config.rpn_min_size,
    )
    pooled = _roi_pool(feature, rois, stride, config.rcnn_pooled_size)
    cls_score, bbox_pred = roi_head(
        get_vgg_top_feature(pooled, config.fc_dim, config.rcnn_dropout), config.num_classes
    )
    num_rois = config.rpn_post_topk_test
    rois = mx.sym.reshape(rois, shape=(-1, num_rois, 5))
    scores = mx.sym.softmax(cls_score, axis=1, name="cls_prob")
    scores = mx.sym.reshape(scores, shape=(-1, num_rois, config.num_classes))
    deltas = mx.sym.reshape(bbox_pred, shape=(-1, num_rois, config.num_classes, 4))
    boxes = decode_boxes(
        rois,
        mx.sym.slice_axis(deltas, axis=2, begin=1, end=None),
        im_info,
        config.rcnn_bbox_stds,
        OFFSET,
    )
    found = detections(
        boxes,
        mx.sym.slice_axis(scores, axis=2, begin=1, end=None),
        config.test_score_thresh,
        config.test_nms_thresh,
        config.test_pre_nms_top_n,
        config.test_max_detections,
        OFFSET,
    )
    proposals = mx.sym.slice_axis(rois, axis=2, begin=1, end=5, name="proposals")
    return mx.sym.Group([*found, proposals])


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

    rcnn_batch_size is B, the images a device; rpn_batch_rois and rcnn_batch_rois are samples an
    image. Inputs: data (B, 3, H, W), im_info (B, 3) as height, width, scale, gt_boxes (G, 5) for
    one image or (B, G, 5) padded with -1, label (B, A*H/16*W/16), bbox_target and bbox_weight
    (B, 4A, H/16, W/16). Outputs in order: rpn_cls_prob, rpn_bbox_loss, cls_prob (B, R, C),
    bbox_loss (B, R, 4C), label (B, R).
    """
    config = FasterRCNNVGG16Config(
        num_classes=num_classes,
        rpn_batch_rois=rpn_batch_rois,
        rpn_nms_thresh=rpn_nms_thresh,
        rpn_min_size=rpn_min_size,
        rpn_pre_topk=rpn_pre_topk,
        rpn_post_topk=rpn_post_topk,
        rcnn_pooled_size=_side(rcnn_pooled_size),
        rcnn_batch_rois=rcnn_batch_rois,
        rcnn_fg_fraction=rcnn_fg_fraction,
        rcnn_fg_overlap=rcnn_fg_overlap,
        rcnn_bbox_stds=tuple(rcnn_bbox_stds),
    )
    anchors = AnchorSpec(rpn_feature_stride, tuple(anchor_scales), tuple(anchor_ratios))
    return _train_graph(config, anchors, rcnn_feature_stride, rcnn_batch_size)


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

    The arguments are those of get_vgg_train; the graph takes any number of images, whatever
    rcnn_batch_size says, which stands here for the original's sake. Inputs are data (B, 3, H, W)
    and im_info (B, 3).
    """
    config = FasterRCNNVGG16Config(
        num_classes=num_classes,
        rpn_nms_thresh=rpn_nms_thresh,
        rpn_min_size=rpn_min_size,
        rpn_pre_topk_test=rpn_pre_topk,
        rpn_post_topk_test=rpn_post_topk,
        rcnn_pooled_size=_side(rcnn_pooled_size),
        rcnn_bbox_stds=tuple(rcnn_bbox_stds),
    )
    anchors = AnchorSpec(rpn_feature_stride, tuple(anchor_scales), tuple(anchor_ratios))
    return _test_graph(config, anchors, rcnn_feature_stride)


def _side(pooled_size: int | Sequence[int]) -> int:
    sides = set(np.atleast_1d(pooled_size).tolist())
    if len(sides) != 1:
        raise ValueError(f"rcnn_pooled_size must be square, not {pooled_size}")
    return sides.pop()


LABELS = ("label", "bbox_target", "bbox_weight")


def assign_targets(
    config: FasterRCNNVGG16Config, image: ImageTargetsInput, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """RPN targets of one image: label (A*H*W,), bbox_target and bbox_weight (4A, H, W)."""
    height, width = (side // STRIDE for side in image.padded_size)
    sampling = RPNSampling(
        config.rpn_batch_rois,
        config.rpn_fg_fraction,
        config.rpn_fg_overlap,
        config.rpn_bg_overlap,
    )
    labels, targets, weights = rpn_targets(
        config.anchors.grid(height, width),
        image.gt_boxes,
        image.image_size,
        sampling,
        BoxCoder(offset=OFFSET),
        rng,
    )
    channels_first = (2, 0, 1)
    return {
        "label": labels.reshape(height, width, -1).transpose(channels_first).ravel(),
        "bbox_target": targets.reshape(height, width, -1).transpose(channels_first),
        "bbox_weight": weights.reshape(height, width, -1).transpose(channels_first),
    }


def init(
    config: FasterRCNNVGG16Config,
    name: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    scratch: bool,
) -> np.ndarray:
    """New layers N(0, 0.01), bbox_pred N(0, 0.001), biases 0; the body from scratch as He et al."""
    if name.endswith("_bias"):
        return np.zeros(shape, np.float32)
    std = 0.001 if name.startswith("bbox_pred") else 0.01
    if scratch and not name.startswith(("bbox_pred", "rpn_bbox_pred")):
        std = np.sqrt(2 / np.prod(shape[1:]))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def metrics(outputs, labels):
    """The six classic metrics, as (sum, count) pairs."""
    return {
        **rpn_metrics(outputs["rpn_cls_prob"], outputs["rpn_bbox_loss"], labels["label"]),
        **rcnn_metrics(
            outputs["cls_prob_reshape"], outputs["bbox_loss_reshape"], outputs["label_blockgrad"]
        ),
    }


DETECTOR = DetectorDef(
    name="faster_rcnn_vgg16",
    config=FasterRCNNVGG16Config,
    train_symbol=lambda config, images: _train_graph(config, config.anchors, STRIDE, images),
    test_symbol=lambda config: _test_graph(config, config.anchors, STRIDE),
    assign_targets=assign_targets,
    label_names=LABELS,
    init=init,
    metrics=metrics,
    losses=("RPNLogLoss", "RPNL1Loss", "RCNNLogLoss", "RCNNL1Loss"),
    stride=STRIDE,
    body=("conv",),
    quick={
        "model.width": 0.25,
        "model.fc_dim": 512,
        "model.rcnn_dropout": 0.0,
        "model.anchor_scales": (2, 4, 8),
    },
    defaults={"train.fixed": ("conv1", "conv2")},
    scratch={"train.fixed": ()},
)

DETECTORS = {DETECTOR.name: DETECTOR}
