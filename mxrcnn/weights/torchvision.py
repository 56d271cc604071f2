"""Translates torchvision's models to this toolkit's parameter names, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mxrcnn.weights.names import COCO_GAPS, COCO_IDS, gaps_last
from mxrcnn.weights.source import IMAGENET, OWN_CLASSES, Arrays, Source, left_out
from symnet.bodies.regnet import X_400MF_TORCHVISION
from symnet.bodies.resnet import DEPTHS
from symnet.bodies.resnet import PREFIX as BODY
from symnet.bodies.vgg import BLOCKS
from symnet.parts.norms import NORM_EPS

#: endings of a normalisation's entries: torchvision's -> here
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}

#: endings of names here -> torchvision's
_ENDINGS = {
    **{f"_{ours}": f".{theirs}" for theirs, ours in _NORM.items()},
    "_weight": ".weight",
    "_bias": ".bias",
}

#: torchvision's detectors on MobileNetV3-Large
MOBILENET_V3 = ("faster_rcnn_mobilenet_v3_large_fpn", "faster_rcnn_mobilenet_v3_large_320_fpn")
#: the epsilon of torchvision's MobileNetV3 classifiers' normalisations; its detectors have NORM_EPS
MOBILENET_V3_EPS = 1e-3

#: patterns of entries that have no use here, and why
_COUNTERS = {"num_batches_tracked$": "a batch counter"}


def torchvision_name(name: str) -> str:
    """torchvision's name for a parameter of a pyramid detector; StopIteration for other names."""
    ending = next(ending for ending in _ENDINGS if name.endswith(ending))
    return name[: -len(ending)] + _ENDINGS[ending]


def our_names(state: Arrays) -> dict[str, str]:
    """Names here -> torchvision's names, for the state dict's entries that are used here.

    Layers keep their names. `.weight` becomes `_weight`. The entries of a batch norm or group norm,
    recognised by its one-dimensional weight, become `_gamma`, `_beta`, `_moving_mean` and
    `_moving_var`. Batch counters are left out.
    """
    out = {}
    for name in state:
        layer, _, leaf = name.rpartition(".")
        normalises = np.ndim(state.get(f"{layer}.weight")) == 1
        if leaf in (_NORM if normalises else ("weight", "bias")):
            out[f"{layer}_{_NORM[leaf] if normalises else leaf}"] = name
    return out


def from_torchvision(state: Arrays) -> dict[str, np.ndarray]:
    """The arrays of a torchvision detector's state dict, by this toolkit's names."""
    return {ours: state[theirs] for ours, theirs in our_names(state).items()}


def resnet_depth(names: Iterable[str], prefix: str = "") -> int | None:
    """A ResNet's depth (18, 34, 50 or 101) from its blocks in layer1..4; None if none matches."""
    names = set(names)

    def count(stage: int) -> int:
        blocks = 0
        while f"{prefix}layer{stage}.{blocks}.conv1.weight" in names:
            blocks += 1
        return blocks

    blocks = tuple(count(stage) for stage in (1, 2, 3, 4))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in names
    return {form: depth for depth, form in DEPTHS.items()}.get((blocks, bottleneck))


def resnet_networks(body: str) -> dict[str, dict[str, Any]]:
    """The networks that usually have a body such as resnet50, with the settings they need."""
    depth = body[len("resnet") :].partition("_")[0]
    names = [f"faster_rcnn_r{depth}_fpn", f"mask_rcnn_r{depth}_fpn", "fcos_r50_fpn"]
    if depth in ("18", "34"):
        names += ["faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn"]
    return {name: {**IMAGENET, "model.body": body} for name in names}


def mobilenet_v3_networks() -> dict[str, dict[str, Any]]:
    """The networks that have, or can have, MobileNetV3-Large, with the settings they need."""
    body = {**IMAGENET, "model.body": "mobilenet_v3_large"}
    return dict.fromkeys((*MOBILENET_V3, "mask_rcnn_r50_fpn", "fcos_r50_fpn"), body)


def is_mobilenet_v3(arrays: Arrays, prefix: str) -> bool:
    """True for MobileNetV3-Large's layers, from the shapes of the first and last special ones."""
    layers = {"4.block.2.fc1": (24, 72, 1, 1), "16.0": (960, 160, 1, 1)}
    return all(np.shape(arrays.get(f"{prefix}{n}.weight")) == s for n, s in layers.items())


