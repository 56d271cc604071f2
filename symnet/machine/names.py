"""Restores names that MXNet 1.9.1 needs and newer versions of NumPy and Python removed.

MXNet 1.9.1 predates NumPy 1.24, NumPy 2 and Python 3.12. Each name is restored only if it is
missing. This file imports nothing from symnet, so that it can be copied to run a saved graph with
MXNet alone.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def _removed(name: str) -> Callable[..., Any]:
    """The same replacement that NumPy 1.20 to 1.26 has for a removed function."""

    def function(*_: object, **__: object) -> None:
        raise RuntimeError(f"numpy.{name} was removed in NumPy 1.20: use numpy_financial.{name}")

    return function


#: (reason, names that MXNet uses): restored unless NumPy has them
_NUMPY_NAMES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "Python's own type, under a name that NumPy 1.24 removed",
        {t.__name__: t for t in (bool, int, float, complex, object, str)},
    ),
    (
        "a constant that NumPy 2.0 removed",
        {
            "PZERO": 0.0,
            "NZERO": -0.0,
            "PINF": np.inf,
            "NINF": -np.inf,
            "Inf": np.inf,
            "NAN": np.nan,
            "NaN": np.nan,
        },
    ),
    (
        "MXNet looks it up when imported; a function that NumPy 2 renamed or removed",
        {
            "alltrue": np.all,
            "in1d": lambda ar1, *args, **options: np.isin(np.ravel(ar1), *args, **options),
            "msort": lambda a: np.sort(a, axis=0),
            "product": np.prod,
            "round_": np.round,
            "sometrue": np.any,
            "trapz": getattr(np, "trapezoid", None),
        },
    ),
    (
        "MXNet looks it up when imported; a financial function that NumPy 1.20 removed",
        {name: _removed(name) for name in ("mirr", "npv", "pmt", "ppmt", "pv", "rate")},
    ),
    (
        "mxnet.numpy.pad uses it; NumPy 2.0 removed the module",
        {"compat": types.SimpleNamespace(basestring=str)},
    ),
)


class _LooseVersion:
    """The part of `distutils.version` that mxnet uses: comparing dotted versions."""

    def __init__(self, version: str) -> None:
        self.version = [int(p) if p.isdigit() else p for p in str(version).split(".")]

    def _key(self) -> list[tuple[int, object]]:
        return [(isinstance(p, str), p) for p in self.version]

    def _other(self, other: object) -> list[tuple[int, object]]:
        return (other if isinstance(other, _LooseVersion) else _LooseVersion(str(other)))._key()

    def __eq__(self, other: object) -> bool:
        return self._key() == self._other(other)

    def __lt__(self, other: object) -> bool:
        return self._key() < self._other(other)

    def __le__(self, other: object) -> bool:
        return self._key() <= self._other(other)

    def __gt__(self, other: object) -> bool:
        return self._key() > self._other(other)

    def __ge__(self, other: object) -> bool:
        return self._key() >= self._other(other)

    def __hash__(self) -> int:
        return hash(tuple(self._key()))


def _numpy_has(name: str) -> bool:
    """True if NumPy has that name and does not warn of its removal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            getattr(np, name)
        except (AttributeError, Warning):
            return False
    return True


def restore_names() -> dict[str, str]:
    """Restore all missing names that MXNet needs; returns each with the reason."""
    return {**_restore_numpy_names(), **_restore_distutils()}


def _restore_numpy_names() -> dict[str, str]:
    restored = {}
    for why, names in _NUMPY_NAMES:
        for name, value in names.items():
            if not _numpy_has(name):
                setattr(np, name, value)
                restored[f"numpy.{name}"] = why
    return restored


def _restore_distutils() -> dict[str, str]:
    if "distutils" in sys.modules or importlib.util.find_spec("distutils") is not None:
        return {}
    version = types.ModuleType("distutils.version")
    version.LooseVersion = version.StrictVersion = _LooseVersion
    package = types.ModuleType("distutils")
    package.version = version
    sys.modules.update({"distutils": package, "distutils.version": version})
    reason = "MXNet compares versions with it; Python 3.12 removed the module"
    return {"distutils.version": reason}
