"""Settings of MXNet's threads and libraries, applied while MXNet is imported.

For `mxnet-cu112`, the CUDA 11 libraries of the `nvidia-*-cu11` wheels are loaded. MXNet's threads
treat denormal numbers as zero, because these carry no information in training, and make fully
connected layers and their updates two to three times slower. oneDNN may use AMX where the processor
has it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symnet.machine.changes import PATCHED
from symnet.machine.cores import cpu_flags, local_workers, physical_cores

#: oneDNN's name for processors with a matrix unit
AMX = "AVX512_CORE_AMX"
_AMX_IN_USE = "AMX for bfloat16 and int8"
_AMX_REASON = "it makes bfloat16 six times as fast as float32; oneDNN does not use it by default"
_FLUSHED = "denormals flushed to zero in MXNet's threads"
_FLUSHED_REASON = "they carry no information, and make updates two to three times slower"

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


@contextmanager
def prepared() -> Iterator[None]:
    """Apply the settings that must hold while MXNet is imported and its threads are started."""
    _load_cuda_libraries()
    set_environment()
    with _flushing_denormals(), _matrix_unit():
        yield


def missed() -> dict[str, str]:
    """What `prepared` would have set in this process, and why. Changes nothing."""
    late = {f"{name}={value}": why for name, value, why in _wanted_environment()}
    if _libm() is not None:
        late[_FLUSHED] = _FLUSHED_REASON
    if _has_amx() and "DNNL_MAX_CPU_ISA" not in os.environ:
        late[_AMX_IN_USE] = _AMX_REASON
    return late


def uses_amx() -> bool:
    """True if MXNet, which must be imported by now, uses the matrix unit for bfloat16."""
    return _AMX_IN_USE in PATCHED or os.environ.get("DNNL_MAX_CPU_ISA", "").upper() == AMX


def _wanted_environment() -> list[tuple[str, int, str]]:
    """Settings better than OpenMP's and MXNet's defaults, and why; the user's take precedence."""
    settings = (
        (
            *("OMP_NUM_THREADS", max(1, physical_cores() // local_workers())),
            "MXNet would mistake every second core for a hyper-thread, and leave it idle",
        ),
        (
            *("GOMP_SPINCOUNT", 20000),
            "waiting threads should not keep a core busy that another process could use: this "
            "makes two trainings on the same cores twice as fast",
        ),
        (
            *("MXNET_CPU_PARALLEL_SIZE", 10**9),
            "large copies would start a second team of OpenMP threads; with more threads than "
            "cores they stop spinning at barriers, and box_nms takes 50 ms instead of 1.3 ms",
        ),
        (
            *("MXNET_SUBGRAPH_VERBOSE", 0),
            "every bound graph, one per image shape, would print a line",
        ),
    )
    return [setting for setting in settings if setting[0] not in os.environ]


def set_environment() -> None:
    """Set the variables that OpenMP and MXNet read when loaded, unless the user has set them."""
    for name, value, why in _wanted_environment():
        os.environ[name] = str(value)
        PATCHED[f"{name}={value}"] = why


def _load_cuda_libraries() -> None:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _CUDA_LIBRARIES:
            library = Path(folder) / name
            if library.exists():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                PATCHED[library.name] = f"mxnet-cu112 needs it; from {library.parent.parent.name}"


def _libm() -> ctypes.CDLL | None:
    """glibc's math library for x86-64, whose control word is known; None elsewhere."""
    try:
        libm = ctypes.CDLL("libm.so.6")
    except OSError:  # another C library: slower, not wrong
        return None
    return libm if platform.machine() == "x86_64" else None


@contextmanager
def _flushing_denormals() -> Iterator[None]:
    """Set flush-to-zero and denormals-are-zero, for this thread and those started meanwhile."""
    libm = _libm()
    if libm is None:
        yield
        return
    import numpy as np

    before, flushing = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)  # NumPy inspects denormals once, and would warn if they were flushed
    for environment in (before, flushing):  # x86-64's fenv_t, whose last word is MXCSR
        libm.fegetenv(environment)
    flushing[7] |= 0x8040
    libm.fesetenv(flushing)
    PATCHED[_FLUSHED] = _FLUSHED_REASON
    try:
        yield
    finally:
        libm.fesetenv(before)


def _has_amx() -> bool:
    return platform.machine() == "x86_64" and "amx_bf16" in cpu_flags()


@contextmanager
def _matrix_unit() -> Iterator[None]:
    """Let oneDNN, if it starts meanwhile, use AMX: six times AVX-512's float32 speed in bfloat16.

    MXNet's oneDNN 2.4 uses AMX only if DNNL_MAX_CPU_ISA says so. It crashes unless the process has
    requested permission from Linux (5.16 and later; ARCH_REQ_XCOMP_PERM). The variable is removed
    afterwards, so that a child process that has not requested permission does not crash.
    """
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    granted = (
        _has_amx() and ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    )
    if not granted or "DNNL_MAX_CPU_ISA" in os.environ:
        yield
        return
    os.environ["DNNL_MAX_CPU_ISA"] = AMX
    PATCHED[_AMX_IN_USE] = _AMX_REASON
    try:
        yield
    finally:
        del os.environ["DNNL_MAX_CPU_ISA"]


def start_threads(mxnet: types.ModuleType) -> None:
    """Start the engine's threads and oneDNN, by running a tiny convolution."""
    image, weight = mxnet.nd.zeros((1, 1, 1, 1)), mxnet.nd.zeros((1, 1, 1, 1))
    out = mxnet.nd.Convolution(image, weight, kernel=(1, 1), num_filter=1, no_bias=True)
    out.wait_to_read()


#: keeps C callbacks alive as long as the process
_KEPT: list[object] = []


def flush_after_forks(mxnet: types.ModuleType) -> None:
    """Make the threads that MXNet restarts after a fork flush denormals too.

    A fork ends MXNet's threads. Python 3.9 forks to start any program, such as a loader worker or
    the one that lists fonts for matplotlib. Later versions use vfork, which MXNet does not notice.
    """

    def restarted() -> None:
        with _flushing_denormals():
            start_threads(mxnet)

    try:
        register = ctypes.CDLL(None).__register_atfork
    except AttributeError:  # not glibc, as in _libm
        return
    in_parent = ctypes.CFUNCTYPE(None)(restarted)
    register(None, in_parent, None, None)  # runs after MXNet's own, which was registered first
    _KEPT.append(in_parent)
