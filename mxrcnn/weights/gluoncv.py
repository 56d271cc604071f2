"""Reads gluoncv's models (`save_parameters`): ResNet v1b and v1d, Faster and Mask R-CNN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from mxrcnn.weights.source import IMAGENET, OWN_CLASSES, Arrays, Source, fold_norm, left_out
from mxrcnn.weights.torchvision import resnet_depth, resnet_networks
from symnet.bodies.mobilenet import BLOCKS
from symnet.bodies.resnet import PREFIX as BODY
from symnet.config import presets
from symnet.parts.fpn import PREFIX as FPN
from symnet.parts.norms import NORM_EPS, STATISTICS

#: endings of gluoncv's names -> endings here
_ENDINGS = {
    **{name: name for name in (*STATISTICS, "weight", "bias")},
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}
#: the body's layers in C4 detectors: gluoncv numbers the layers of a chain
_CHAINED = (
    (r"^features\.0(?=\.|$)", "conv1"),
    (r"^features\.1$", "bn1"),
    (r"^features\.([456])\.", lambda found: f"layer{int(found[1]) - 3}."),
    (r"^top_features\.0\.", "layer4."),
)
#: the body's entries in FPN detectors: a stage's layers are numbered in order of use
_NUMBERED = re.compile(
    r"^features\.(?:resnetv1([bd])|mobilenet\d+)_(?:(layers|down)([1-4])_)?"
    r"(conv|(?:sync)?batchnorm)(\d+)_(\w+)$"
)
#: MobileNet's layers in order of use: the parts of their names here before and after "conv"/"bn"
_MOBILENET = dict(
    enumerate(
        [
            ("", 1),
            *(
                (f"layer{stage}.{block}.", layer)
                for stage, blocks in enumerate(BLOCKS, start=1)
                for block in range(len(blocks))
                for layer in (1, 2)
            ),
        ]
    )
)
#: the pyramid's convolutions and normalisations; the second group matches the inner ones
_PYRAMID = re.compile(r"^features\.P([2-6])_(?:(conv_lat|lat_bn|conv1_bn)|conv1|bn|pre_bn)_(\w+)$")
#: gluoncv's layers outside the body -> layers here
_HEAD = {
    "rpn.conv1.0": "rpn.head.conv.0.0",
    "rpn.score": "rpn.head.cls_logits",
    "rpn.loc": "rpn.head.bbox_pred",
    "class_predictor": "roi_heads.box_predictor.cls_score",
    "box_predictor": "roi_heads.box_predictor.bbox_pred",
    "mask.mask": "roi_heads.mask_predictor.mask_fcn_logits",
}
_FC = ("roi_heads.box_head.fc6", "roi_heads.box_head.fc7")
_DECONV = "roi_heads.mask_predictor.conv5_mask"
#: layers without a background class in gluoncv, and their rows per class
_NO_BACKGROUND = {
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}

#: patterns of entries that have no use here, and why
_LEFT_OUT = {
    r"^fc\.(weight|bias)$": OWN_CLASSES,
    r"\.anchors|^normalizedperclass": "constants that the graph computes itself",
}

#: a layer's name here, or None, and the ending of the entry's name in the file
_Place = tuple[Optional[str], str]


def _numbered(name: str, per_block: int) -> _Place | None:
    """Place an entry of an FPN detector's body, with per_block convolutions; None for others."""
    found = _NUMBERED.match(name)
    if not found:
        return None
    version, group, stage, kind, number, leaf = found.groups()
    number, short = int(number), "conv" if kind == "conv" else "bn"
    if group == "layers":
        layer = f"layer{stage}.{number // per_block}.{short}{number % per_block + 1}"
    elif group == "down":
        layer = f"layer{stage}.0.downsample.{(short == 'bn') + (version == 'd')}"
    elif version is None:
        before, after = _MOBILENET.get(number, ("", number))
        layer = f"{before}{short}{after}"
    elif version == "d" and (short, number) != ("bn", 2):
        layer = f"conv1.{3 * number + (short == 'bn')}"
    else:
        layer = "bn1" if short == "bn" else "conv1"
    return BODY + layer, leaf


def _of_pyramid(name: str) -> _Place | None:
    """Place an entry of the pyramid's layers or their normalisations; None for others."""
    found = _PYRAMID.match(name)
    if not found:
        return None
    level, inner, leaf = found.groups()
    if level == "6":
        return f"{FPN}extra_blocks.p6", leaf
    blocks = "inner" if inner else "layer"
    return f"{FPN}{blocks}_blocks.{int(level) - 2}.0", leaf