def _classifier(
    title: str,
    networks: Mapping[str, Mapping[str, Any]],
    arrays: Arrays,
    origin: Mapping[str, str],
    head: str,
) -> Source:
    """A classifier whose layer `head` classifies; origin: names here -> names in the file."""
    return Source(
        f"torchvision's {title} classifier",
        networks,
        {ours: arrays[name] for ours, name in origin.items()},
        origin,
        left_out(arrays, origin, {**_COUNTERS, rf"^{re.escape(head)}\.": OWN_CLASSES}),
    )


def _body(arrays: Arrays) -> dict[str, str]:
    """Names here -> names in the file, of a classifier that becomes a detector's body."""
    return {
        f"{BODY}{ours}": name
        for ours, name in our_names(arrays).items()
        if not name.startswith("fc.")
    }


def resnet_classifier(arrays: Arrays) -> Source | None:
    """ResNet-18, 34, 50 or 101."""
    depth = resnet_depth(arrays)
    if depth is None or "bn1.weight" not in arrays:
        return None
    return _classifier(
        f"ResNet-{depth}", resnet_networks(f"resnet{depth}"), arrays, _body(arrays), "fc"
    )


def vgg16_classifier(arrays: Arrays) -> Source | None:
    """VGG16 (without batch norm): 13 convolutions, and fc6 and fc7 if the file has them."""
    layers, place = {}, 0
    for block, (count, _) in enumerate(BLOCKS, start=1):
        for layer in range(1, count + 1):
            layers[f"conv{block}_{layer}"] = f"features.{place}"
            place += 2  # each convolution is followed by a ReLU
        place += 1  # and each block by a pooling
    if not all(np.ndim(arrays.get(f"{name}.weight")) == 4 for name in layers.values()):
        return None
    layers.update({"fc6": "classifier.0", "fc7": "classifier.3"})
    origin = {
        f"{ours}_{leaf}": f"{theirs}.{leaf}"
        for ours, theirs in layers.items()
        for leaf in ("weight", "bias")
        if f"{theirs}.{leaf}" in arrays
    }
    return _classifier("VGG16", {"faster_rcnn_vgg16": IMAGENET}, arrays, origin, "classifier.6")


def regnet_classifier(arrays: Arrays) -> Source | None:
    """RegNetX-400MF, which has 400 channels in c5 where the paper has 384."""
    if "stem.0.weight" not in arrays or "trunk_output.block1.block1-0.f.a.0.weight" not in arrays:
        return None
    last = arrays.get("trunk_output.block4.block4-0.proj.0.weight", np.zeros(0))
    if last.shape[:1] != (X_400MF_TORCHVISION.widths[-1],):
        return None
    settings = {**IMAGENET, "model.body": "regnetx_400mf_torchvision"}
    names = (f"{kind}_rcnn_regnetx_400mf_fpn" for kind in ("faster", "mask"))
    networks = dict.fromkeys(("fcos_regnetx_400mf", *names), settings)
    return _classifier("RegNetX-400MF", networks, arrays, _body(arrays), "fc")


def mobilenet_v3_classifier(arrays: Arrays) -> Source | None:
    """MobileNetV3-Large, whose normalisations have another epsilon than those here.

    The difference is added to the stored variances: the body then computes what the classifier's
    layers do.
    """
    if not is_mobilenet_v3(arrays, "features."):
        return None
    names = our_names({n: value for n, value in arrays.items() if n.startswith("features.")})
    origin = {f"{BODY}{ours.partition('.')[2]}": name for ours, name in names.items()}
    source = _classifier(
        "MobileNetV3-Large", mobilenet_v3_networks(), arrays, origin, "classifier.0"
    )
    more = np.float32(MOBILENET_V3_EPS - NORM_EPS)
    params = {n: v + more if n.endswith("_moving_var") else v for n, v in source.params.items()}
    last = left_out(arrays, origin, {r"^classifier\.3\.": OWN_CLASSES})
    note = f"{more:.3g} added to the variances: its epsilon is {MOBILENET_V3_EPS}, here {NORM_EPS}"
    return replace(source, params=params, left_out={**source.left_out, **last}, notes=(note,))


#: names in checkpoints of torchvision < 0.13 -> current names
_RENAMED = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
)


