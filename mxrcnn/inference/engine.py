"""What a Predictor needs of the engine that runs its graph: MXNet's or onnxruntime's."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Outputs = dict[str, np.ndarray]


class Handle(Protocol):
    """One forward pass that was started. It belongs to whoever started it."""

    def result(self) -> Outputs:
        """The graph's outputs by name, on the host; waits for them. It may be called again."""


class Engine(Protocol):
    """Runs a graph. Any number of threads may call `start`, and any thread may ask a handle."""

    def start(self, **inputs: np.ndarray) -> Handle:
        """Start computing for inputs by name: data (B, 3, H, W), im_info (B, 3) float32.

        The arrays may be changed as soon as it returns. It need not wait for the outputs.
        """
