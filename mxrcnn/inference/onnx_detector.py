"""A detector that tools/export.py wrote, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mxrcnn.export import ExportError
from mxrcnn.export.model import config_of
from mxrcnn.inference.detector import Detector
from mxrcnn.training.checkpoint import CheckpointError, Params
from symnet.machine.install import install_extra


class OnnxDetector(Detector):
    """As a Detector; only the graph runs elsewhere. Its parameters are the file's, and fixed."""

    def __init__(self, path: str | Path) -> None:
        """Raises CheckpointError for a file that is not there or not of tools/export.py."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError(
                f"{path} needs onnxruntime: {install_extra('onnx')} ({error})"
            ) from None
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise CheckpointError(f"{path}: not a readable ONNX model: {error}") from None
        properties = self._session.get_modelmeta().custom_metadata_map
        try:
            self.config = config_of(properties)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: its metadata is not that of tools/export.py: {error}"
            ) from None
        self.source = str(path)
        self._names = [output.name for output in self._session.get_outputs()]

    def set_params(self, args: Params, auxs: Params) -> None:
        """Raises CheckpointError: the parameters of an ONNX file cannot be replaced."""
        raise CheckpointError(f"{self.source}: the parameters of an ONNX file are fixed")

    def _start(self, data: np.ndarray, im_info: np.ndarray) -> None:
        inputs = {"data": data.astype(np.float32), "im_info": im_info.astype(np.float32)}
        self._outputs = dict(zip(self._names, self._session.run(self._names, inputs)))

    def _finish(self) -> dict[str, np.ndarray]:
        return self._outputs
