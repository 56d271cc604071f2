"""The commands that install missing packages.

mxrcnn is on no package index: they name the clone, or the wheel that it was installed from.
"""

from __future__ import annotations

import sys

WITHOUT_CLONE = " (without one, write the path of its wheel instead of the dot)"


def install_extra(name: str) -> str:
    """The command that installs an extra of pyproject.toml, and where to run it."""
    return f"pip install '.[{name}]' in the clone of mxrcnn{WITHOUT_CLONE}"


def how_to_install() -> str:
    """The commands that install MXNet for this Python."""
    new = sys.version_info >= (3, 13)  # MXNet requires NumPy 1, which ends at Python 3.12
    commands = "; ".join(
        f"{where}: pip install '.[{name}]'"
        + (f" && pip install --no-deps {package}==1.9.1" if new else "")
        for where, name, package in (
            ("on CPUs", "cpu", "mxnet"),
            ("on NVIDIA GPUs with a driver", "cu112", "mxnet-cu112"),
        )
    )
    return f"in the clone of mxrcnn{WITHOUT_CLONE}, {commands}"
