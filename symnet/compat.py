"""The one place that imports mxnet: `from symnet.compat import mx`, loaded at its first use.

MXNet 1.9.1 predates NumPy 1.24, NumPy 2 and Python 3.12: the NumPy names and the
`distutils.version` module that it uses are put back before it is imported, and the CUDA 11
libraries of the `nvidia-*-cu11` wheels are loaded for `mxnet-cu112`. MXNet's threads are made to
treat denormal numbers as zero: they carry no information in training, and make fully connected
layers and their updates two to three times slower.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import platform
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

#: what was changed in this process, and why; `python -m mxrcnn.doctor` prints it
PATCHED: dict[str, str] = {}

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

#: what oneDNN calls processors with a matrix unit
AMX = "AVX512_CORE_AMX"
_AMX_IN_USE = "AMX for bfloat16 and int8"


def _removed(name: str) -> Callable[..., Any]:
    """What NumPy 1.20 to 1.26 has in such a function's place."""

    def function(*_: object, **__: object) -> None:
        raise RuntimeError(f"numpy.{name} was removed in NumPy 1.20: use numpy_financial.{name}")

    return function


#: (why, what MXNet asks NumPy for): put back unless it is there
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
        "MXNet looks it up at its import; a function that NumPy 2 renamed or removed",
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
        "MXNet looks it up at its import; a financial function, gone since NumPy 1.20",
        {name: _removed(name) for name in ("mirr", "npv", "pmt", "ppmt", "pv", "rate")},
    ),
    (
        "mxnet.numpy.pad looks into it; NumPy 2.0 removed the module",
        {"compat": types.SimpleNamespace(basestring=str)},
    ),
)

_CUDA_LIBRARIES = (
    "cuda_runtime/lib/libcudart.so.11.0",
    "cuda_nvrtc/lib/libnvrtc.so.11.2",
    "nvtx/lib/libnvToolsExt.so.1",
    "cublas/lib/libcublasLt.so.11",
    "cublas/lib/libcublas.so.11",
    "cufft/lib/libcufft.so.10",
    "curand/lib/libcurand.so.10",
    "cusolver/lib/libcusolver.so.11",
    "nccl/lib/libnccl.so.2",
    "cudnn/lib/libcudnn.so.8",
)


class _LooseVersion:
    """The little of `distutils.version` that mxnet uses: comparison of dotted versions."""

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
    """Whether NumPy has that name, and does not warn that it soon will not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            getattr(np, name)
        except (AttributeError, Warning):
            return False
    return True


def _restore_numpy_names() -> None:
    for why, names in _NUMPY_NAMES:
        for name, value in names.items():
            if not _numpy_has(name):
                setattr(np, name, value)
                PATCHED[f"numpy.{name}"] = why


def _restore_distutils() -> None:
    if "distutils" in sys.modules or importlib.util.find_spec("distutils") is not None:
        return
    version = types.ModuleType("distutils.version")
    version.LooseVersion = version.StrictVersion = _LooseVersion
    package = types.ModuleType("distutils")
    package.version = version
    sys.modules.update({"distutils": package, "distutils.version": version})
    PATCHED["distutils.version"] = "MXNet compares versions with it; Python 3.12 removed the module"


def _load_cuda_libraries() -> None:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _CUDA_LIBRARIES:
            library = Path(folder) / name
            if library.exists():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                PATCHED[library.name] = f"mxnet-cu112 needs it; from {library.parent.parent.name}"


@contextmanager
def _flushing_denormals() -> Iterator[None]:
    """Flush-to-zero and denormals-are-zero for this thread, and for those started meanwhile."""
    try:
        libm = ctypes.CDLL("libm.so.6")
        ours = platform.machine() == "x86_64"
    except OSError:  # another C library than glibc: slower, not wrong
        ours = False
    if not ours:
        yield
        return
    before, flushing = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)  # NumPy looks at denormals once, and warns if they are gone by then
    for environment in (before, flushing):  # fenv_t of x86-64; its last word is MXCSR
        libm.fegetenv(environment)
    flushing[7] |= 0x8040
    libm.fesetenv(flushing)
    PATCHED["denormals flushed to zero in MXNet's threads"] = (
        "they carry no information, and make updates two to three times slower"
    )
    try:
        yield
    finally:
        libm.fesetenv(before)


def cgroup_texts(controller: str, name: str) -> list[str]:
    """What file `name` says in this process's control group and those above it, innermost first."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    texts = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS  # version 1, version 2
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if (folder / name).is_file() and root in (folder, *folder.parents):
                texts.append((folder / name).read_text().strip())
    return texts


