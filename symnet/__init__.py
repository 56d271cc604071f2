"""symnet: the networks. Graphs, operators, geometry and targets; imports nothing of mxrcnn.

Names are resolved when they are first used, so that geometry and targets load without mxnet. Any
`import mxnet` that follows gets our settings (symnet.machine); that alone is done at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from symnet.machine.finder import install

if TYPE_CHECKING:
    from symnet.detector import DetectorDef

#: the registry: a detector's name and the module that has it in DETECTORS
_DETECTORS = {
    "faster_rcnn_r101_c4": "symnet.faster_rcnn_c4",
    "faster_rcnn_r50_c4": "symnet.faster_rcnn_c4",
    "faster_rcnn_r50_v1b": "symnet.faster_rcnn_v1b",
    "faster_rcnn_vgg16": "symnet.faster_rcnn_vgg16",
    "faster_rcnn_zf": "symnet.faster_rcnn_zf",
    "faster_rcnn_r50_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_r101_fpn": "symnet.faster_rcnn_fpn",
    "fcos_r50_fpn": "symnet.fcos",
    "fcos_regnetx_400mf": "symnet.fcos",
    "mask_rcnn_r50_fpn": "symnet.mask_rcnn_fpn",
    "mask_rcnn_r101_fpn": "symnet.mask_rcnn_fpn",
    "mask_rcnn_r50_v1b": "symnet.mask_rcnn_v1b",
}

#: functions that the package offers directly
_EXPORTS = {
    "get_vgg_train": "symnet.faster_rcnn_vgg16",
    "get_vgg_test": "symnet.faster_rcnn_vgg16",
    "get_vgg_feature": "symnet.bodies.vgg",
    "get_vgg_top_feature": "symnet.bodies.vgg",
}

__all__ = ["get_detector", "list_detectors", *_EXPORTS]


install()


def list_detectors() -> tuple[str, ...]:
    """The names of all detectors, sorted."""
    return tuple(sorted(_DETECTORS))


def get_detector(name: str) -> DetectorDef:
    """The detector of that name; KeyError lists the names there are."""
    if name not in _DETECTORS:
        raise KeyError(f"no network {name!r}; there are: {', '.join(list_detectors())}")
    return import_module(_DETECTORS[name]).DETECTORS[name]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'symnet' has no attribute {name!r}")
