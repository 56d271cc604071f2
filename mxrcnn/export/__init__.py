"""Detectors for other runtimes: ONNX files, and symbols for MXNet's other bindings."""


class ExportError(ValueError):
    """A model that cannot be exported; the message says why and what to do instead."""