def cpu_quota() -> float | None:
    """How many cores' time the control groups (a container's limit) grant; None: no limit."""
    pairs = [text.split() for text in cgroup_texts("cpu", "cpu.max")]
    old = (cgroup_texts("cpu", f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    pairs += [list(pair) for pair in zip(*old)]
    granted = [int(time) / int(period) for time, period in pairs if time not in ("max", "-1")]
    return min(granted, default=None)


def logical_cores() -> int:
    """The cores that this process may use, hyper-threads counted, within its quota."""
    many = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if many else os.cpu_count() or 1
    return max(1, min(cores, int(cpu_quota() or cores)))


def physical_cores() -> int:
    """The cores that this process may use, hyper-threads of one core counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = set()
    for cpu in os.sched_getaffinity(0):
        path = Path(siblings.format(cpu))
        cores.add(path.read_text() if path.exists() else str(cpu))
    return min(len(cores), logical_cores())


def local_workers() -> int:
    """How many workers of one training share this machine, as tools/launch.py tells them."""
    return max(1, int(os.environ.get("MXRCNN_LOCAL_WORKERS") or 1))


def _set_environment() -> None:
    """Settings of OpenMP and MXNet that are better than their own; the user's win."""
    for name, value, why in (
        (
            *("OMP_NUM_THREADS", max(1, physical_cores() // local_workers())),
            "MXNet would take every second core for a hyper-thread, and leave it idle",
        ),
        (
            *("GOMP_SPINCOUNT", 20000),
            "threads that wait for another process's turn on a core should not keep theirs busy: "
            "two trainings on the same cores are each twice as fast for it",
        ),
        (
            *("MXNET_CPU_PARALLEL_SIZE", 10**9),
            "large copies would start a second team of OpenMP threads; with more threads than "
            "cores they stop spinning at barriers, and box_nms takes 50 ms instead of 1.3 ms",
        ),
        (
            *("MXNET_SUBGRAPH_VERBOSE", 0),
            "each graph that is bound, one for every shape of images, would print a line",
        ),
    ):
        if name not in os.environ:
            os.environ[name] = str(value)
            PATCHED[f"{name}={value}"] = why


def uses_amx() -> bool:
    """Whether MXNet, which has been imported, multiplies bfloat16 on the matrix unit."""
    return _AMX_IN_USE in PATCHED or os.environ.get("DNNL_MAX_CPU_ISA", "").upper() == AMX


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices, so that bf16 is worth choosing."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def has_int8() -> bool:
    """Whether the processor multiplies int8 matrices, so that int8 is worth choosing."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & cpu_flags())


def cpu_flags() -> set[str]:
    """The processor's instruction sets, as Linux names them; empty where that is unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    return set(next((x for x in text.splitlines() if x.startswith("flags")), "").split())


@contextmanager
def _matrix_unit() -> Iterator[None]:
    """Let the oneDNN that starts meanwhile use AMX: bfloat16 at six times AVX-512's float32 speed.

    The oneDNN 2.4 in MXNet uses it only when DNNL_MAX_CPU_ISA says so, and crashes if Linux (5.16
    and later) was not asked for it, as each process has to (ARCH_REQ_XCOMP_PERM). The variable is
    taken back, so that a child process that does not ask does not crash.
    """
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    granted = (
        platform.machine() == "x86_64"
        and "amx_bf16" in cpu_flags()
        and ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    )
    if not granted or "DNNL_MAX_CPU_ISA" in os.environ:
        yield
        return
    os.environ["DNNL_MAX_CPU_ISA"] = AMX
    PATCHED[_AMX_IN_USE] = "bfloat16 is six times as fast as float32 there; oneDNN must be told"
    try:
        yield
    finally:
        del os.environ["DNNL_MAX_CPU_ISA"]


def patch() -> None:
    """Make `import mxnet` work, and well; harmless when called again."""
    _restore_numpy_names()
    _restore_distutils()
    _load_cuda_libraries()
    _set_environment()


def how_to_install() -> str:
    """The commands that bring MXNet to this Python."""
    new = sys.version_info >= (3, 13)  # MXNet says that it needs NumPy 1, which ends at Python 3.12
    return "; ".join(
        f"{where}: pip install 'mxrcnn[{extra}]'"
        + (f" && pip install --no-deps {package}==1.9.1" if new else "")
        for where, extra, package in (
            ("on CPUs", "cpu", "mxnet"),
            ("on NVIDIA GPUs with a driver", "cu112", "mxnet-cu112"),
        )
    )


def _start_threads(mxnet: types.ModuleType) -> None:
    """Start the engine's threads, and oneDNN."""
    image, weight = mxnet.nd.zeros((1, 1, 1, 1)), mxnet.nd.zeros((1, 1, 1, 1))
    out = mxnet.nd.Convolution(image, weight, kernel=(1, 1), num_filter=1, no_bias=True)
    out.wait_to_read()


#: C callbacks, which live as long as the process
_KEPT: list[object] = []


def _flush_after_forks(mxnet: types.ModuleType) -> None:
    """Let the threads that MXNet starts after a fork, which ends them, flush denormals too.

    Python 3.9 forks to start any program: a loader worker, or the one that lists fonts for
    matplotlib. Later ones use vfork, which MXNet does not notice.
    """

    def restarted() -> None:
        with _flushing_denormals():
            _start_threads(mxnet)

    try:
        register = ctypes.CDLL(None).__register_atfork
    except AttributeError:  # another C library than glibc, as in _flushing_denormals
        return
    in_parent = ctypes.CFUNCTYPE(None)(restarted)
    register(None, in_parent, None, None)  # called after MXNet's own, which came first
    _KEPT.append(in_parent)


class _LazyMXNet(types.ModuleType):
    """Stands for mxnet, and imports it (about a second) when something of it is asked for.

    So the modules of graphs can be read for their configs and targets, as loader workers do,
    without loading the engine.
    """

    def __getattr__(self, name: str) -> Any:
        if "mxnet" not in sys.modules:
            if importlib.util.find_spec("mxnet") is None:
                raise ImportError(
                    "mxrcnn needs Apache MXNet, which is not installed. In a clone: make install; "
                    + how_to_install()
                )
            patch()
            with _flushing_denormals(), _matrix_unit():
                mxnet = importlib.import_module("mxnet")
                _start_threads(mxnet)
            _flush_after_forks(mxnet)
        return getattr(sys.modules["mxnet"], name)


mx = _LazyMXNet("mxnet")

__all__ = ["PATCHED", "has_bf16", "has_int8", "how_to_install", "mx", "patch", "uses_amx"]
