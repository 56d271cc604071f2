"""The interface of an inference engine. Implementations: mxnet_engine.py, onnx_engine.py."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Outputs = dict[str, np.ndarray]


class Handle(Protocol):
    """A started forward pass."""

    def result(self) -> Outputs:
        """Wait for the graph's outputs; by name, on the host. May be called again."""


class Engine(Protocol):
    """Runs a graph. All methods, and those of handles, may be called from any thread.

    names: of the graph's outputs.
    """

    names: list[str]

    def start(self, **inputs: np.ndarray) -> Handle:
        """Start computing for inputs by name: data (B, 3, H, W), im_info (B, 3), float32.

        Returns without waiting for the outputs. The caller may then overwrite the arrays.
        """
