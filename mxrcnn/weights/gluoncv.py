"""gluoncv's models, as `save_parameters` writes them: ResNet v1b, and Faster R-CNN C4 with it."""

from __future__ import annotations

import re

import numpy as np

from mxrcnn.weights.source import IMAGENET, Arrays, Source, unused
from mxrcnn.weights.torchvision import resnet_depth, resnet_networks
from symnet.faster_rcnn_v1b import COCO
from symnet.resnet import PREFIX as BODY

#: endings of names here, and gluoncv's
_ENDINGS = {
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
    "weight": "weight",
    "bias": "bias",
}
#: prefixes of layers: gluoncv numbers what it chained
_LAYERS = (
    (r"^features\.0$", "conv1"),
    (r"^features\.1$", "bn1"),
    (r"^features\.([456])\.", lambda found: f"layer{int(found[1]) - 3}."),
    (r"^top_features\.0\.", "layer4."),
)
#: layers outside the body, and theirs
_HEAD = {
    "rpn.conv1.0": "rpn.head.conv.0.0",
    "rpn.score": "rpn.head.cls_logits",
    "rpn.loc": "rpn.head.bbox_pred",
    "class_predictor": "roi_heads.box_predictor.cls_score",
    "box_predictor": "roi_heads.box_predictor.bbox_pred",
}
_BOXES = "roi_heads.box_predictor.bbox_pred_"


def _resnet_layer(layer: str) -> str:
    for pattern, name in _LAYERS:
        layer = re.sub(pattern, name, layer)
    return layer


def _origin(arrays: Arrays) -> dict[str, str]:
    """Names here, and in the file, of what has a place."""
    origin = {}
    for name in arrays:
        layer, _, leaf = name.rpartition(".")
        body = _resnet_layer(layer)
        is_body = re.match(r"(conv1|bn1)$|layer[1-4]\.\d", body)
        ours = BODY + body if is_body else _HEAD.get(layer)
        if ours and leaf in _ENDINGS:
            origin[f"{ours}_{_ENDINGS[leaf]}"] = name
    return origin


def _depth(origin: dict[str, str]) -> int | None:
    names = [name[len(BODY) : -len("_weight")] + ".weight" for name in origin if "_weight" in name]
    return resnet_depth(names)


def _left_out(arrays: Arrays, origin: dict[str, str]) -> dict[str, str]:
    reasons = {}
    for name in unused(arrays, origin):
        if re.match(r"fc\.(weight|bias)$", name):
            reasons[name] = "the classifier's own classes"
        elif ".anchors" in name or name.startswith("normalizedperclass"):
            reasons[name] = "constants that the graph computes itself"
    return reasons


def resnet_classifier(arrays: Arrays) -> Source | None:
    """ResNet v1b: the same network as torchvision's."""
    if "bn1.gamma" not in arrays or "layer1.0.bn1.gamma" not in arrays:
        return None
    origin = _origin(arrays)
    depth = _depth(origin)
    if depth is None or np.ndim(arrays.get("conv1.weight")) != 4:
        return None
    return Source(
        f"gluoncv's ResNet-{depth} v1b classifier",
        resnet_networks(depth),
        {ours: arrays[name] for ours, name in origin.items()},
        origin,
        _left_out(arrays, origin),
    )


def detector(arrays: Arrays) -> Source | None:
    """Faster R-CNN C4, as faster_rcnn_resnet50_v1b_voc and _coco."""
    needed = ("features.0.weight", "rpn.score.weight", "class_predictor.weight")
    origin = _origin(arrays)
    depth = _depth(origin)
    if not all(name in arrays for name in needed) or depth not in (50, 101):
        return None
    params = {ours: arrays[name] for ours, name in origin.items()}
    for leaf in ("weight", "bias"):  # gluoncv has no boxes for the background
        value = params[f"{_BOXES}{leaf}"]
        params[f"{_BOXES}{leaf}"] = np.concatenate([np.zeros_like(value[:4]), value])
    classes = len(arrays["class_predictor.weight"])
    settings = {**IMAGENET, **(COCO if classes == 81 else {}), "model.depth": depth}
    settings["model.rpn_channels"] = len(arrays["rpn.score.weight"][0])
    return Source(
        f"gluoncv's Faster R-CNN ResNet-{depth} v1b detector",
        {"faster_rcnn_r50_v1b": settings},
        params,
        origin,
        _left_out(arrays, origin),
        classes,
    )
