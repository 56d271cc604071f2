"""Faster R-CNN on one feature map: the classic graph (Ren et al. 2015, as in the original MXNet
example), whatever its body.

Letters: B images a device, H, W the padded image, F the feature map's channels, A anchors a
position, R RoIs an image, S the side of a pooled RoI, C classes with background 0, G objects, D
detections. The names of inputs, parameters and outputs are those of the original graph: they are
its checkpoint format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from symnet.config.ranges import check_order, check_ranges
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.geometry.anchors import AnchorSpec
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import RPNSampling, rpn_targets
from symnet.machine import mx
from symnet.parts.layers import float32
from symnet.parts.metrics import classic_counts, rcnn_metrics, rpn_metrics
from symnet.parts.roi import crop_and_resize, decode_boxes, detections, roi_head, roi_losses
from symnet.parts.rpn import RPNHead, rpn_head, rpn_losses, rpn_proposals

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

#: pixels of a cell of the feature map, of all classic bodies
STRIDE = 16

#: contrib.MultiProposal counts a width as x2 - x1 + 1
OFFSET = 1

LABELS = ("label", "bbox_target", "bbox_weight")


@dataclass(frozen=True)
class ClassicConfig:
    """The classic values, in the order in which data flow through the network.

    ValueError names a field out of its range (symnet/config/ranges.py).
    """

    #: classes, with the background
    num_classes: int = 21
    #: a factor of the filters of every layer of body and RPN
    width: float = 1.0
    #: the anchors' sizes, in strides of 16 pixels: 8, 16, 32 are 128, 256, 512 pixels
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    #: heights of anchors over their widths
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    #: an anchor that overlaps an object at least so much is foreground
    rpn_fg_overlap: float = 0.7
    #: an anchor that overlaps all objects less than that is background
    rpn_bg_overlap: float = 0.3
    #: anchors and RoIs with more of their area in a crowd or difficult object are not background;
    #: 0: they are
    ignore_overlap: float = 0.0
    #: anchors of an image that the RPN learns from
    rpn_batch_rois: int = 256
    #: the largest share of foreground in them
    rpn_fg_fraction: float = 0.5
    #: proposals with a side below it, in pixels of the image as it is stored, are left out
    rpn_min_size: int = 16
    #: the best anchors that go into NMS, in training; -1: all
    rpn_pre_topk: int = 12000
    #: the same in testing
    rpn_pre_topk_test: int = 6000
    #: NMS removes proposals that overlap a better one more than that
    rpn_nms_thresh: float = 0.7
    #: proposals of an image after NMS, in training
    rpn_post_topk: int = 2000
    #: the same in testing
    rpn_post_topk_test: int = 300
    #: a proposal that overlaps an object at least so much is foreground, any other background
    rcnn_fg_overlap: float = 0.5
    #: RoIs of an image that the box head learns from
    rcnn_batch_rois: int = 128
    #: the largest share of foreground in them
    rcnn_fg_fraction: float = 0.25
    #: the seed of drawing them
    sampling_seed: int = 0
    #: how RoIs are cut out of the feature map, see `pool_rois`
    roi_op: Literal["roi_pool", "roi_align", "crop_resize"] = "roi_pool"
    #: cells a side that a RoI is pooled to
    rcnn_pooled_size: int = 7
    #: what the box head's targets dx, dy, dw, dh are divided by
    rcnn_bbox_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    #: detections with a score not above it are left out
    test_score_thresh: float = 1e-3
    #: the best candidates of an image that go into NMS; -1: all
    test_pre_nms_top_n: int = 2000
    #: NMS removes detections that overlap a better one of their class more than that
    test_nms_thresh: float = 0.3
    #: the most detections of an image
    test_max_detections: int = 100

    def __post_init__(self) -> None:
        check_ranges(self)
        check_order(self, "rpn_bg_overlap", "rpn_fg_overlap")

    @property
    def anchors(self) -> AnchorSpec:
        """The anchors of the one feature map."""
        return AnchorSpec(STRIDE, tuple(self.anchor_scales), tuple(self.anchor_ratios))


@dataclass(frozen=True)
class Body:
    """What the classic graph is built around.

    feature(config, data): the shared layers, (B, 3, H, W) -> (B, F, H/16, W/16).
    head(config, pooled): the layers of each RoI, (B*R, F, S, S) -> (B*R, _) or (B*R, _, 1, 1).
    rpn_width: filters of the RPN's hidden layer, in VGG16's 512.
    """

    feature: Callable[[Any, Symbol], Symbol]
    head: Callable[[Any, Symbol], Symbol]
    rpn_width: float = 1.0

    def rpn(self, config: ClassicConfig, feature: Symbol, anchors: AnchorSpec) -> RPNHead:
        """The region proposal network on the shared layers' map (B, F, H/16, W/16)."""
        return rpn_head(feature, anchors.num_anchors, self.rpn_width * config.width)


