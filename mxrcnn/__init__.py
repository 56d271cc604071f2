"""mxrcnn: train, evaluate and deploy object detectors with Apache MXNet's symbolic API.

Importing it prepares any `import mxnet` that follows (symnet.machine), and loads nothing heavy.
"""

import symnet  # noqa: F401 - prepares the import of mxnet

__version__ = "0.1.0"


def __getattr__(name: str):
    """`mxrcnn.Detector`, loaded when it is asked for."""
    if name == "Detector":
        from mxrcnn.inference.detector import Detector

        return Detector
    raise AttributeError(f"module 'mxrcnn' has no attribute {name!r}")