def _chained(name: str, chains: Mapping[str, str]) -> _Place:
    """Place an entry of a C4 detector's body, or of the heads."""
    layer, _, leaf = name.rpartition(".")
    body = layer
    for pattern, replacement in _CHAINED:
        body = re.sub(pattern, replacement, body)
    if re.match(r"(conv1(\.\d)?|bn1)$|layer[1-4]\.\d", body):
        return BODY + body, leaf
    layer = layer.replace("rpn.rpn_head.", "rpn.")
    return _HEAD.get(layer, chains.get(layer)), leaf


def _numbers(arrays: Arrays, chain: str) -> list[int]:
    """The positions in a chain of layers that have weights."""
    found = (re.match(rf"{chain}\.(\d+)\.weight$", name) for name in arrays)
    return sorted(int(match[1]) for match in found if match)


def _box_layers(arrays: Arrays) -> list[str]:
    """The box head's layers here: convolutions and one dense layer, or two dense layers."""
    numbers = _numbers(arrays, "box_features")
    convs = sum(np.ndim(arrays[f"box_features.{number}.weight"]) == 4 for number in numbers)
    head = "roi_heads.box_head."
    return [*(f"{head}{i}.0" for i in range(convs)), f"{head}{convs + 1}"] if convs else [*_FC]


def _mask_layers(arrays: Arrays) -> list[str]:
    """The mask head's convolutions here; the last one is transposed."""
    layers = len(_numbers(arrays, r"mask\.deconv")) - 1
    return [*(f"roi_heads.mask_head.{i}.0" for i in range(layers)), _DECONV]


def _chains(arrays: Arrays) -> dict[str, str]:
    """Chained layers, file's names -> names here; a normalisation gets the name of its layer."""
    out = {"mask.deconv": _DECONV}
    for chain, layers in (("box_features", _box_layers), ("mask.deconv", _mask_layers)):
        for number, layer in zip(_numbers(arrays, re.escape(chain)), layers(arrays)):
            out[f"{chain}.{number}"] = out[f"{chain}.{number + 1}"] = layer
    return out


def _origin(arrays: Arrays) -> dict[str, str]:
    """Names here -> names in the file, of the entries that are used."""
    chains = _chains(arrays)
    bottleneck = any(name.endswith("_layers1_conv8_weight") for name in arrays)
    origin = {}
    for name in arrays:
        place = _numbered(name, 3 if bottleneck else 2) or _of_pyramid(name)
        ours, leaf = place or _chained(name, chains)
        if ours and leaf in _ENDINGS:
            origin[f"{ours}_{_ENDINGS[leaf]}"] = name
    return origin


def _body(origin: dict[str, str]) -> tuple[str, str] | None:
    """The body's name in gluoncv, and its name here; None if it is unknown."""
    layers = [name.rpartition("_")[0] for name in origin if name.endswith("_weight")]
    names = [f"{layer[len(BODY) :]}.weight" for layer in layers if layer.startswith(BODY)]
    depth = resnet_depth(names)
    if depth and "conv1.weight" in names:
        return f"ResNet-{depth} v1b", f"resnet{depth}"
    if depth and "conv1.0.weight" in names:
        return f"ResNet-{depth} v1d", f"resnet{depth}_v1d"
    if set(names) == {f"{before}conv{after}.weight" for before, after in _MOBILENET.values()}:
        return "MobileNet 1.0", "mobilenet1_0"
    return None


def resnet_classifier(arrays: Arrays) -> Source | None:
    """A classifier: ResNet v1b, which is the same network as torchvision's, or v1d."""
    if "bn1.gamma" not in arrays or "layer1.0.bn1.gamma" not in arrays:
        return None
    origin = _origin(arrays)
    body = _body(origin)
    if body is None:
        return None
    title, name = body
    return Source(
        f"gluoncv's {title} classifier",
        resnet_networks(name),
        {ours: arrays[name] for ours, name in origin.items()},
        origin,
        left_out(arrays, origin, _LEFT_OUT),
    )


def _params(arrays: Arrays, origin: dict[str, str]) -> dict[str, np.ndarray]:
    """Arrays by names here, with rows of zeros added where gluoncv has no background class."""
    params = {ours: arrays[name] for ours, name in origin.items()}
    for layer, rows in _NO_BACKGROUND.items():
        for name in (f"{layer}_weight", f"{layer}_bias"):
            if name in params:
                value = params[name]
                params[name] = np.concatenate([np.zeros_like(value[:rows]), value])
    return params


