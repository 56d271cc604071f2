"""symnet: the networks. Graphs, operators, geometry and targets. Imports nothing from mxrcnn.

Names are resolved on first use, so geometry and targets load without mxnet. The only thing done at
once is installing the hook that gives any later `import mxnet` our settings (symnet.machine).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from symnet.machine.finder import install

if TYPE_CHECKING:
    from symnet.detector import DetectorDef

#: the module whose DETECTORS has each detector of this package
_MODULES = {
    "faster_rcnn_mobilenet_v3_large_320_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_mobilenet_v3_large_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_r101_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_r101v2_c4": "symnet.classic",
    "faster_rcnn_r18_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_r34_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_r50_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_r50v1_c4": "symnet.faster_rcnn_c4",
    "faster_rcnn_r50v2_c4": "symnet.classic",
    "faster_rcnn_regnetx_400mf_fpn": "symnet.faster_rcnn_fpn",
    "faster_rcnn_vgg16": "symnet.classic",
    "faster_rcnn_zf": "symnet.classic",
    "fcos_r50_fpn": "symnet.fcos",
    "fcos_regnetx_400mf": "symnet.fcos",
    "mask_rcnn_r101_fpn": "symnet.mask_rcnn_fpn",
    "mask_rcnn_r18_fpn": "symnet.mask_rcnn_fpn",
    "mask_rcnn_r34_fpn": "symnet.mask_rcnn_fpn",
    "mask_rcnn_r50_fpn": "symnet.mask_rcnn_fpn",
    "mask_rcnn_r50v1_c4": "symnet.mask_rcnn_c4",
    "mask_rcnn_regnetx_400mf_fpn": "symnet.mask_rcnn_fpn",
}

#: former names of detectors
_ALIASES = {
    "faster_rcnn_r101_c4": "faster_rcnn_r101v2_c4",
    "faster_rcnn_r50_c4": "faster_rcnn_r50v2_c4",
    "faster_rcnn_r50_v1b": "faster_rcnn_r50v1_c4",
    "mask_rcnn_r50_v1b": "mask_rcnn_r50v1_c4",
}

#: detectors from outside this package
_REGISTERED: dict[str, DetectorDef] = {}

#: functions that the package offers directly
_EXPORTS = {
    "get_vgg_train": "symnet.faster_rcnn_vgg16",
    "get_vgg_test": "symnet.faster_rcnn_vgg16",
    "get_vgg_feature": "symnet.bodies.vgg",
    "get_vgg_top_feature": "symnet.bodies.vgg",
}

__all__ = ["get_detector", "list_detectors", "register_detector", *_EXPORTS]


install()


def register_detector(detector: DetectorDef) -> None:
    """Add a detector under its own name; ValueError if the name is taken.

    Loader processes look it up too, so register it when the module is imported, not in `main`.
    """
    if detector.name in {*_ALIASES, *list_detectors()}:
        raise ValueError(f"there is already a network {detector.name!r}")
    _REGISTERED[detector.name] = detector


def list_detectors() -> tuple[str, ...]:
    """The sorted names of all detectors, without former names."""
    return tuple(sorted({*_MODULES, *_REGISTERED}))


def get_detector(name: str) -> DetectorDef:
    """The detector with this name or former name; KeyError lists the known names."""
    name = _ALIASES.get(name, name)
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _MODULES:
        raise KeyError(f"no network {name!r}; there are: {', '.join(list_detectors())}")
    return import_module(_MODULES[name]).DETECTORS[name]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'symnet' has no attribute {name!r}")
