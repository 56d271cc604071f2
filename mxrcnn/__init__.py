"""mxrcnn: train, evaluate and deploy object detectors with Apache MXNet's symbolic API.

Importing it prepares any later `import mxnet` (see symnet.machine), and loads nothing heavy.
"""

from importlib import import_module
from typing import Any

import symnet  # noqa: F401 - prepares a later import of mxnet

__version__ = "0.1.0"

#: public names -> the modules that define them, imported on first use
_EXPORTS = {
    "Detections": "mxrcnn.data.records",
    "Detector": "mxrcnn.inference.detector",
    "Predictor": "mxrcnn.inference.predictor",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'mxrcnn' has no attribute {name!r}")
