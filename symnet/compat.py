"""The one place that imports mxnet: `from symnet.compat import mx`, loaded at its first use.

MXNet 1.9.1 predates NumPy 1.24 and Python 3.12: the NumPy names and the `distutils.version` module
that it uses are put back before it is imported, and the CUDA 11 libraries of the `nvidia-*-cu11`
wheels are loaded for `mxnet-cu112`. MXNet's threads are made to treat denormal numbers as zero:
they carry no information in training, and make fully connected layers and their updates two to
three times slower.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import platform
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

#: what `patch` changed in this process, for people who ask
PATCHED: list[str] = []

#: what oneDNN calls processors with a matrix unit
AMX = "AVX512_CORE_AMX"
_AMX_IN_USE = "AMX for bfloat16 and int8"

_NUMPY_NAMES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}
_NUMPY_NAMES["complex"] = complex

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


def _restore_numpy_names() -> None:
    for name, value in _NUMPY_NAMES.items():
        if name not in np.__dict__:
            setattr(np, name, value)
            PATCHED.append(f"numpy.{name}")


def _restore_distutils() -> None:
    if importlib.util.find_spec("distutils") is not None:
        return
    version = types.ModuleType("distutils.version")
    version.LooseVersion = version.StrictVersion = _LooseVersion
    package = types.ModuleType("distutils")
    package.version = version
    sys.modules.update({"distutils": package, "distutils.version": version})
    PATCHED.append("distutils.version")


def _load_cuda_libraries() -> None:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _CUDA_LIBRARIES:
            library = Path(folder) / name
            if library.exists():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                PATCHED.append(library.name)


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
    PATCHED.append("denormals flushed to zero in MXNet's threads")
    try:
        yield
    finally:
        libm.fesetenv(before)


def physical_cores() -> int:
    """The cores that this process may use, hyper-threads of one core counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = set()
    for cpu in os.sched_getaffinity(0):
        path = Path(siblings.format(cpu))
        cores.add(path.read_text() if path.exists() else str(cpu))
    return len(cores)


def _use_all_cores() -> None:
    """MXNet alone would take every second core for a hyper-thread, and leave it idle."""
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(physical_cores())
        PATCHED.append(f"OMP_NUM_THREADS={physical_cores()}")
    # Threads that wait for another process's turn on a core should not keep theirs busy for long:
    # with two trainings on the same cores each is twice as fast for it.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Large copies would start a second team of OpenMP threads in the calling thread. With more
    # threads than cores OpenMP stops spinning at barriers: box_nms takes 50 ms instead of 1.3 ms.
    os.environ.setdefault("MXNET_CPU_PARALLEL_SIZE", str(10**9))


def uses_amx() -> bool:
    """Whether MXNet, which has been imported, multiplies bfloat16 on the matrix unit."""
    return _AMX_IN_USE in PATCHED or os.environ.get("DNNL_MAX_CPU_ISA", "").upper() == AMX


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices, so that bf16 is worth choosing."""
    return bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


def has_int8() -> bool:
    """Whether the processor multiplies int8 matrices, so that int8 is worth choosing."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & _cpu_flags())


def _cpu_flags() -> set[str]:
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
        and "amx_bf16" in _cpu_flags()
        and ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    )
    if not granted or "DNNL_MAX_CPU_ISA" in os.environ:
        yield
        return
    os.environ["DNNL_MAX_CPU_ISA"] = AMX
    PATCHED.append(_AMX_IN_USE)
    try:
        yield
    finally:
        del os.environ["DNNL_MAX_CPU_ISA"]


def patch() -> None:
    """Make `import mxnet` work, and well; harmless when called again."""
    _restore_numpy_names()
    _restore_distutils()
    _load_cuda_libraries()
    _use_all_cores()


class _LazyMXNet(types.ModuleType):
    """Stands for mxnet, and imports it (about a second) when something of it is asked for.

    So the modules of graphs can be read for their configs and targets, as loader workers do,
    without loading the engine.
    """

    def __getattr__(self, name: str) -> Any:
        if "mxnet" not in sys.modules:
            patch()
            with _flushing_denormals(), _matrix_unit():
                mxnet = importlib.import_module("mxnet")
                # starts the engine's threads, and oneDNN
                image, weight = mxnet.nd.zeros((1, 1, 1, 1)), mxnet.nd.zeros((1, 1, 1, 1))
                mxnet.nd.Convolution(
                    image, weight, kernel=(1, 1), num_filter=1, no_bias=True
                ).wait_to_read()
        return getattr(sys.modules["mxnet"], name)


mx = _LazyMXNet("mxnet")

__all__ = ["PATCHED", "has_bf16", "has_int8", "mx", "patch", "uses_amx"]
