"""An import hook that sets up MXNet whenever it is imported after `import symnet`.

The user's own `import mxnet` gets the same names and settings as ours. Nothing happens before that:
looking for the module (`importlib.util.find_spec`) neither imports nor changes anything, and loader
workers never pay for it. Several threads may import mxnet at once. Python's module lock lets one of
them load it, while the others wait until MXNet's threads have started.
"""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

from symnet.machine.changes import MISSED, PATCHED
from symnet.machine.install import how_to_install


class _Loader:
    """Loads mxnet with its own loader, with our set-up before and after."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:  # get_source and the like, for introspection
        return getattr(self._inner, name)

    def create_module(self, spec: Any) -> types.ModuleType | None:
        """Create the module as its own loader does."""
        return self._inner.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run mxnet's code with our settings, and start its threads."""
        from symnet.machine.engine import flush_after_forks, prepared, start_threads
        from symnet.machine.names import restore_names

        module.__spec__.loader = module.__loader__ = self._inner
        PATCHED.update(restore_names())
        paths = set(sys.path)
        with prepared():
            self._inner.exec_module(module)
            start_threads(module)
        # MXNet tries OpenCV. If that lacks a system library, it leaves its own folder on the path,
        # where its `typing` would hide Python's in loader processes
        sys.path[:] = [path for path in sys.path if path in paths]
        flush_after_forks(module)


class _Finder:
    """The first finder on sys.meta_path. It only handles mxnet, which the other finders locate."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The next finder's spec, with our loader; None if mxnet is not installed."""
        if name != "mxnet":
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.origin is not None:  # None: a folder named mxnet, not the package
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


def install() -> None:
    """Install the hook. If mxnet is already imported, warn once with a RuntimeWarning."""
    if sys.modules.get("mxnet") is None:
        sys.meta_path.insert(0, _Finder())
        return
    from symnet.machine.engine import missed
    from symnet.machine.names import restore_names

    PATCHED.update(restore_names())
    MISSED.update(missed())
    processes = sys.modules.get("multiprocessing.process")
    is_child = processes is not None and processes.parent_process() is not None
    if MISSED and not is_child:  # a child runs the user's script again, which has already warned
        lines = [f"  {what}: {why}" for what, why in MISSED.items()]
        warnings.warn(
            "mxnet was imported before mxrcnn (symnet), so these settings have no effect. Import "
            "mxrcnn first.\n" + "\n".join(lines),
            RuntimeWarning,
            stacklevel=3,
        )


class _LazyMXNet:
    """A proxy for mxnet that imports it (about a second) on first use.

    So loader workers can import the graphs' modules for their configs and targets without loading
    the engine. Raises ImportError, with the install commands, if mxnet is not installed.
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
