"""How this program was started: the spelling of commands in messages, and who reads its output.

A command is spelled `mxrcnn test RUN`, or `python tools/test.py RUN` in a clone, as the user
started this program. In a user's own program it is `mxrcnn`.
"""

from __future__ import annotations

import re
import select
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: commands that have a script in tools/, and its name
SCRIPTS = {
    "train": "train",
    "test": "test",
    "predict": "demo",
    "check": "check_data",
    "convert": "convert",
    "quantize": "quantize",
    "export": "export",
    "bench": "bench",
    "launch": "launch",
    "graph": "draw_graph",
}
_NAMES = re.compile(rf"\bmxrcnn ({'|'.join(SCRIPTS)})\b")

_by_tools = False


@contextmanager
def started(by_tools: bool) -> Iterator[None]:
    """Within it, messages name the scripts of tools/, or the command `mxrcnn`."""
    global _by_tools
    before, _by_tools = _by_tools, by_tools
    try:
        yield
    finally:
        _by_tools = before


def command(name: str, *words: object) -> str:
    """The command line that runs a command with these words, quoted for a shell."""
    start = (
        f"python tools/{SCRIPTS[name]}.py" if _by_tools and name in SCRIPTS else f"mxrcnn {name}"
    )
    return " ".join([start, *(shlex.quote(str(word)) for word in words)])


def spelled(text: str) -> str:
    """A text that says `mxrcnn NAME`, with each command as `command` spells it."""
    return _NAMES.sub(lambda match: command(match[1]), text)


def has_no_reader(stream: TextIO | None) -> bool:
    """True for a pipe or socket whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no stream, or one without a file
        return False
