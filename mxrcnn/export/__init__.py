"""Detectors for other runtimes: ONNX files, and symbols for MXNet's other bindings."""

from mxrcnn.inference.exported import ExportError

__all__ = ["ExportError"]
