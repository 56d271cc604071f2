"""Converts parameters to torchvision's names, so that both sides compute the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mxrcnn.weights.torchvision import torchvision_name
from symnet.bodies.vgg import BLOCKS

#: the classic VGG16 detector's layers, except the body's -> their names in peer_torchvision.py
_VGG_LAYERS = {
    "rpn_conv_3x3": "rpn.head.conv.0.0",
    "rpn_bbox_pred": "rpn.head.bbox_pred",
    "fc6": "roi_heads.box_head.layers.0",
    "fc7": "roi_heads.box_head.layers.3",
    "cls_score": "roi_heads.box_predictor.cls_score",
    "bbox_pred": "roi_heads.box_predictor.bbox_pred",
}


def to_torchvision(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict for torchvision's detector: the inverse of `from_torchvision`.

    Also converts the classic VGG16 detector, for the equal network of peer_torchvision.py.
    """
    layers = {**_VGG_LAYERS, **_vgg_body()} if "conv1_1_weight" in params else {}
    out = {}
    for name, value in params.items():
        layer, _, leaf = torchvision_name(name).rpartition(".")
        if layer == "rpn_cls_score":
            # the softmax of (background, object) equals the sigmoid of their difference
            background, value = np.split(value, 2)
            layer, value = "rpn.head.cls_logits", value - background
        out[f"{layers.get(layer, layer)}.{leaf}"] = value
    return out


def _vgg_body() -> dict[str, str]:
    """conv1_1 -> backbone.0 and so on; torchvision also numbers ReLU and pooling."""
    out, place = {}, 0
    for block, (count, _) in enumerate(BLOCKS, start=1):
        for layer in range(1, count + 1):
            out[f"conv{block}_{layer}"] = f"backbone.{place}"
            place += 2
        place += 1
    return out
