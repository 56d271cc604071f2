"""Print what is installed, what was patched, and what is missing: `mxrcnn doctor`.

It also works when MXNet or another core package is missing or does not load: it then says what to
install, and exits with code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from mxrcnn import __version__
from mxrcnn.program import command
from symnet.machine import MISSED, PATCHED
from symnet.machine.install import how_to_install, install_extra

#: distributions by the extra in pyproject.toml that requires them; "" is the core, always required
PACKAGES = {
    "": ("numpy", "Pillow", "matplotlib", "pycocotools", "defusedxml", "tqdm"),
    "tensorboard": ("tensorboardX",),
    "convert": ("safetensors", "h5py"),
    "onnx": ("onnx", "onnxruntime"),
    "dev": (
        *("pytest", "pytest-xdist", "hypothesis", "ruff", "gluoncv"),
        *("build", "twine", "check-wheel-contents", "selenium"),
    ),
}
ENGINES = ("mxnet", "mxnet-cu112")
#: module names of packages whose name differs
_MODULES = {"Pillow": "PIL"}
#: instruction sets that affect speed, or which --precision is worth choosing
CPU_FLAGS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MXNET_", "DNNL_", "MKLDNN_")
#: the highest compute capability that mxnet-cu112 has code for
_NEWEST_CARD = 8.9


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, dict[str, str | None]]:
    """Installed versions by extra and distribution; None if not installed."""
    found = {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()}
    found["engine"] = {name: _version(name) for name in ENGINES}
    return found


def _why(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[-1] if isinstance(error, ImportError) else text[0]}"


def _core_problems(packages: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    """Missing or broken core packages, each with the command that fixes it."""
    problems = []
    for name, version in packages[""].items():
        if version is None:
            problems.append(f"{name} is not installed: pip install {name}")
            continue
        try:
            import_module(_MODULES.get(name, name))
        except Exception as error:
            fix = f"pip install --force-reinstall {name}"
            problems.append(f"{name} {version} does not load ({_why(error)}): {fix}")
    return problems


def _engine(packages: Mapping[str, Mapping[str, str | None]]) -> tuple[dict[str, Any], list[str]]:
    """Import MXNet and multiply two matrices; returns (its version and features, problems)."""
    from symnet.machine import mx

    installed = [name for name, version in packages["engine"].items() if version]
    problems = []
    if len(installed) > 1:
        problems.append(
            "mxnet and mxnet-cu112 are both installed, in the same folder: pip uninstall both, "
            f"then install one ({how_to_install()})"
        )
    try:
        computed = float(mx.nd.dot(mx.nd.ones((2, 3)), mx.nd.ones((3, 2))).asnumpy().sum())
        features = sorted(f.name for f in mx.runtime.feature_list() if f.enabled)
        about = {"version": mx.__version__, "features": features, "gpus": mx.context.num_gpus()}
    except Exception as error:
        if installed:
            problems.append(f"{installed[0]} does not load ({_why(error)}): {how_to_install()}")
        else:
            problems.append(f"MXNet is not installed; {how_to_install()}")
        return {}, problems
    if computed != 12.0:
        problems.append(
            f"MXNet computes wrong results: {computed:g} instead of 12; {how_to_install()}"
        )
    return about, problems


def _machine() -> dict[str, Any]:
    from mxrcnn.bench.report import processor
    from symnet.machine import cores
    from symnet.machine.engine import uses_amx
    from symnet.machine.memory import read_memory

    memory, flags = read_memory(), cores.cpu_flags()
    return {
        "processor": processor(),
        "flags": [name for name in CPU_FLAGS if name in flags],
        "bf16_is_fast": cores.has_bf16(),
        "int8_is_fast": cores.has_int8(),
        "uses_amx": uses_amx(),
        "cores": os.cpu_count(),
        "usable_cores": cores.logical_cores(),
        "usable_physical_cores": cores.physical_cores(),
        "cpu_quota": cores.cpu_quota(),
        "memory": memory.total,
        "memory_available": memory.available,
        "memory_limit": memory.limit,
    }


def _gpus() -> list[dict[str, str]]:
    """The NVIDIA cards that the driver lists, with their compute capability."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    return [{"name": n.strip(), "compute_capability": c.strip()} for n, _, c in rows]


def _gpu_advice(cards: list[dict[str, str]], usable: int) -> list[str]:
    """Why MXNet does not use the cards. This is advice: the installation itself is fine."""
    if not cards or usable:
        return []
    capability = cards[0]["compute_capability"]
    try:
        too_new = float(capability) > _NEWEST_CARD
    except ValueError:
        too_new = False
    if too_new:
        return [
            f"{cards[0]['name']}: MXNet 1.9.1 supports compute capabilities up to {_NEWEST_CARD}, "
            f"and this card has {capability}: use the CPU, or ONNX ({command('export')})"
        ]
    return [
        f"{cards[0]['name']} is not used: in the clone of mxrcnn, make clean install "
        "EXTRA=cu112, or pip uninstall mxnet, then pip install '.[cu112]'"
    ]


