"""mxrcnn: train, evaluate and deploy object detectors with Apache MXNet's symbolic API."""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("mxnet") is None:
    raise ImportError(
        "mxrcnn needs Apache MXNet, which is not installed. On CPUs: pip install 'mxrcnn[cpu]' "
        "(in a clone: make install). On NVIDIA GPUs with a driver: pip install 'mxrcnn[cu112]'."
    )


def __getattr__(name: str):
    """`mxrcnn.Detector`, loaded when it is asked for."""
    if name == "Detector":
        from mxrcnn.inference.detector import Detector

        return Detector
    raise AttributeError(f"module 'mxrcnn' has no attribute {name!r}")