def pool_rois(feature: Symbol, rois: Symbol, op: str, stride: float, size: int) -> Symbol:
    """RoIs (B*R, 5), in pixels, cut out of a map (B, F, H/stride, W/stride): (B*R, F, size, size).

    roi_pool: the maximum over the cells of each bin, whole cells (Fast R-CNN, section 2.1).
    roi_align: the mean of 2 x 2 bilinear samples of each bin (Mask R-CNN, section 3).
    crop_resize: bilinear samples on a grid of twice the size, then 2x2 max-pooling.
    """
    feature = float32(feature)
    scale = 1.0 / stride
    if op == "roi_pool":
        return mx.sym.ROIPooling(
            feature, rois, pooled_size=(size, size), spatial_scale=scale, name="roi_pool"
        )
    if op == "roi_align":
        return mx.sym.contrib.ROIAlign(
            feature,
            rois,
            pooled_size=(size, size),
            spatial_scale=scale,
            sample_ratio=2,
            name="roi_align",
        )
    if op != "crop_resize":
        raise ValueError(f"RoI operator {op!r}: there are roi_pool, roi_align, crop_resize")
    return _crop_resize(feature, rois, scale, size)


def _crop_resize(feature: Symbol, rois: Symbol, scale: float, size: int) -> Symbol:
    """crop_and_resize to 2 size x 2 size, then 2x2 max-pooling (Chen and Gupta 2017).

    A sample beyond the last cell's centre repeats the map's edge, where TensorFlow gives 0.
    """
    index, boxes = (
        mx.sym.slice_axis(rois, axis=1, begin=begin, end=end) for begin, end in ((0, 1), (1, 5))
    )
    crop = crop_and_resize(feature, index, boxes, 2 * size, "roi_crop", scale)
    return mx.sym.Pooling(crop, pool_type="max", kernel=(2, 2), stride=(2, 2), name="roi_crop_pool")


