"""mxrcnn: train, evaluate and deploy object detectors with Apache MXNet's symbolic API.

Importing it prepares any `import mxnet` that follows (symnet.machine), and loads nothing heavy.
"""

from importlib import import_module
from typing import Any

import symnet  # noqa: F401 - prepares the import of mxnet

__version__ = "0.1.0"


#: what the package offers, and the modules that have it: loaded when it is asked for
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
