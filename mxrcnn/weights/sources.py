"""Recognises which project a parameter file comes from, by its names and shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mxrcnn.config import Config, make_config
from mxrcnn.weights import gluoncv, matterport, torchvision
from mxrcnn.weights.formats import WeightsError
from mxrcnn.weights.source import OWN_CLASSES, Arrays, Source
from symnet import get_detector, list_detectors
from symnet.detector import parameter_shapes

#: recognise other projects' files; each returns None for a file that is not its own
FOREIGN: tuple[Callable[[Arrays], Source | None], ...] = (
    torchvision.detector,
    torchvision.resnet_classifier,
    torchvision.vgg16_classifier,
    torchvision.regnet_classifier,
    torchvision.mobilenet_v3_classifier,
    gluoncv.detector,
    gluoncv.resnet_classifier,
    matterport.detector,
)

#: the last layers of MXNet's own classifiers
_CLASSES = ("fc1_weight", "fc1_bias", "fc8_weight", "fc8_bias")
#: layers with one row per class
_CLASS_ROWS = (
    "cls_score_weight",
    "roi_heads.box_predictor.cls_score_weight",
    "head.classification_head.cls_logits_weight",
)


def foreign_source(path: Path, arrays: Arrays) -> Source | None:
    """Another project's file; None if its names are this toolkit's or unknown."""
    found = (look(arrays) for look in FOREIGN)
    source = next((source for source in found if source is not None), None)
    return source and torchvision.choose_form(source, path.name)


def network_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's parameters, auxiliary states included, by name."""
    args, auxs = parameter_shapes(get_detector(config.network).test_symbol(config.model))
    return {**args, **auxs}


def _parameter_names(network: str) -> set[str]:
    """Parameter names of a network with default settings, without its shapes: ten times faster."""
    symbol = get_detector(network).test_symbol(make_config(network).model)
    return {*symbol.list_inputs()} - {"data", "im_info"}


def native_source(arrays: Arrays) -> Source | None:
    """A file with this toolkit's names, which mx-rcnn, MXNet and VGG16's Caffe .npz share.

    None if no network's body has such names.
    """
    known = {network: _parameter_names(network) for network in list_detectors()}
    network = max(known, key=lambda n: 2 * len(known[n] & arrays.keys()) - len(known[n]))
    names = known[network]
    origin = {name: name for name in arrays if name in names}
    detector, model = get_detector(network), make_config(network).model
    if not any(detector.of_body(model, name) for name in origin):
        return None
    rows = [len(arrays[name]) for name in _CLASS_ROWS if name in arrays]
    kind = "detector" if rows else "classifier"
    return Source(
        f"a {kind} with the names of {network}",
        {network: {}},
        {name: np.asarray(arrays[name]) for name in origin},
        origin,
        {name: OWN_CLASSES for name in _CLASSES if name in arrays},
        rows[0] if rows else 0,
        rgb=False,
    )


def identify(path: Path, arrays: Arrays) -> Source:
    """The source that a file is; WeightsError, quoting its first names, if it is unknown."""
    source = foreign_source(path, arrays) or native_source(arrays)
    if source is None:
        first = ", ".join(f"{name} {value.shape}" for name, value in list(arrays.items())[:6])
        raise WeightsError(
            f"{path}: its {len(arrays)} entries match no known model (docs/weights.md lists them); "
            f"the first ones are {first or 'none'}"
        )
    return source
