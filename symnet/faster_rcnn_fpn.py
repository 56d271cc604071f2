"""Faster R-CNN with a feature pyramid (Lin et al. 2017), as in torchvision.

    image -> c2, c3, c4, c5 -> p2, p3, p4, p5, p6 -> RPN; each RoI from its level -> fc6, fc7

Letters are those of two_stage.py.
"""

from __future__ import annotations

from typing import Any

from symnet.config import presets
from symnet.config.two_stage import CoarsePyramidConfig, PyramidConfig
from symnet.detector import DetectorDef
from symnet.machine import Symbol, mx
from symnet.ops.rois import roi_align_levels
from symnet.parts.fpn import fpn
from symnet.parts.heads import fc_head
from symnet.two_stage import Stages, make_detector


def pyramid(config: PyramidConfig, data: Symbol, train: bool) -> list[Symbol]:
    """The pyramid of images (B, 3, H, W): p2 to p6, or the levels of CoarsePyramidConfig."""
    maps = config.feature_maps(data, train)
    norm = "" if config.norm == "frozen" else config.norm
    return fpn(
        [maps[stride] for stride in config.body_strides()],
        config.fpn_channels,
        norm,
        config.form.fpn_extra,
        halved=config.LEVELS[0] < config.LEVELS[1],
    )


def pool_from_levels(
    config: PyramidConfig,
    maps: list[Symbol],
    rois: Symbol,
    size: int,
    sampling_ratio: int,
    name: str,
) -> Symbol:
    """Pool each of rois (R, 5) from its level: (R, channels, size, size)."""
    form = config.form
    return roi_align_levels(
        maps[: config.ROI_LEVELS],
        rois,
        size,
        name,
        sampling_ratio,
        form.box_canonical_size,
        form.box_canonical_level,
        form.box_level_offset,
        config.LEVELS[0],
    )


def box_features(config: PyramidConfig, maps: list[Symbol], rois: Symbol, train: bool) -> Symbol:
    """fc7 of rois (R, 5): (R, box_head_dim)."""
    size, ratio = config.box_roi_size, config.form.box_sampling_ratio
    pooled = pool_from_levels(config, maps, rois, size, ratio, "box_pool")
    if config.form.box_avg_pool:
        pooled = mx.sym.Pooling(
            pooled, pool_type="avg", kernel=(3, 3), stride=(2, 2), pad=(1, 1), name="box_avg_pool"
        )
    return fc_head(pooled, config.box_head_dim, config.box_head_convs, config.fpn_channels)


def _coarse(name: str, **defaults: Any) -> DetectorDef:
    """torchvision's detectors on MobileNetV3; defaults: data and model settings of one of them."""
    return make_detector(
        name,
        CoarsePyramidConfig,
        Stages(pyramid, box_features),
        defaults={**presets.TORCHVISION, **defaults},
        quick={**presets.PYRAMID_QUICK, "model.body": "mobilenet_v3_large"},
        scratch={"model.norm": "group", "model.trainable_layers": 6},
    )


DETECTORS = {
    **{
        name: make_detector(
            name,
            PyramidConfig,
            Stages(pyramid, box_features),
            defaults={**presets.TORCHVISION, "model.body": body},
            quick={**presets.PYRAMID_QUICK, **small},
            presets={"gluoncv": presets.GLUONCV_PYRAMID},
        )
        for name, body, small in presets.pyramid_networks("faster_rcnn")
    },
    **{
        name: _coarse(name, **defaults)
        for name, defaults in (
            ("faster_rcnn_mobilenet_v3_large_fpn", {}),
            ("faster_rcnn_mobilenet_v3_large_320_fpn", presets.COARSE_320),
        )
    },
}
