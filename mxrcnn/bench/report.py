"""The results of a benchmark, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxrcnn.tables import aligned

WHAT = {"train": "training step", "infer": "image to boxes"}


@dataclass(frozen=True)
class Timing:
    """One side in one mode: its answers to `step`, its peak memory, its `ready` object."""

    answers: Sequence[Mapping[str, Any]]
    max_rss_mb: int
    ready: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """The median time of a step."""
        return statistics.median(answer["seconds"] for answer in self.answers)


@dataclass(frozen=True)
class Measured:
    """One mode in one precision. peers: by memory layout. ceiling: multiply-adds per second."""

    mode: str
    precision: str
    ours: Timing
    peers: Mapping[str, Timing]
    multiply_adds: int
    files: Mapping[str, float]
    ceiling: float

    @property
    def key(self) -> str:
        """The key in the JSON, such as train_fp32."""
        return f"{self.mode}_{self.precision}"

    @property
    def peer_key(self) -> str:
        """The peer's key; it has no int8."""
        return self.key.replace("int8", "bf16")

    @property
    def layout(self) -> str | None:
        """The peer's fastest layout; None without a peer."""
        return min(self.peers, key=lambda name: self.peers[name].seconds, default=None)

    @property
    def peer(self) -> Timing | None:
        """The peer in its fastest layout; None without a peer."""
        return self.peers[self.layout] if self.layout else None

    @property
    def ratio(self) -> float | None:
        """Our seconds divided by the peer's; int8 is compared with its bfloat16."""
        return self.ours.seconds / self.peer.seconds if self.peer else None

    @property
    def share(self) -> float:
        """The fraction of the machine's ceiling that the network's multiply-adds reach."""
        return self.multiply_adds / self.ours.seconds / self.ceiling


@dataclass
class BenchReport:
    """All results of one run."""

    network: str
    size: tuple[int, int]
    threads: int
    repeat: int
    load: float
    rows: list[Measured] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Seconds per image by mode and precision, peak memory, the peer's, ratios, and more."""
        with_peer = [row for row in self.rows if row.peer]
        out: dict[str, Any] = {
            "network": self.network,
            "size": list(self.size),
            "threads": self.threads,
            "repeat": self.repeat,
            "cpu": processor(),
            "load_at_start": round(self.load, 2),
            **_seconds({row.key: row.ours for row in self.rows}),
            "memory_mb": {row.key: row.ours.max_rss_mb for row in self.rows},
            "files": {row.key: {k: round(v, 4) for k, v in row.files.items()} for row in self.rows},
            "gflop": {row.key: round(2e-9 * row.multiply_adds, 1) for row in self.rows},
            "ceiling_gflops": {row.precision: round(2e-9 * row.ceiling) for row in self.rows},
            "share_of_ceiling": {row.key: round(row.share, 3) for row in self.rows},
        }
        if with_peer:
            versions = ("torch", "torchvision")
            ready = with_peer[0].peer.ready
            out["peer"] = {
                **{name: ready[name] for name in versions if name in ready},
                # reversed: where bf16 and int8 rows share a key, bf16's own is kept
                **_seconds({row.peer_key: row.peer for row in reversed(with_peer)}),
                "memory_mb": {row.key: row.peer.max_rss_mb for row in with_peer},
                "layout": {row.key: row.layout for row in with_peer},
            }
            out["ratio"] = {row.key: round(row.ratio, 3) for row in with_peer}
            out["ratio"]["max_rss_mb"] = round(out["max_rss_mb"] / out["peer"]["max_rss_mb"], 3)
        return out

    def table(self) -> str:
        """The results as text."""
        height, width = self.size
        head = f"{self.network}, one image of {height}x{width}, {self.threads} threads, "
        head += f"{processor()}: medians of {self.repeat}, "
        parts = [
            head + f"load average at the start {self.load:.2f}",
            aligned(self._times()),
            aligned(self._files()),
            aligned(self._ceilings()),
        ]
        return "\n\n".join(parts)

    def _times(self) -> list[list[str]]:
        with_peer = any(row.peer for row in self.rows)
        rows = [["", "seconds", "peak memory"]]
        rows[0] += ["torchvision", "its memory", "its layout", "ratio"] if with_peer else []
        for row in self.rows:
            cells = [f"{WHAT[row.mode]}, {row.precision}", f"{row.ours.seconds:.3f}"]
            cells.append(f"{row.ours.max_rss_mb} MB")
            if row.peer:
                note = " bf16" if row.precision == "int8" else ""
                cells += [f"{row.peer.seconds:.3f}{note}", f"{row.peer.max_rss_mb} MB", row.layout]
                cells.append(f"{row.ratio:.2f}")
            rows.append(cells)
        return rows

    def _files(self) -> list[list[str]]:
        rows = [["from JPEG files", "images/s", "waiting for data"]]
        names = {"train": "training", "infer": "prediction"}
        for row in self.rows:
            rate, waiting = row.files["images_per_second"], row.files["waiting"]
            rows.append([f"{names[row.mode]}, {row.precision}", f"{rate:.2f}", f"{waiting:.1%}"])
        return rows

    def _ceilings(self) -> list[list[str]]:
        rows = [["layers' arithmetic", "GFLOP", "GFLOP/s", "matrix product", "share"]]
        for row in self.rows:
            work = 2e-9 * row.multiply_adds
            rates = work / row.ours.seconds, 2e-9 * row.ceiling
            cells = [f"{WHAT[row.mode]}, {row.precision}", f"{work:.0f}"]
            rows.append([*cells, *(f"{rate:.0f}" for rate in rates), f"{row.share:.0%}"])
        return rows


def _seconds(timings: Mapping[str, Timing]) -> dict[str, float]:
    """The entries of either side: seconds by mode and precision, and the highest memory."""
    seconds = {key: round(timing.seconds, 4) for key, timing in timings.items()}
    return {**seconds, "max_rss_mb": max(timing.max_rss_mb for timing in timings.values())}


def operator_table(title: str, milliseconds: Mapping[str, float], least: float = 1.0) -> str:
    """A table of milliseconds per operator; those below `least` are summed up."""
    rows = [[title, "ms a step"]]
    rows += [[name, f"{ms:.1f}"] for name, ms in milliseconds.items() if ms >= least]
    rows.append(["all others", f"{sum(ms for ms in milliseconds.values() if ms < least):.1f}"])
    return aligned(rows)


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
