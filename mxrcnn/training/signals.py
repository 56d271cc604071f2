"""Ctrl-C, SIGTERM and a hang-up as a request to stop after the current step."""

from __future__ import annotations

import os
import signal
from types import FrameType


def stop_signals() -> tuple[int, ...]:
    """The signals that ask a training to save and stop.

    SIGHUP is one of them unless it is ignored, as under `nohup`, and where the system has it.
    """
    hangup = getattr(signal, "SIGHUP", None)
    more = () if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else (hangup,)
    return (signal.SIGINT, signal.SIGTERM, *more)


class StopRequest:
    """While entered, the first stop signal is only noted; a second SIGINT interrupts at once.

    `signum` is the signal's number, or None.
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
        """Send output to a closed terminal nowhere: writing to it fails, before all is saved."""
        for output in self._terminals:
            if not os.isatty(output):  # it was a terminal before
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