def _box_head(
    config: ClassicConfig, body: Body, feature: Symbol, rois: Symbol, stride: int
) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C) and box deltas (B*R, 4C) of rois (B*R, 5)."""
    pooled = pool_rois(feature, rois, config.roi_op, stride, config.rcnn_pooled_size)
    return roi_head(body.head(config, pooled), config.num_classes)


def _sample_rois(config: ClassicConfig, proposals: Symbol, images: int) -> Symbol:
    """Four outputs: rois (B*R, 5), label (B*R,), bbox_target and bbox_weight (B*R, 4C)."""
    from symnet.ops import proposal_target  # noqa: F401 - registers the operator, needs mxnet

    return mx.sym.Custom(
        rois=proposals,
        gt_boxes=mx.sym.Variable("gt_boxes"),
        op_type="proposal_target",
        name="proposal_target",
        num_classes=config.num_classes,
        batch_images=images,
        batch_rois=config.rcnn_batch_rois * images,
        fg_fraction=config.rcnn_fg_fraction,
        fg_overlap=config.rcnn_fg_overlap,
        box_stds=tuple(config.rcnn_bbox_stds),
        ignore_overlap=config.ignore_overlap,
        seed=config.sampling_seed,
    )


def classic_train_graph(
    config: ClassicConfig, body: Body, anchors: AnchorSpec, stride: int, images: int
) -> Symbol:
    """The training graph for `images` images a device.

    The RPN's class loss is the mean over the sampled anchors. The others are sums divided by fixed
    numbers: the RPN's box loss by rpn_batch_rois an image, both of the RoIs by rcnn_batch_rois.

    anchors and stride, of the RoIs' feature map, are the config's own but for get_vgg_train.
    """
    feature = body.feature(config, mx.sym.Variable("data"))

    rpn = body.rpn(config, feature, anchors)
    rpn_labels = (mx.sym.Variable(name) for name in LABELS)
    rpn_cls_prob, rpn_bbox_loss = rpn_losses(
        rpn, *rpn_labels, num_samples=config.rpn_batch_rois * images
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
    rois, label, *targets = _sample_rois(config, proposals, images)
    cls_score, bbox_pred = _box_head(config, body, feature, rois, stride)
    num_rois = config.rcnn_batch_rois * images
    cls_prob, bbox_loss = roi_losses(cls_score, bbox_pred, label, *targets, num_rois)

    def per_image(data: Symbol, name: str, *rest: int) -> Symbol:
        shape = (-1, config.rcnn_batch_rois, *rest)
        return mx.sym.reshape(data, shape=shape, name=f"{name}_reshape")

    cls_prob = per_image(cls_prob, "cls_prob", config.num_classes)
    bbox_loss = per_image(bbox_loss, "bbox_loss", 4 * config.num_classes)
    label = mx.sym.BlockGrad(per_image(label, "label"), name="label_blockgrad")
    return mx.sym.Group([rpn_cls_prob, rpn_bbox_loss, cls_prob, bbox_loss, label])


def classic_test_graph(
    config: ClassicConfig, body: Body, anchors: AnchorSpec, stride: int
) -> Symbol:
    """The test graph, for any B: detections in network pixels, and their proposals."""
    im_info = mx.sym.Variable("im_info")
    feature = body.feature(config, mx.sym.Variable("data"))
    rois = rpn_proposals(
        body.rpn(config, feature, anchors),
        im_info,
        anchors,
        config.rpn_pre_topk_test,
        config.rpn_post_topk_test,
        config.rpn_nms_thresh,
        config.rpn_min_size,
    )
    cls_score, bbox_pred = _box_head(config, body, feature, rois, stride)
    num_rois, classes = config.rpn_post_topk_test, config.num_classes
    rois = mx.sym.reshape(rois, shape=(-1, num_rois, 5))
    scores = mx.sym.softmax(cls_score, axis=1, name="cls_prob")
    scores = mx.sym.reshape(scores, shape=(-1, num_rois, classes))
    deltas = mx.sym.reshape(bbox_pred, shape=(-1, num_rois, classes, 4))
    scores, deltas = (
        mx.sym.slice_axis(data, axis=2, begin=1, end=None) for data in (scores, deltas)
    )
    found = detections(
        decode_boxes(rois, deltas, im_info, config.rcnn_bbox_stds, OFFSET),
        scores,
        config.test_score_thresh,
        config.test_nms_thresh,
        config.test_pre_nms_top_n,
        config.test_max_detections,
        OFFSET,
    )
    proposals = mx.sym.slice_axis(rois, axis=2, begin=1, end=5, name="proposals")
    return mx.sym.Group([*found, proposals])


def assign_targets(
    config: ClassicConfig, image: ImageTargetsInput, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """RPN targets of one image: label (A*H*W,), bbox_target and bbox_weight (4A, H, W)."""
    height, width = (side // STRIDE for side in image.padded_size)
    sampling = RPNSampling(
        config.rpn_batch_rois,
        config.rpn_fg_fraction,
        config.rpn_fg_overlap,
        config.rpn_bg_overlap,
        ignore_overlap=config.ignore_overlap,
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
    config: ClassicConfig,
    name: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    scratch: bool,
) -> np.ndarray:
    """New layers N(0, 0.01), bbox_pred N(0, 0.001), biases 0; the body from scratch as He et al.

    Normalisations begin as the identity.
    """
    if name.endswith(("_bias", "_beta", "_moving_mean")):
        return np.zeros(shape, np.float32)
    if name.endswith(("_gamma", "_moving_var")):
        return np.ones(shape, np.float32)
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


def classic_detector(
    name: str,
    config: type[ClassicConfig],
    body: Body,
    *,
    pretrained: tuple[str, ...],
    quick: Mapping[str, Any],
    **settings: Any,
) -> DetectorDef:
    """A detector of the registry with that body; pretrained are the prefixes of its parameters."""
    return DetectorDef(
        name=name,
        config=config,
        train_symbol=lambda config, images: classic_train_graph(
            config, body, config.anchors, STRIDE, images
        ),
        test_symbol=lambda config: classic_test_graph(config, body, config.anchors, STRIDE),
        assign_targets=assign_targets,
        label_names=LABELS,
        init=init,
        metrics=metrics,
        counts=classic_counts,
        losses=("RPNLogLoss", "RPNL1Loss", "RCNNLogLoss", "RCNNL1Loss"),
        stride=STRIDE,
        body=pretrained,
        quick={"model.anchor_scales": (2, 4, 8), **quick},
        **settings,
    )
