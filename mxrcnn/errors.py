"""The errors that users can fix. They end a tool with a message instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mxrcnn.config import ConfigError
from mxrcnn.data.loader import LoaderError
from mxrcnn.data.records import DataError
from mxrcnn.export import ExportError
from mxrcnn.program import has_no_reader
from mxrcnn.runs.checkpoint import CheckpointError
from mxrcnn.runs.lock import RunLockedError
from mxrcnn.training.metrics import NonFiniteLossError
from mxrcnn.weights.formats import WeightsError

USER_ERRORS = (
    *(ConfigError, DataError, LoaderError, CheckpointError, WeightsError, ExportError),
    *(NonFiniteLossError, RunLockedError, OSError),
)


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a user error to stderr and exit with code 1; after Ctrl-C, with 130.

    A missing MXNet and running out of memory count as user errors. If nobody reads standard
    output any more, the BrokenPipeError passes: `mxrcnn.cli.ending_with_the_reader`.
    """
    try:
        yield
    except (*USER_ERRORS, ImportError, MemoryError) as error:
        if isinstance(error, ImportError) and error.name != "mxnet":
            raise
        if isinstance(error, BrokenPipeError) and has_no_reader(sys.stdout):
            raise
        what = "out of memory: " if isinstance(error, MemoryError) else ""
        print(f"error: {what}{error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
