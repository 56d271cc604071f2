"""Runs a command of mxrcnn with this clone's packages, whether or not they are installed."""

import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(name: str) -> NoReturn:
    """Run `mxrcnn NAME` with this process's arguments, and exit."""
    from mxrcnn.cli import main

    sys.exit(main([name, *sys.argv[1:]], by_tools=True))
