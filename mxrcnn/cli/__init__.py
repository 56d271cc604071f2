"""The command `mxrcnn`: one module a command, with `add_arguments(parser)` and `run(args) -> int`.

Only the module of the command that was asked for is imported, and it imports what it needs in
`run`. So help and version come without MXNet and NumPy.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from mxrcnn import __version__
from mxrcnn.cli.common import new_parser
from mxrcnn.program import command, has_no_reader, started

#: command -> (its module, what it does)
COMMANDS = {
    "train": ("mxrcnn.cli.train", "train a detector, or resume a run"),
    "test": ("mxrcnn.cli.test", "test a run: AP by class, curves, pictures"),
    "report": ("mxrcnn.cli.report", "show a test in the browser: errors, curves, every image"),
    "compare": ("mxrcnn.cli.compare", "compare two tested runs: is one really better?"),
    "predict": ("mxrcnn.cli.predict", "detect objects in images"),
    "check": ("mxrcnn.cli.check", "check a data set before training"),
    "data": ("mxrcnn.cli.data", "count, split and convert data sets"),
    "convert": ("mxrcnn.cli.convert", "convert another project's weights into a run"),
    "weights": ("mxrcnn.cli.weights", "list, fetch and show known weights"),
    "quantize": ("mxrcnn.cli.quantize", "make a faster copy of a run, in int8 or bfloat16"),
    "export": ("mxrcnn.cli.export", "export a run to ONNX, or for MXNet's other bindings"),
    "bench": ("mxrcnn.cli.bench", "measure speed and memory on this machine"),
    "launch": ("mxrcnn.cli.launch", "train with several processes or machines"),
    "doctor": ("mxrcnn.cli.doctor", "say what is installed, patched and missing"),
    "graph": ("mxrcnn.cli.graph", "draw a network's graph"),
}


def main(argv: Sequence[str] | None = None, by_tools: bool = False) -> int:
    """Run a command line without its first word (None: this process's); returns the exit code.

    by_tools: a script of tools/ was started, so messages name these. Raises SystemExit for --help,
    for wrong arguments (code 2), for errors that users can fix (code 1), and for a reader of
    standard output that has read enough, such as head (code 141, of SIGPIPE).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    with started(by_tools), ending_with_the_reader():
        if words and words[0] in COMMANDS:
            return run_command(*words)
        parser = overview()
        if words:
            parser.parse_args(words)
        parser.print_help(sys.stderr)
        return 2


@contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """Exit quietly with code 141 if nobody reads standard output any more, as after `| head`.

    Other programs are killed by SIGPIPE then, which has this code in a shell. Python ignores that
    signal, and raises BrokenPipeError when it writes.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, and not when Python ends
    except BrokenPipeError:
        if not has_no_reader(sys.stdout):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in filter(has_no_reader, (sys.stdout, sys.stderr)):
            os.dup2(nowhere, stream.fileno())  # Python writes what is left in buffers at its end
        sys.exit(128 + signal.SIGPIPE)


def overview() -> argparse.ArgumentParser:
    """The parser of `mxrcnn` itself, for its help, its version and unknown commands."""
    rows = (f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mxrcnn",
        usage="mxrcnn COMMAND ...",
        description="Train, evaluate and deploy object detectors with Apache MXNet.",
        epilog="\n".join(["commands:", *rows, "", "mxrcnn COMMAND --help: its options"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mxrcnn {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser


def run_command(name: str, *words: str) -> int:
    """Run one command. ArgumentError, from `run` too, becomes a usage error with exit code 2."""
    module = import_module(COMMANDS[name][0])
    parser = new_parser(module.__doc__, command(name))
    module.add_arguments(parser)
    args = parser.parse_args(words)
    try:
        return module.run(args)
    except argparse.ArgumentError as error:
        parser.error(str(error))
