"""Faster R-CNN on c4 (He et al. 2015, appendix A), as in gluoncv.

    image -> stages 1 to 3 of a ResNet = c4 -> RPN; each RoI of c4 -> stage 4 -> average

Widths are x2 - x1, objectness is a sigmoid, RoIAlign samples 2 x 2 points per bin, and boxes are
clipped to the image after NMS. The classic graph on c4, with MultiProposal and ResNet v2, is in
classic.py. Letters are those of two_stage.py.
"""

from __future__ import annotations

from symnet.bodies import get_body
from symnet.config import presets
from symnet.config.two_stage import C4_STRIDE, C4Config
from symnet.machine import Symbol, mx
from symnet.ops.rois import pool_rois
from symnet.two_stage import Stages, make_detector


def c4(config: C4Config, data: Symbol, train: bool) -> list[Symbol]:
    """c4 of images (B, 3, H, W)."""
    return [config.feature_maps(data, train)[C4_STRIDE]]


def roi_maps(config: C4Config, maps: list[Symbol], rois: Symbol, train: bool) -> Symbol:
    """Stage 4 of pooled rois (R, 5): (R, 2048, 7, 7), half the side of the pooled RoIs.

    RoIs with batch index -1 are pooled from image 0; their results are ignored.
    """
    image = mx.sym.relu(mx.sym.slice_axis(rois, axis=1, begin=0, end=1))
    rois = mx.sym.concat(image, mx.sym.slice_axis(rois, axis=1, begin=1, end=5), dim=1)
    pooled = pool_rois(maps[0], rois, "roi_align", C4_STRIDE, config.box_roi_size)
    return get_body(config.body).head(pooled, config.body_norm(train), **config.body_options())


def box_features(config: C4Config, maps: list[Symbol], rois: Symbol, train: bool) -> Symbol:
    """The average of stage 4 of pooled rois (R, 5): (R, 2048, 1, 1)."""
    feature = roi_maps(config, maps, rois, train)
    return mx.sym.Pooling(feature, pool_type="avg", global_pool=True, name="box_avg_pool")


#: older runs were trained by torchvision's rules
BEFORE = {"rpn_inside_only": False, "rpn_best_below_bg": True, "box_smooth_l1_beta": 1 / 9}

DETECTORS = {
    "faster_rcnn_r50v1_c4": make_detector(
        "faster_rcnn_r50v1_c4",
        C4Config,
        Stages(c4, box_features),
        defaults=presets.GLUONCV_C4,
        quick=presets.C4_QUICK,
        presets={"coco": presets.GLUONCV_C4_COCO},
        before=BEFORE,
    )
}
