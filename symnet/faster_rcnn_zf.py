"""Faster R-CNN with ZF, the small network of the paper (Ren et al. 2015; py-faster-rcnn)."""

from __future__ import annotations

from dataclasses import dataclass

from symnet.bodies.body import Body
from symnet.bodies.vgg import FC_DIM, get_vgg_top_feature
from symnet.bodies.zf import get_zf_feature
from symnet.classic import classic_detector
from symnet.config.classic import ClassicConfig


@dataclass(frozen=True)
class FasterRCNNZFConfig(ClassicConfig):
    """The classic values."""

    #: outputs of fc6 and fc7
    box_head_dim: int = FC_DIM
    #: the share of their outputs that is dropped, in training
    box_dropout: float = 0.5

    # another value than ClassicConfig's
    box_roi_size: int = 6


BODY = Body(
    feature=lambda config, data: get_zf_feature(data, config.width),
    head=lambda config, data: get_vgg_top_feature(
        data, config.box_head_dim, config.box_dropout, config.box_roi_size
    ),
    rpn_width=0.5,  # 256 filters, as many as conv5 has
)

DETECTOR = classic_detector(
    "faster_rcnn_zf",
    FasterRCNNZFConfig,
    BODY,
    pretrained=("conv",),
    quick={"model.width": 0.5, "model.box_head_dim": 512, "model.box_dropout": 0.0},
    # py-faster-rcnn's mean; it trains all layers of ZF
    defaults={"data.mean": (122.7717, 115.9465, 102.9801)},
)

DETECTORS = {DETECTOR.name: DETECTOR}