def _advice(packages: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    """For each extra that is not fully installed, the command that installs it."""
    lines = []
    for extra in filter(None, PACKAGES):
        absent = [name for name, version in packages[extra].items() if version is None]
        if absent:
            lines.append(
                f"not installed: {', '.join(absent)}; if you need it, {install_extra(extra)}"
            )
    return lines


def examine() -> dict[str, Any]:
    """Collect the whole report as JSON-serialisable data; `problems` is empty if all is well.

    Imports MXNet, if it is installed.
    """
    packages = _packages()
    found: dict[str, Any] = {
        "mxrcnn": {"version": __version__, "folder": str(Path(__file__).parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "packages": packages,
        "problems": _core_problems(packages),
        "advice": _advice(packages),
        "gpus": _gpus(),
        "decoder": "",
        "mxnet": {},
        "machine": {},
    }
    given = {name for name in os.environ if name.startswith(_SETTINGS)}
    try:
        found["mxnet"], problems = _engine(packages)
        found["problems"] += problems
        found["machine"] = _machine()
        found["advice"] += _gpu_advice(found["gpus"], found["mxnet"].get("gpus", 0))
        from mxrcnn.data.images import decoder

        found["decoder"] = decoder()
    except ImportError as error:  # without NumPy our own modules do not load
        found["problems"].append(f"the remaining checks could not run ({_why(error)})")
    found["patched"], found["missed"] = dict(PATCHED), dict(MISSED)
    names = sorted(name for name in os.environ if name.startswith(_SETTINGS))
    found["settings"] = {
        name: {"value": os.environ[name], "by": "you" if name in given else "mxrcnn"}
        for name in names
    }
    return found


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _package_lines(packages: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    lines = []
    for extra, versions in packages.items():
        listed = ", ".join(f"{name} {version or '-'}" for name, version in versions.items())
        lines.append(f"{extra or 'core'}: {listed}")
    return lines


def _machine_lines(machine: Mapping[str, Any]) -> list[str]:
    quota, limit = machine["cpu_quota"], machine["memory_limit"]
    fast = [name for name in ("bf16", "int8") if machine[f"{name}_is_fast"]]
    return [
        machine["processor"],
        f"instruction sets: {' '.join(machine['flags']) or 'none that matter'}",
        f"faster than fp32: {', '.join(fast) or 'nothing'}; "
        f"matrix unit (AMX) in use: {'yes' if machine['uses_amx'] else 'no'}",
        f"cores: {machine['cores']}; usable by this process: {machine['usable_cores']}, "
        f"{machine['usable_physical_cores']} physical; quota: "
        f"{'none' if quota is None else f'{quota:g}'}",
        f"memory: {_gib(machine['memory'])}, {_gib(machine['memory_available'])} available; "
        f"control group limit: {'none' if limit is None else _gib(limit)}",
    ]


def describe(found: Mapping[str, Any]) -> str:
    """The report of `examine` as text."""
    mxnet, python = found["mxnet"], found["python"]
    gpus = [f"{gpu['name']} ({gpu['compute_capability']})" for gpu in found["gpus"]]
    sections = {
        "versions": [
            f"mxrcnn {found['mxrcnn']['version']} in {found['mxrcnn']['folder']}",
            f"Python {python['version']}, {python['executable']}",
            found["platform"],
            *_package_lines(found["packages"]),
            f"JPEG decoder: {found['decoder'] or 'unknown'}",
        ],
        "MXNet": [f"{mxnet['version']} with {', '.join(mxnet['features'])}"] if mxnet else [],
        "machine": _machine_lines(found["machine"]) if found["machine"] else [],
        "GPUs": [*gpus, f"usable by MXNet: {mxnet['gpus']}"] if mxnet else gpus,
        "settings": [f"{n}={s['value']} (set by {s['by']})" for n, s in found["settings"].items()],
        "patched": [f"{what}: {why}" for what, why in found["patched"].items()],
        "missed, because mxnet was imported before mxrcnn": [
            f"{what}: {why}" for what, why in found["missed"].items()
        ],
        "worth knowing": found["advice"],
        "missing or broken": found["problems"] or ["nothing"],
    }
    return "\n".join(
        line
        for title, lines in sections.items()
        for line in (f"{title}:", *(f"  {text}" for text in lines or ["unknown"]))
        if lines or title in ("MXNet", "machine")
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mxrcnn doctor`."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report; returns 1 if a core package is missing or broken, else 0."""
    found = examine()
    print(json.dumps(found, indent=2) if args.json else describe(found))
    return int(bool(found["problems"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mxrcnn.doctor", description=__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
