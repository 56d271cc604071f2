"""The classic graph: Faster R-CNN on one feature map (Ren et al. 2015), with any body.

    image -> feature map -> RPN -> MultiProposal -> proposal_target -> RoI pooling -> fc6, fc7
                             |                                                       |
                         two losses                                              two losses

Inputs, parameters and outputs have the names of the original MXNet example's graph, because they
are its checkpoint format.

Letters: B images per device, H, W padded image size, F feature map channels, A anchors per
position, R RoIs per image, S side of a pooled RoI, C classes with background 0, G objects,
D detections.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from symnet.bodies import get_body
from symnet.bodies.vgg import get_vgg_top_feature
from symnet.config.classic import (
    STRIDE,
    ClassicConfig,
    ResNet50C4Config,
    ResNet101C4Config,
    ZFConfig,
)
from symnet.config.detector import is_frozen, is_of_body
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.geometry.anchors import AnchorSpec
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import rpn_targets
from symnet.machine import Symbol, mx
from symnet.ops.rois import pool_rois
from symnet.parts.detections import decode_boxes, detections
from symnet.parts.heads import box_predictor, roi_losses, sample_rois
from symnet.parts.layers import thin
from symnet.parts.metrics import classic_counts, classic_metrics
from symnet.parts.rpn import RPNHead, rpn_head, rpn_losses, rpn_proposals

#: contrib.MultiProposal counts a width as x2 - x1 + 1
OFFSET = 1

LABELS = ("label", "bbox_target", "bbox_weight")


def _rpn(config: ClassicConfig, feature: Symbol, anchors: AnchorSpec) -> RPNHead:
    """The RPN. Its hidden layer has as many filters as the feature map (B, F, H/16, W/16)."""
    channels = thin(get_body(config.body).channels[STRIDE], config.width)
    return rpn_head(feature, anchors.num_anchors, channels)


def _box_head(
    config: ClassicConfig, feature: Symbol, rois: Symbol, stride: int, train: bool
) -> tuple[Symbol, Symbol]:
    """Class logits (B*R, C) and box deltas (B*R, 4C) of rois (B*R, 5).

    Pooled RoIs go through the body's own head, such as a ResNet's stage 4, or through fc6 and fc7.
    """
    size, body = config.box_roi_size, get_body(config.body)
    pooled = pool_rois(feature, rois, config.roi_op, stride, size)
    if body.head is None:
        feature = get_vgg_top_feature(pooled, config.box_head_dim, config.box_dropout, size)
    else:
        feature = body.head(pooled, config.body_norm(train), **config.body_options())
        feature = mx.sym.Pooling(
            feature, pool_type="avg", global_pool=True, kernel=(7, 7), name="pool1"
        )
    return box_predictor(feature, config.num_classes, prefix="")


def classic_train_graph(
    config: ClassicConfig, images: int, anchors: AnchorSpec | None = None, stride: int = STRIDE
) -> Symbol:
    """The training graph for `images` images per device.

    The RPN's class loss is the mean over the sampled anchors. The other losses are sums divided by
    fixed numbers: the RPN's box loss by the anchors to sample per batch, the box head's losses by
    the RoIs to sample per batch.

    anchors and stride (of the RoIs' feature map) default to the config's; get_vgg_train sets them.
    """
    anchors = anchors or config.anchors
    feature = config.feature_maps(mx.sym.Variable("data"), train=True)[STRIDE]
    rpn = _rpn(config, feature, anchors)
    rpn_labels = (mx.sym.Variable(name) for name in LABELS)
    rpn_cls_prob, rpn_bbox_loss = rpn_losses(
        rpn, *rpn_labels, num_samples=config.rpn_batch_size_per_image * images
    )
    proposals = rpn_proposals(
        rpn,
        mx.sym.Variable("im_info"),
        anchors,
        config.rpn_pre_nms_top_n_train,
        config.rpn_post_nms_top_n_train,
        config.rpn_nms_thresh,
        config.rpn_min_size,
    )
    rois, label, *targets = sample_rois(config, proposals, mx.sym.Variable("gt_boxes"), images)
    cls_score, bbox_pred = _box_head(config, feature, rois, stride, train=True)
    num_rois = config.box_batch_size_per_image * images
    cls_prob, bbox_loss = roi_losses(cls_score, bbox_pred, label, *targets, num_rois)

    def per_image(data: Symbol, name: str, *rest: int) -> Symbol:
        shape = (-1, config.box_batch_size_per_image, *rest)
        return mx.sym.reshape(data, shape=shape, name=f"{name}_reshape")

    cls_prob = per_image(cls_prob, "cls_prob", config.num_classes)
    bbox_loss = per_image(bbox_loss, "bbox_loss", 4 * config.num_classes)
    label = mx.sym.BlockGrad(per_image(label, "label"), name="label_blockgrad")
    return mx.sym.Group([rpn_cls_prob, rpn_bbox_loss, cls_prob, bbox_loss, label])


def classic_test_graph(
    config: ClassicConfig, anchors: AnchorSpec | None = None, stride: int = STRIDE
) -> Symbol:
    """The test graph for any B: detections in network pixels, and the proposals."""
    anchors = anchors or config.anchors
    im_info = mx.sym.Variable("im_info")
    feature = config.feature_maps(mx.sym.Variable("data"), train=False)[STRIDE]
    rois = rpn_proposals(
        _rpn(config, feature, anchors),
        im_info,
        anchors,
        config.rpn_pre_nms_top_n_test,
        config.rpn_post_nms_top_n_test,
        config.rpn_nms_thresh,
        config.rpn_min_size,
    )
    cls_score, bbox_pred = _box_head(config, feature, rois, stride, train=False)
    num_rois, classes = config.rpn_post_nms_top_n_test, config.num_classes
    rois = mx.sym.reshape(rois, shape=(-1, num_rois, 5))
    scores = mx.sym.softmax(cls_score, axis=1, name="cls_prob")
    scores = mx.sym.reshape(scores, shape=(-1, num_rois, classes))
    deltas = mx.sym.reshape(bbox_pred, shape=(-1, num_rois, classes, 4))
    scores, deltas = (
        mx.sym.slice_axis(data, axis=2, begin=1, end=None) for data in (scores, deltas)
    )
    found = detections(
        decode_boxes(rois, deltas, im_info, config.box_bbox_stds, OFFSET),
        scores,
        config.score_thresh,
        config.nms_thresh,
        config.pre_nms_top_n,
        config.detections_per_img,
        OFFSET,
    )
    proposals = mx.sym.slice_axis(rois, axis=2, begin=1, end=5, name="proposals")
    return mx.sym.Group([*found, proposals])


def assign_targets(
    config: ClassicConfig, image: ImageTargetsInput, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """RPN targets of one image: label (A*H*W,), bbox_target and bbox_weight (4A, H, W)."""
    height, width = (side // STRIDE for side in image.padded_size)
    labels, targets, weights = rpn_targets(
        config.anchors.grid(height, width),
        image.gt_boxes,
        image.image_size,
        config.rpn_sampling(),
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
    """Initial values of new layers: N(0, 0.01), bbox_pred N(0, 0.001), biases 0.

    From scratch, all layers but the box predictors follow He et al. Normalisations start as the
    identity.
    """
    if name.endswith(("_bias", "_beta", "_moving_mean")):
        return np.zeros(shape, np.float32)
    if name.endswith(("_gamma", "_moving_var")):
        return np.ones(shape, np.float32)
    std = 0.001 if name.startswith("bbox_pred") else 0.01
    if scratch and not name.startswith(("bbox_pred", "rpn_bbox_pred")):
        std = np.sqrt(2 / np.prod(shape[1:]))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def classic_detector(name: str, config: type[ClassicConfig], **settings: Any) -> DetectorDef:
    """Make a detector of this family; `settings`: the fields in which members differ."""
    settings["quick"] = {"model.anchor_scales": (2, 4, 8), **settings["quick"]}
    return DetectorDef(
        name=name,
        config=config,
        train_symbol=classic_train_graph,
        test_symbol=classic_test_graph,
        assign_targets=assign_targets,
        label_names=LABELS,
        init=init,
        metrics=classic_metrics,
        counts=classic_counts,
        counts_labels=True,
        losses=("RPNLogLoss", "RPNL1Loss", "RCNNLogLoss", "RCNNL1Loss"),
        stride=STRIDE,
        of_body=is_of_body,
        frozen=is_frozen,
        **settings,
    )


#: older runs list what is frozen in train.fixed
BEFORE = {"trainable_layers": 5}


def _c4_detector(name: str, config: type, units: tuple[int, ...]) -> DetectorDef:
    return classic_detector(
        name,
        config,
        quick={"model.width": 0.25, "model.units": units, "model.box_batch_size_per_image": 32},
        # the files expect unchanged RGB 0-255: bn_data, the first layer, normalises it
        defaults={"data.mean": (0.0, 0.0, 0.0), "data.std": (1.0, 1.0, 1.0)},
        scratch={"model.trainable_layers": 5, "model.norm": "batch"},
        before=BEFORE,
    )


#: fc6 and fc7 of quick presets
SLIM_HEAD = {"model.box_head_dim": 512, "model.box_dropout": 0.0}

DETECTORS = {
    detector.name: detector
    for detector in (
        classic_detector(
            "faster_rcnn_vgg16",
            ClassicConfig,
            quick={
                # without normalisations VGG16 learns next to nothing in its first hundred steps
                "model.body": "vgg16_bn",
                "model.norm": "batch",
                "model.width": 0.25,
                "model.box_batch_size_per_image": 64,
                **SLIM_HEAD,
            },
            scratch={"model.trainable_layers": 5},
            before=BEFORE,
        ),
        classic_detector(
            "faster_rcnn_zf",
            ZFConfig,
            quick={**SLIM_HEAD, "model.width": 0.5},
            # py-faster-rcnn's mean; it trains all layers of ZF
            defaults={"data.mean": (122.7717, 115.9465, 102.9801)},
        ),
        _c4_detector("faster_rcnn_r50v2_c4", ResNet50C4Config, (1, 1, 2, 1)),
        _c4_detector("faster_rcnn_r101v2_c4", ResNet101C4Config, (1, 1, 4, 1)),
    )
}