def today(name: str) -> str:
    """The current name of a detector's entry; older checkpoints use other names."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    old_mask = re.match(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$", name)
    if old_mask:
        name = f"roi_heads.mask_head.{int(old_mask[1]) - 1}.0.{old_mask[2]}"
    return name


#: the layers that identify a kind of detector, and whose rows are classes
_FCOS = "head.classification_head.cls_logits"
_BOX = "roi_heads.box_predictor.cls_score"
_MASK = "roi_heads.mask_predictor.mask_fcn_logits"
#: layers with rows per class -> how many
_PER_CLASS = {_FCOS: 1, _BOX: 1, "roi_heads.box_predictor.bbox_pred": 4, _MASK: 1}


def choose_form(source: Source, file_name: str) -> Source:
    """The source with the form of MobileNetV3's detectors that the file's name tells, and a note.

    Both have the same layers; the sizes of images and the numbers of proposals differ.
    """
    if not set(source.networks) <= set(MOBILENET_V3):
        return source
    small = "320" in file_name
    first, other = reversed(MOBILENET_V3) if small else MOBILENET_V3
    note = f"taken as {first}, as its name has {'' if small else 'no '}320; or --network {other}"
    networks = {name: source.networks[name] for name in (first, other)}
    category = source.by_category and choose_form(source.by_category, file_name)
    return replace(source, networks=networks, notes=(*source.notes, note), by_category=category)


def detector(arrays: Arrays) -> Source | None:
    """A Faster R-CNN, Mask R-CNN or FCOS with a ResNet, or a Faster R-CNN with MobileNetV3."""
    state = {today(name): value for name, value in arrays.items()}
    depth = resnet_depth(state, BODY)
    is_fcos = f"{_FCOS}.weight" in state and "head.regression_head.bbox_ctrness.weight" in state
    if not (is_fcos or f"{_BOX}.weight" in state):
        return None
    file_name = {today(name): name for name in arrays}
    origin = {ours: file_name[theirs] for ours, theirs in our_names(state).items()}
    kind = "fcos" if is_fcos else "mask_rcnn" if f"{_MASK}.weight" in state else "faster_rcnn"
    body = f"R{depth}" if depth else "MobileNetV3-Large"
    if not depth and not (kind == "faster_rcnn" and is_mobilenet_v3(state, BODY)):
        return None
    num_classes = len(state[f"{_FCOS if is_fcos else _BOX}.weight"])
    title = {"fcos": "FCOS", "mask_rcnn": "Mask R-CNN", "faster_rcnn": "Faster R-CNN"}[kind]
    source = Source(
        f"torchvision's {title} {body}-FPN detector",
        _detector_networks(kind, depth, state),
        {ours: arrays[name] for ours, name in origin.items()},
        origin,
        left_out(arrays, origin, _COUNTERS),
        num_classes,
    )
    return replace(source, by_category=_by_category(source) if num_classes == COCO_IDS else None)


def _by_category(source: Source) -> Source:
    """Convert a detector of COCO's 90 ids to one of its 80 categories."""
    gaps = {"model.form.unused_classes": len(COCO_GAPS)}
    if "fcos_r50_fpn" in source.networks:  # its scores are independent
        gaps = {}
    return replace(
        source,
        networks={network: {**given, **gaps} for network, given in source.networks.items()},
        params={name: _categories(name, value) for name, value in source.params.items()},
        num_classes=COCO_IDS - len(COCO_GAPS),
    )


def _categories(name: str, values: np.ndarray) -> np.ndarray:
    """Convert a parameter for COCO's ids 0-90 to its 80 categories.

    The box head's softmax keeps the rows of the unused ids, moved to the end: without them the
    other classes' probabilities would change.
    """
    layer = name.rpartition("_")[0]
    per_class = _PER_CLASS.get(layer)
    if per_class is None or len(values) != COCO_IDS * per_class:
        return values
    return gaps_last(values, per_class, keep=layer == _BOX)


def _detector_networks(kind: str, depth: int | None, state: Arrays) -> dict[str, dict[str, Any]]:
    """The networks that can load a detector, with the settings derived from its shapes."""

    def rows(name: str) -> int:
        return len(state.get(name, ()))

    fpn = {"model.fpn_channels": rows("backbone.fpn.inner_blocks.0.0.weight")}
    if kind == "fcos":
        return {"fcos_r50_fpn": {**IMAGENET, **fpn, "model.body": f"resnet{depth}"}}
    fpn["model.box_head_dim"] = rows("roi_heads.box_head.fc6.weight")
    if not depth:
        return {network: {**IMAGENET, **fpn} for network in MOBILENET_V3}
    networks = resnet_networks(f"resnet{depth}")
    networks = {n: {**s, **fpn} for n, s in networks.items() if "rcnn" in n}
    if kind == "mask_rcnn":
        mask = {"model.mask_channels": rows("roi_heads.mask_head.0.0.weight")}
        networks = {n: {**s, **(mask if n.startswith(kind) else {})} for n, s in networks.items()}
    return dict(sorted(networks.items(), key=lambda item: not item[0].startswith(kind)))
