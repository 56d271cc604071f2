"""Print what is installed, what was patched, and what is missing.

It also works when MXNet or another core package is missing or does not load: it then says what to
install, and exits with code 1.
"""

from mxrcnn.doctor import add_arguments, run

__all__ = ["add_arguments", "run"]
