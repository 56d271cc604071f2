"""Faster R-CNN with ResNet-50 and ResNet-101 C4 (He et al. 2015, appendix A), as in the original
MXNet example: stages 1 to 3 are shared, stage 4 is the head of each RoI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symnet.bodies.resnet_v2 import get_resnet_feature, get_resnet_top_feature
from symnet.classic import Body, ClassicConfig, classic_detector
from symnet.detector import DetectorDef


@dataclass(frozen=True)
class ResNet50C4Config(ClassicConfig):
    """The classic values."""

    #: residual units of the four stages
    units: tuple[int, ...] = (3, 4, 6, 3)
    #: how the body is normalised: on the pretrained file's statistics (frozen), or trained (batch)
    norm: Literal["frozen", "batch"] = "frozen"

    # another value than ClassicConfig's
    rcnn_pooled_size: int = 14


@dataclass(frozen=True)
class ResNet101C4Config(ResNet50C4Config):
    """ResNet50C4Config with the units of ResNet-101."""

    units: tuple[int, ...] = (3, 4, 23, 3)


BODY = Body(
    feature=lambda config, data: get_resnet_feature(data, config.units, config.width, config.norm),
    head=lambda config, data: get_resnet_top_feature(data, config.units, config.width, config.norm),
    rpn_width=2.0,  # 1024 filters, as many as stage 3 has
)


def frozen(config: ResNet50C4Config, name: str) -> bool:
    """Normalisation, where it is not trained; the input's never has a scale."""
    return name == "bn_data_gamma" or (
        config.norm == "frozen" and name.endswith(("_gamma", "_beta"))
    )


def _detector(name: str, config: type[ResNet50C4Config], units: tuple[int, ...]) -> DetectorDef:
    return classic_detector(
        name,
        config,
        BODY,
        pretrained=("bn_data", "conv0", "bn0", "stage", "bn1"),
        quick={"model.width": 0.25, "model.units": units, "model.rcnn_batch_rois": 32},
        # the files expect RGB 0-255 as it is: bn_data, the first layer, takes the statistics off
        defaults={
            "data.mean": (0.0, 0.0, 0.0),
            "data.std": (1.0, 1.0, 1.0),
            "train.fixed": ("conv0", "stage1"),
        },
        scratch={"train.fixed": (), "model.norm": "batch"},
        frozen=frozen,
    )


DETECTORS = {
    detector.name: detector
    for detector in (
        _detector("faster_rcnn_r50_c4", ResNet50C4Config, (1, 1, 2, 1)),
        _detector("faster_rcnn_r101_c4", ResNet101C4Config, (1, 1, 4, 1)),
    )
}
