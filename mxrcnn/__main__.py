"""`python -m mxrcnn`: the same as the command `mxrcnn`."""

import sys

from mxrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
