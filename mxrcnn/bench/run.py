"""The whole measurement: starts the sides, asks them in turn, and collects the answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mxrcnn
from mxrcnn.bench.report import BenchReport, Measured, Timing, operator_table
from mxrcnn.bench.scene import LEARNING_RATE, bench_config, default_size, write_files
from mxrcnn.bench.sides import Side
from mxrcnn.config import Config, ConfigError, check_precision, parse_settings
from mxrcnn.config.overrides import find_detector, resolve
from symnet.machine import has_bf16, has_int8
from symnet.machine.cores import physical_cores

MODES = ("train", "infer")
#: the minimum number of images to read from files
LEAST_FILES = 4
WARMUP = 2
LAYOUTS = ("channels_last", "contiguous")
PEER_SCRIPT = Path(__file__).with_name("peer_torchvision.py")
#: have MXNet run operators one by one, so that its profiler can tell them apart
ONE_BY_ONE = {"MXNET_EXEC_BULK_EXEC_TRAIN": "0", "MXNET_EXEC_BULK_EXEC_INFERENCE": "0"}
PEER_NETWORKS = ("faster_rcnn_vgg16", "faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn")
INSTALL = "python3 -m venv tv && tv/bin/pip install torch torchvision, then --peer tv/bin/python"


@dataclass(frozen=True)
class BenchRequest:
    """The request of `mxrcnn bench`.

    None stands for all supported precisions, both modes, the network's usual size, or all cores.
    words: `key=value` settings. matrix: the side of the matrices whose product is the ceiling.
    """

    network: str = "faster_rcnn_vgg16"
    precision: str | None = None
    size: tuple[int, int] | None = None
    repeat: int = 5
    threads: int | None = None
    words: Sequence[str] = ()
    peer: str | None = None
    mode: str | None = None
    matrix: int = 4096

    def precisions(self) -> tuple[str, ...]:
        """The precisions to measure; ConfigError for one that this processor does not support."""
        if self.precision:
            check_precision(self.precision)
            if self.precision == "int8" and self.mode == "train":
                raise ConfigError("--precision int8 --mode train: int8 is for inference")
            return (self.precision,)
        low = {"bf16": has_bf16(), "int8": has_int8() and self.mode != "train"}
        return ("fp32", *(name for name, there in low.items() if there))

    def modes(self, precision: str) -> tuple[str, ...]:
        """The modes to measure in a precision."""
        if precision == "int8":
            return ("infer",)
        return (self.mode,) if self.mode else MODES


def run_bench(request: BenchRequest) -> BenchReport:
    """Measure. Raises ConfigError for an invalid request, SideError if a process fails."""
    request = replace(request, network=find_detector(request.network).name)  # it may be an alias
    if request.peer:
        check_peer(request)
    return measure_all(request, PEER_SCRIPT)


def check_peer(request: BenchRequest) -> None:
    """ConfigError unless torchvision has the same network and the interpreter has torchvision."""
    if request.network not in PEER_NETWORKS:
        raise ConfigError(f"--peer: torchvision is measured on {', '.join(PEER_NETWORKS)}")
    config = bench_config(request.network, (), (64, 64), "fp32")
    names = resolve(config, parse_settings(request.words))
    changed = [name for name in names if name.startswith("model.")]
    if changed:
        raise ConfigError(f"--set {changed[0]}: with --peer, the network must be torchvision's")
    try:
        done = subprocess.run(
            [request.peer, "-c", "import torch, torchvision"], capture_output=True, text=True
        )
    except OSError as error:
        raise ConfigError(f"--peer {request.peer}: {error.strerror}. {INSTALL}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        raise ConfigError(f"--peer {request.peer} cannot import torchvision ({reason}). {INSTALL}")


def _with_defaults(request: BenchRequest) -> BenchRequest:
    """The request with size and threads filled in; ConfigError for invalid settings."""
    size = request.size or default_size(request.network)
    bench_config(request.network, request.words, size, "fp32")
    return replace(request, size=size, threads=request.threads or physical_cores())


def measure_all(request: BenchRequest, peer_script: Path) -> BenchReport:
    """Measure every precision and mode; the sides alternate. request.peer runs peer_script."""
    request, precisions = _with_defaults(request), request.precisions()
    load = os.getloadavg()[0]
    if load > 0.7:
        say(f"load average {load:.2f}: other work on this machine makes the times too high")
    rows = [each.measure() for each in _comparisons(request, precisions, peer_script)]
    return BenchReport(request.network, request.size, request.threads, request.repeat, load, rows)


def profile(request: BenchRequest) -> str:
    """A table of the milliseconds that our operators take, for each precision and mode."""
    request, precisions = _with_defaults(request), request.precisions()
    return "\n\n".join(
        operator_table(f"{each.mode}, {each.precision}", each.operators())
        for each in _comparisons(request, precisions, PEER_SCRIPT)
    )


def _comparisons(
    request: BenchRequest, precisions: Sequence[str], peer_script: Path
) -> Iterator[_Comparison]:
    """One comparison per precision and mode. The image files exist until the last one is done."""
    with tempfile.TemporaryDirectory(prefix="mxrcnn_bench_") as name:
        folder = Path(name)
        write_files(folder / "files", request.size)
        for precision in precisions:
            for mode in request.modes(precision):
                yield _Comparison(request, precision, mode, folder, peer_script)


def say(line: str) -> None:
    """Print progress to stderr."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class _Comparison:
    """One mode in one precision, on all sides."""

    request: BenchRequest
    precision: str
    mode: str
    folder: Path
    peer_script: Path

    def measure(self) -> Measured:
        """Start the sides and let them do steps in turn; then ask ours for the rest."""
        with ExitStack() as stack:
            say(f"{self.mode} {self.precision}: starting")
            if self.precision == "int8":
                self._ours("int8").close()
            ours = stack.enter_context(self._ours(self.mode))
            peers = self._start_peers(stack, ours) if self.request.peer else {}
            sides = {"mxrcnn": ours, **peers}
            answers_of: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
            for turn in range(1, self.request.repeat + 1):
                for name, side in sides.items():
                    answers_of[name].append(side.ask("step"))
                last = (
                    f"{name} {answers[-1]['seconds']:.3f} s" for name, answers in answers_of.items()
                )
                say(f"{self.mode} {self.precision} {turn}/{self.request.repeat}: {', '.join(last)}")
            timings = {
                name: Timing(answers_of[name], side.ask("rss")["max_rss_mb"], side.ready)
                for name, side in sides.items()
            }
            for side in peers.values():
                side.close()
            return self._with_ours(ours, timings)

    def operators(self) -> dict[str, float]:
        """The milliseconds of our operators per step, the slowest first."""
        say(f"{self.mode} {self.precision}: starting")
        if self.precision == "int8":
            self._ours("int8").close()
        with self._ours(self.mode, **ONE_BY_ONE) as ours:
            return ours.ask(f"operators {self.request.repeat}")

    def _with_ours(self, ours: Side, timings: dict[str, Timing]) -> Measured:
        say(f"{self.mode} {self.precision}: from files, and the machine's ceiling")
        count = max(LEAST_FILES, 2 * self.request.repeat)
        return Measured(
            mode=self.mode,
            precision=self.precision,
            ours=timings.pop("mxrcnn"),
            peers=timings,
            multiply_adds=ours.ask("work")["multiply_adds"],
            files=ours.ask(f"files {count}"),
            ceiling=ours.ask(f"ceiling {self.request.matrix}")["rate"],
        )

    def _environment(self) -> dict[str, str]:
        root = str(Path(mxrcnn.__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(self.request.threads)}

    def _ours(self, mode: str, **environment: str) -> Side:
        spec = {
            "mode": mode,
            "network": self.request.network,
            "precision": self.precision,
            "settings": list(self.request.words),
            "size": self.request.size,
            "folder": str(self.folder / "files"),
            "arrays": str(self._arrays),
            "warmup": WARMUP,
        }
        command = [sys.executable, "-m", "mxrcnn.bench.ours"]
        return Side("mxrcnn", command, spec, {**self._environment(), **environment})

    @property
    def _arrays(self) -> Path:
        return self.folder / "arrays.npz"

    def _start_peers(self, stack: ExitStack, ours: Side) -> dict[str, Side]:
        """Start torchvision in each memory layout, with our image and parameters."""
        if not self._arrays.exists():
            self._ours("export").close()
        config = bench_config(
            self.request.network, self.request.words, self.request.size, self.precision
        )
        spec = self._peer_spec(config, ours.ready["size"])
        environment = {"OMP_NUM_THREADS": str(self.request.threads)}
        command = [self.request.peer, str(self.peer_script)]
        return {
            layout: stack.enter_context(
                Side(f"torchvision {layout}", command, {**spec, "layout": layout}, environment)
            )
            for layout in LAYOUTS
        }

    def _peer_spec(self, config: Config, size: Sequence[int]) -> Mapping[str, Any]:
        return {
            "mode": self.mode,
            "network": self.request.network,
            # torchvision has no int8: compare with its fastest
            "precision": "bf16" if self.precision == "int8" else self.precision,
            "classes": config.model.num_classes,
            "threads": self.request.threads,
            "short_side": min(size),
            "long_side": max(size),
            "mean": [value / 255 for value in config.data.mean],
            "std": [value / 255 for value in config.data.std],
            "lr": LEARNING_RATE,
            "arrays": str(self._arrays),
            "warmup": WARMUP,
        }
