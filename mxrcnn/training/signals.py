"""Ctrl-C, SIGTERM and a hang-up as a request to stop after the current step."""

from __future__ import annotations

import os
import signal
from types import FrameType


def stop_signals() -> tuple[int, ...]:
    """The signals that ask a training to save and stop: SIGINT, SIGTERM and SIGHUP.

    SIGHUP is left out if it is ignored, as under `nohup`, or if the system does not have it.
    """
    hangup = getattr(signal, "SIGHUP", None)
    more = () if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else (hangup,)
    return (signal.SIGINT, signal.SIGTERM, *more)


class StopRequest:
    """A context in which a stop signal only sets `signum`; a second SIGINT interrupts at once.

    `signum` is the number of the signal received last, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}
        self._terminals: list[int] = []

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        self._leave_lost_terminals()

    def _leave_lost_terminals(self) -> None:
        """Redirect output of a closed terminal to os.devnull: writing would fail before saving."""
        for output in self._terminals:
            if not os.isatty(output):  # it was one when we entered
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)

    def __enter__(self) -> StopRequest:
        self._terminals = [output for output in (1, 2) if os.isatty(output)]
        for signum in stop_signals():
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
