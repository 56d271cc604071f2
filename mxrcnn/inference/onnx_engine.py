"""The inference engine for ONNX files of mxrcnn export: onnxruntime. Needs no mxnet."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import ConfigError
from mxrcnn.inference.engine import Outputs
from mxrcnn.inference.exported import ExportError, config_of
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import CheckpointError
from symnet.machine import physical_cores
from symnet.machine.install import install_extra

_SUFFIX = "ExecutionProvider"
CPU = f"CPU{_SUFFIX}"


class OnnxEngine:
    """Runs an ONNX file, from any number of threads.

    One worker thread runs the batches in order; a handle is a future. `config` is read from the
    file's `metadata`: network, class names, preprocessing.
    """

    def __init__(
        self, path: str | Path, provider: str | None = None, threads: int | None = None
    ) -> None:
        """Load the file.

        provider: an execution provider of onnxruntime, such as CUDAExecutionProvider or `cuda`;
        None is the CPU. threads: threads per operator; None is OMP_NUM_THREADS if set, else the
        physical cores available to this process (onnxruntime's default counts the machine's).

        Raises CheckpointError for a file that is missing or not from mxrcnn export, ConfigError
        for an unavailable provider, and ExportError if onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError(
                f"{path} needs onnxruntime: {install_extra('onnx')} ({error})"
            ) from None
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file")
        self.provider = _provider(provider, onnxruntime.get_available_providers())
        self.threads = _threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[self.provider]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise CheckpointError(f"{path}: not a readable ONNX model: {error}") from None
        if self.provider not in self._session.get_providers():  # onnxruntime fell back to the CPU
            raise ConfigError(
                f"provider {self.provider}: onnxruntime has it, but it does not work here; is the "
                "driver or one of its libraries missing?"
            )
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            self.config = config_of(self.metadata)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: its metadata is not that of {command('export')}: {error}"
            ) from None
        self.names = [output.name for output in self._session.get_outputs()]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")

    def start(self, **inputs: np.ndarray) -> Future[Outputs]:
        """Start computing for data (B, 3, H, W) and im_info (B, 3); see Engine."""
        return self._worker.submit(self._run, {name: x.copy() for name, x in inputs.items()})

    def _run(self, inputs: dict[str, Any]) -> Outputs:
        return dict(zip(self.names, self._session.run(self.names, inputs)))


def _provider(name: str | None, available: list[str]) -> str:
    """onnxruntime's name of a provider; ConfigError lists the available ones."""
    if name is None:
        return CPU
    known = {full.lower(): full for full in available}
    known.update({full[: -len(_SUFFIX)].lower(): full for full in available})
    if name.lower() not in known:
        raise ConfigError(
            f"provider {name!r}: this onnxruntime has {', '.join(available)}; others come with "
            "other packages, such as onnxruntime-gpu, onnxruntime-openvino"
        )
    return known[name.lower()]


def _threads(asked: int | None) -> int:
    if asked is None:
        first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        return int(first) if first.isdigit() and int(first) else physical_cores()
    if asked < 1:
        raise ConfigError(f"threads={asked}: at least 1")
    return asked
