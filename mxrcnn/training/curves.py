"""Training curves: losses.png and TensorBoard's event files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mxrcnn import viz
from mxrcnn.config import ConfigError
from mxrcnn.runs.checkpoint import RunFolder
from symnet.machine.install import install_extra

#: how often to draw losses.png: at least so many seconds apart, and in at most this share of the
#: time. Training waits for it: 0.6 CPU seconds, 1.8 for 10,000 rows, 7 for 100,000
EVERY, SHARE = 60.0, 0.01


class LossPlot:
    """Draws a run's losses.png from time to time. A failure is reported but never stops the run."""

    def __init__(self, run: RunFolder, tell: Callable[[str], Any]) -> None:
        self._run, self._tell = run, tell
        self._due = time.monotonic() + EVERY

    def draw_if_due(self) -> None:
        """Draw if the last drawing (or the start) was a minute ago; more if drawing is slow."""
        if time.monotonic() >= self._due:
            self.draw()

    def draw(self) -> None:
        """Draw now."""
        begun = time.monotonic()
        path = self._run.path / "losses.png"
        try:
            viz.plot_losses(self._run.read_log(), path)
        except Exception as error:  # matplotlib, its fonts, a full disk
            self._tell(f"{path} was not drawn: {type(error).__name__}: {error}")
        now = time.monotonic()
        self._due = now + max(EVERY, (now - begun) / SHARE)


class Events:
    """Writes TensorBoard's event files to a folder, or nothing unless `wanted`."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        """Raises ConfigError if wanted and tensorboardX is not installed. Writes nothing yet."""
        self._folder, self._writer = folder, None
        self._make: Callable[..., Any] | None = None
        if wanted:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                needed = install_extra("tensorboard")
                raise ConfigError(f"--tensorboard needs tensorboardX: {needed}") from None
            self._make = SummaryWriter

    def open(self, done: int) -> None:
        """Start a new file after `done` steps. TensorBoard drops later steps in older files.

        After a crash, older files hold steps that are in no checkpoint and are trained again.
        """
        if self._make is not None:
            name = f".{done:08d}"  # TensorBoard reads files by name: time, then this suffix
            self._writer = self._make(str(self._folder), purge_step=done + 1, filename_suffix=name)

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row; other values are skipped."""
        if self._writer is None:
            return
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