def _fold_norms(params: dict[str, np.ndarray], origin: dict[str, str]) -> None:
    """Fold normalisations, using their stored statistics, into the layers before them.

    The body keeps its normalisations as layers. Entries whose shapes do not match are left as they
    are, so they show up as unused.
    """
    for layer in [name[: -len("_beta")] for name in params if name.endswith("_beta")]:
        names = [f"{layer}_{leaf}" for leaf in ("weight", "bias", *STATISTICS)]
        kernel, bias, *statistics = (params.get(name) for name in names)
        axis, eps = int(layer == _DECONV), NORM_EPS
        outputs = np.shape(kernel)[axis : axis + 1]
        bias = np.zeros(outputs, np.float32) if bias is None else bias
        if not outputs or any(np.shape(value) != outputs for value in (bias, *statistics)):
            continue
        if layer.startswith(FPN):  # MXNet's SyncBatchNorm fixes gamma to 1 by default
            statistics[0], eps = np.ones(outputs, np.float32), 1e-3
        kernel, bias = fold_norm(np.moveaxis(kernel, axis, -1), bias, statistics, eps)
        entries = " ".join(origin[name] for name in names if name in origin)
        for name in names:
            params.pop(name, None)
            origin.pop(name, None)
        params.update(zip(names, (np.moveaxis(kernel, -1, axis), bias)))
        origin.update(dict.fromkeys(names[:2], entries))


def detector(arrays: Arrays) -> Source | None:
    """A Faster or Mask R-CNN, C4 or FPN, such as faster_rcnn_resnet50_v1b_voc."""
    origin = _origin(arrays)
    body = _body(origin)
    has_heads = "rpn.head.cls_logits_weight" in origin and "class_predictor.weight" in arrays
    if body is None or not has_heads:
        return None
    body_title, body_name = body
    kind = "mask_rcnn" if "mask.mask.weight" in arrays else "faster_rcnn"
    is_fpn = f"{FPN}inner_blocks.0.0_weight" in origin
    params = _params(arrays, origin)
    _fold_norms(params, origin)
    folded = sum(" " in entries for entries in origin.values()) // 2
    settings = {**_settings(arrays, params, kind), "model.body": body_name}
    layers = 101 if body_name.startswith("resnet101") else 50
    network = f"{kind}_r{layers}_fpn" if is_fpn else f"{kind}_r50v1_c4"
    title = "Mask R-CNN" if kind == "mask_rcnn" else "Faster R-CNN"
    num_classes, notes = len(arrays["class_predictor.weight"]), []
    if folded:
        notes.append(f"normalisation folded into {folded} layers of the pyramid and the heads")
    if kind == "faster_rcnn" and not is_fpn:
        form = "coco" if _has_coco_form(kind, num_classes) else "voc"
        notes.append(
            f"it has {num_classes - 1} classes, so NMS and image sizes are those of gluoncv's "
            f"*_{form}; --set changes them"
        )
    return Source(
        f"gluoncv's {title} {'FPN ' * is_fpn}{body_title} detector",
        {network: settings},
        params,
        origin,
        left_out(arrays, origin, _LEFT_OUT),
        num_classes,
        tuple(notes),
    )


def _has_coco_form(kind: str, num_classes: int) -> bool:
    """True if this is gluoncv's Faster R-CNN for COCO, whose settings differ from VOC's."""
    return kind == "faster_rcnn" and num_classes == 81


def _settings(arrays: Arrays, params: Arrays, kind: str) -> dict[str, Any]:
    """A detector's settings besides its body's, derived from its shapes."""
    settings = {"model.rpn_channels": params["rpn.head.cls_logits_weight"].shape[1]}
    if kind == "mask_rcnn":
        settings["model.mask_channels"] = params[f"{_DECONV}_weight"].shape[1]
    if f"{FPN}inner_blocks.0.0_weight" in params:
        masks = kind == "mask_rcnn"
        form = presets.GLUONCV_MASK_PYRAMID if masks else presets.GLUONCV_PYRAMID
        return {**IMAGENET, **form, **settings, **_fpn_settings(arrays, params)}
    is_coco = _has_coco_form(kind, len(arrays["class_predictor.weight"]))
    return {**IMAGENET, **(presets.GLUONCV_C4_COCO if is_coco else {}), **settings}


def _fpn_settings(arrays: Arrays, params: Arrays) -> dict[str, int | bool]:
    """The settings of a detector with a pyramid, derived from its shapes."""
    averages = "box_features.1.weight" in arrays  # then layer 0 is an average pooling
    size, box_layers = 14 if averages else 7, _box_layers(arrays)
    settings = {
        "model.fpn_channels": len(params[f"{FPN}inner_blocks.0.0_weight"]),
        "model.box_head_convs": sum(layer.endswith(".0") for layer in box_layers),
        "model.box_head_dim": len(params.get(f"{box_layers[-1]}_weight", ())),
        "model.form.box_avg_pool": averages,
        "model.box_roi_size": size,
    }
    if f"{_DECONV}_weight" in params:
        settings["model.mask_layers"] = len(_mask_layers(arrays)) - 1
        settings["model.mask_roi_size"] = size
    return settings
