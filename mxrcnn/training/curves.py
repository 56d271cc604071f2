"""Curves of a training while it runs: losses.png, and TensorBoard's event files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mxrcnn import viz
from mxrcnn.config import ConfigError
from mxrcnn.runs.checkpoint import RunFolder
from symnet.machine.install import install_extra

#: seconds between two drawings of losses.png, at least, and the share of the time it may take.
#: A drawing takes 0.6 CPU seconds, 1.8 of 10,000 rows, 7 of 100,000; training waits meanwhile
EVERY, SHARE = 60.0, 0.01


class LossPlot:
    """Draws a run's losses.png now and then; a drawing that fails is told and stops nothing."""

    def __init__(self, run: RunFolder, tell: Callable[[str], Any]) -> None:
        self._run, self._tell = run, tell
        self._due = time.monotonic() + EVERY

    def draw_if_due(self) -> None:
        """Draw, if the last drawing, or the start, is a minute ago; longer if drawing is slow."""
        if time.monotonic() >= self._due:
            self.draw()

    def draw(self) -> None:
        """Draw now."""
        begun = time.monotonic()
        path = self._run.path / "losses.png"
        try:
            viz.plot_losses(self._run.read_log(), path)
        except Exception as error:  # matplotlib, its fonts, the disk: no reason to lose a training
            self._tell(f"{path} was not drawn: {type(error).__name__}: {error}")
        now = time.monotonic()
        self._due = now + max(EVERY, (now - begun) / SHARE)


class Events:
    """TensorBoard's event files in a folder; none unless they are wanted."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        """ConfigError if they are wanted and tensorboardX is not installed. Writes nothing yet."""
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
        """Start a file after so many steps; TensorBoard drops what older files say of later ones.

        (After a crash they hold steps that no checkpoint has, and that are made again.)
        """
        if self._make is not None:
            name = f".{done:08d}"  # files are read in the order of their names: time, then this
            self._writer = self._make(str(self._folder), purge_step=done + 1, filename_suffix=name)

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Write a row's numbers; what is None or no number is left out."""
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
