"""The machine that MXNet runs on, and what must happen before MXNet is imported.

finder   prepares any `import mxnet` that follows `import symnet`; the lazy `mx`
names    the names of NumPy and distutils that MXNet 1.9.1 needs and newer versions removed
engine   the settings of MXNet's threads and libraries
cores    the cores that this process may use, and the processor's instruction sets
memory   the memory that it may use
install  the commands that install what is missing

Nothing here imports NumPy or MXNet until somebody imports MXNet.
"""

from __future__ import annotations

#: what was changed in this process for MXNet's sake, and why; `python -m mxrcnn.doctor` prints it
PATCHED: dict[str, str] = {}

#: settings that came too late, as MXNet had been imported before, and what each is good for
MISSED: dict[str, str] = {}
