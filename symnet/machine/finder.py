"""Any `import mxnet` after `import symnet` is prepared: the finder on the import path does it.

The user's own `import mxnet` gets the same names and settings as ours. Nothing happens before: to
look for the module (`importlib.util.find_spec`) neither imports nor changes anything, and loader
workers never pay for it. Python's lock of the module makes it right when several threads import
mxnet at once: one loads it, the others wait until its threads have started.
"""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

from symnet.machine.changes import MISSED, PATCHED
from symnet.machine.install import how_to_install


class _Loader:
    """Loads mxnet by its own loader, with what it needs before and after."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:  # get_source and the like, for those who inspect
        return getattr(self._inner, name)

    def create_module(self, spec: Any) -> types.ModuleType | None:
        """As its own loader does."""
        return self._inner.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run mxnet's code under our settings, and start its threads."""
        from symnet.machine.engine import flush_after_forks, prepared, start_threads
        from symnet.machine.names import restore_names

        module.__spec__.loader = module.__loader__ = self._inner
        PATCHED.update(restore_names())
        with prepared():
            self._inner.exec_module(module)
            start_threads(module)
        flush_after_forks(module)


class _Finder:
    """First on sys.meta_path: finds mxnet where the others find it, and no other module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec that the next finder gives, with our loader; None if there is no mxnet."""
        if name != "mxnet":
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.origin is not None:  # else it is a folder of that name, not a package
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


def install() -> None:
    """Prepare every `import mxnet` that follows; one RuntimeWarning if there was one before."""
    if sys.modules.get("mxnet") is None:
        sys.meta_path.insert(0, _Finder())
        return
    from symnet.machine.engine import missed
    from symnet.machine.names import restore_names

    PATCHED.update(restore_names())
    MISSED.update(missed())
    processes = sys.modules.get("multiprocessing.process")
    is_child = processes is not None and processes.parent_process() is not None
    if MISSED and not is_child:  # a child runs the user's script again, which has told it once
        lines = [f"  {what}: {why}" for what, why in MISSED.items()]
        warnings.warn(
            "mxnet was imported before mxrcnn (symnet), too late for these settings. Import mxrcnn "
            "first.\n" + "\n".join(lines),
            RuntimeWarning,
            stacklevel=3,
        )


class _LazyMXNet:
    """Stands for mxnet, and imports it (about a second) when something of it is asked for.

    So the modules of graphs can be read for their configs and targets, as loader workers do,
    without loading the engine. ImportError, with the commands that install it, if there is none.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            import mxnet
        except ModuleNotFoundError as error:
            if error.name != "mxnet":
                raise
            raise ImportError(
                f"this needs Apache MXNet, which is not installed: {how_to_install()}", name="mxnet"
            ) from None
        return getattr(mxnet, name)


mx = _LazyMXNet()
