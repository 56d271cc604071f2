"""Which project's file it is: by the names and shapes in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mxrcnn.config import Config, make_config
from mxrcnn.weights import gluoncv, matterport, torchvision
from mxrcnn.weights.formats import WeightsError
from mxrcnn.weights.source import Arrays, Source
from symnet import get_detector, list_detectors
from symnet.detector import parameter_shapes

#: what other projects' files may be; each looks at names and shapes
FOREIGN: tuple[Callable[[Arrays], Source | None], ...] = (
    torchvision.detector,
    torchvision.resnet_classifier,
    torchvision.vgg16_classifier,
    torchvision.regnet_classifier,
    gluoncv.detector,
    gluoncv.resnet_classifier,
    matterport.detector,
)

#: the last layers of classifiers in the names of MXNet's own files
_CLASSES = ("fc1_weight", "fc1_bias", "fc8_weight", "fc8_bias")
#: layers with a row for each class
_CLASS_ROWS = (
    "cls_score_weight",
    "roi_heads.box_predictor.cls_score_weight",
    "head.classification_head.cls_logits_weight",
)


def foreign_source(path: Path, arrays: Arrays) -> Source | None:
    """What another project's file is; None for names of this toolkit or unknown ones."""
    found = (look(arrays) for look in FOREIGN)
    return next((source for source in found if source is not None), None)


def network_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The parameters of a config's network, auxiliary states included, and their shapes."""
    args, auxs = parameter_shapes(get_detector(config.network).test_symbol(config.model))
    return {**args, **auxs}


def _parameter_names(network: str) -> set[str]:
    """Those of a network's defaults; no shapes, which take ten times as long."""
    symbol = get_detector(network).test_symbol(make_config(network).model)
    return {*symbol.list_inputs()} - {"data", "im_info"}


def native_source(arrays: Arrays) -> Source | None:
    """A file in names that a network here has: of mx-rcnn, MXNet, a Caffe .npz, or this toolkit."""

    known = {network: _parameter_names(network) for network in list_detectors()}
    network = max(known, key=lambda n: 2 * len(known[n] & arrays.keys()) - len(known[n]))
    names = known[network]
    origin = {name: name for name in arrays if name in names}
    body = tuple(get_detector(network).body)
    if not any(name.startswith(body) for name in origin):
        return None
    rows = [len(arrays[name]) for name in _CLASS_ROWS if name in arrays]
    kind = "detector" if rows else "classifier"
    return Source(
        f"a {kind} in the names of {network}",
        {network: {}},
        {name: np.asarray(arrays[name]) for name in origin},
        origin,
        {name: "the classifier's own classes" for name in _CLASSES if name in arrays},
        rows[0] if rows else 0,
        rgb=False,
    )


def identify(path: Path, arrays: Arrays) -> Source:
    """What the file is; WeightsError, with the first names in it, if that is not known."""
    source = foreign_source(path, arrays) or native_source(arrays)
    if source is None:
        first = ", ".join(f"{name} {value.shape}" for name, value in list(arrays.items())[:6])
        raise WeightsError(
            f"{path}: its {len(arrays)} entries are of no model that is known here (docs/weights.md"
            f" lists them); it begins with {first or 'nothing'}"
        )
    return source
