"""Starts the processes of a distributed training, and ends all of them when one fails.

There are a scheduler, to which all others connect, servers, which add up the gradients, and
workers. All run the same command; MXNet's `DMLC_*` variables set their roles. Each runs under a
guard (guard.py), which kills it when the launcher is gone, also on other hosts.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import IO

from mxrcnn.config import ConfigError
from mxrcnn.training.signals import stop_signals

GUARD = Path(__file__).with_name("guard.py")
SSH = (
    *("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)
#: prefixes of the environment variables that are passed on to other hosts
FORWARDED = ("DMLC_", "PS_", "MXNET_", "MXRCNN_", "OMP_", "GOMP_", "KMP_")
#: seconds that the other processes have to end by themselves, once the first has
GRACE = 10.0

#: the variables in which job schedulers pass a process its number and the total
SCHEDULERS = {
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS"),),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMIX_RANK", "PMIX_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),
    ),
    "k8s": (("JOB_COMPLETION_INDEX", "DMLC_NUM_WORKER"),),
}


@dataclass(frozen=True)
class Process:
    """One process to start: DMLC_ROLE, its number within the role, host (None: here), variables."""

    role: str
    number: int
    host: str | None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in messages."""
        name = self.role if self.role == "scheduler" else f"{self.role} {self.number}"
        return name if self.host is None else f"{name} on {self.host}"

    @property
    def prefix(self) -> str:
        """The prefix of its lines of output; empty for worker 0, which logs for all."""
        if self.role != "worker":
            return f"[{self.role} {self.number}] "
        return f"[{self.number}] " if self.number else ""


def read_hostfile(path: str | Path) -> list[tuple[str, int]]:
    """Read (host, slots) from lines `host` or `host slots=4`; # starts a comment.

    Raises ConfigError for malformed lines, OSError for a file that cannot be read.
    """
    hosts = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, slots = words[0], words[1:] or ["slots=1"]
        key, _, value = slots[0].partition("=")
        if len(slots) > 1 or key != "slots" or not value.isdigit() or not int(value):
            raise ConfigError(f"{path}, line {number}: {line!r}: expected `host` or `host slots=4`")
        if name.startswith("-"):
            raise ConfigError(f"{path}, line {number}: {name!r} is not a host")
        hosts.append((name, int(value)))
    if not hosts:
        raise ConfigError(f"{path}: names no host")
    return hosts


def place(count: int, hosts: Sequence[tuple[str, int]]) -> list[str]:
    """The host of each worker. Slots are filled host by host; if too few, from the start again."""
    slots = [name for name, number in hosts for _ in range(number)]
    return [slots[index % len(slots)] for index in range(count)]


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def own_address(host: str) -> str:
    """This machine's address on the route to that host; ConfigError for an unknown host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host.rpartition("@")[2], 9))  # sends nothing
        except OSError as error:
            raise ConfigError(f"host {host}: {error.strerror}; name another with --uri") from None
        return probe.getsockname()[0]


def _connection(uri: str, port: int, workers: int, servers: int) -> dict[str, str]:
    """The variables that all processes share."""
    found = {
        "DMLC_PS_ROOT_URI": uri,
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": str(servers),
    }
    if uri.startswith("127.") and "DMLC_INTERFACE" not in os.environ:
        found["DMLC_INTERFACE"] = "lo"
    return found


def plan_processes(
    workers: int,
    servers: int = 0,
    hosts: Sequence[tuple[str, int]] | None = None,
    uri: str | None = None,
) -> list[Process]:
    """All processes of a training. servers=0: one per host. The scheduler always runs here."""
    if workers < 1 or servers < 0:
        raise ConfigError(f"-n {workers} -s {servers}: at least one worker and one server")
    places: list[str | None] = list(place(workers, hosts)) if hosts else [None] * workers
    serving = list(dict.fromkeys(places))
    servers = servers or len(serving)
    uri = uri or (own_address(hosts[0][0]) if hosts else "127.0.0.1")
    common = _connection(uri, free_port(), workers, servers)

    def process(role: str, number: int, host: str | None, **more: str) -> Process:
        return Process(role, number, host, {**common, "DMLC_ROLE": role, **more})

    return [
        process("scheduler", 0, None),
        *(process("server", k, serving[k % len(serving)]) for k in range(servers)),
        *(
            process(
                "worker",
                rank,
                host,
                DMLC_WORKER_ID=str(rank),
                MXRCNN_LOCAL_WORKERS=str(places.count(host)),
            )
            for rank, host in enumerate(places)
        ),
    ]


def processes_of_task(scheduler: str, servers: int = 0) -> list[Process]:
    """The processes that one task of Slurm, MPI or Kubernetes starts.

    Each task starts a worker, the first `servers` tasks (0: all) also a server, and task 0 also the
    scheduler. Raises ConfigError if variables are missing in the environment.
    """
    known = SCHEDULERS[scheduler]
    names = next((pair for pair in known if all(name in os.environ for name in pair)), None)
    if names is None:
        wanted = ", or ".join(" and ".join(pair) for pair in known)
        raise ConfigError(f"--from-env {scheduler}: {wanted} must be in the environment")
    uri, port = (os.environ.get(f"DMLC_PS_ROOT_{part}", "") for part in ("URI", "PORT"))
    if not uri or not port.isdigit():
        raise ConfigError(
            f"--from-env {scheduler}: set DMLC_PS_ROOT_URI to the address of task 0, and "
            "DMLC_PS_ROOT_PORT to a free port there (docs/distributed.md)"
        )
    rank, count = (int(os.environ[name]) for name in names)
    servers = min(servers, count) or count
    common = _connection(uri, int(port), count, servers)
    common["DMLC_USE_KUBERNETES"] = "1"  # the scheduler listens on all addresses: uri may be a name
    roles = [*["scheduler"] * (rank == 0), *["server"] * (rank < servers), "worker"]
    return [
        Process(role, rank, None, {**common, "DMLC_ROLE": role, "DMLC_WORKER_ID": str(rank)})
        for role in roles
    ]


def guarded(process: Process, command: Sequence[str], python: str) -> list[str]:
    """The command line that runs the command as that process, under a guard, on its host."""
    variables = dict(process.variables)
    if process.host is not None:
        forwarded = {k: v for k, v in os.environ.items() if k.startswith(FORWARDED)}
        variables = {**forwarded, **variables}
    words = [f"{name}={value}" for name, value in variables.items()]
    guard = [python, "-I", str(GUARD), *words, "--", *command]
    if process.host is None:
        return guard
    line = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(guard)}"
    return [*SSH, "--", process.host, line]


class _Child:
    """A started process, with threads that copy its output and report when it has ended."""

    def __init__(
        self, process: Process, words: Sequence[str], ended: SimpleQueue[tuple[_Child, int]]
    ) -> None:
        self.process = process
        piped = subprocess.PIPE if process.prefix else None
        try:
            self._popen = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=piped,
                stderr=piped,
                start_new_session=True,  # the launcher handles Ctrl-C
            )
        except OSError as error:
            raise ConfigError(f"{words[0]}: {error.strerror}") from None
        streams = ((self._popen.stdout, sys.stdout), (self._popen.stderr, sys.stderr))
        self._readers = [
            threading.Thread(target=self._pass_on, args=pair, daemon=True)
            for pair in streams
            if pair[0] is not None
        ]
        for reader in self._readers:
            reader.start()
        threading.Thread(target=self._wait, args=(ended,), daemon=True).start()

    def _pass_on(self, source: IO[bytes], target: IO[str]) -> None:
        for line in source:
            text = line.decode("utf-8", "replace").rstrip("\n")
            target.write(f"{self.process.prefix}{text}\n")
            target.flush()

    def _wait(self, ended: SimpleQueue[tuple[_Child, int]]) -> None:
        code = self._popen.wait()
        for reader in self._readers:
            reader.join(1)
        ended.put((self, code if code >= 0 else 128 - code))

    def signal(self, signum: int) -> None:
        """Forward a signal."""
        try:
            self._popen.stdin.write(f"{signum}\n".encode())
            self._popen.stdin.flush()
        except (OSError, ValueError):  # it has ended
            pass

    def end(self) -> None:
        """Have its guard kill it."""
        with contextlib.suppress(OSError):
            self._popen.stdin.close()

    def kill(self) -> None:
        """Kill its guard, or ssh."""
        self._popen.kill()


class Launcher:
    """Runs processes until all have ended or one has failed."""

    def __init__(self, processes: Sequence[Process], command: Sequence[str], python: str) -> None:
        self._plan = [(process, guarded(process, command, python)) for process in processes]
        self._ended: SimpleQueue[tuple[_Child, int]] = SimpleQueue()
        self._children: list[_Child] = []
        self._left: set[_Child] = set()
        self._stopping: int | None = None

    def run(self) -> int:
        """Run all processes. Returns 0, the exit code of the first that failed, or 128 + n.

        After signal n the workers save and stop. A failure is printed.
        """
        before = {number: signal.signal(number, self._stop) for number in stop_signals()}
        try:
            for process, words in self._plan:
                child = _Child(process, words, self._ended)
                self._children.append(child)
                self._left.add(child)
            return self._watch()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
        finally:
            self._end_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, signum: int, _: FrameType | None) -> None:
        if self._stopping is not None:
            raise KeyboardInterrupt
        self._stopping = signum
        for child in self._children:
            if child.process.role == "worker":
                child.signal(signal.SIGTERM if signum == signal.SIGHUP else signum)

    def _watch(self) -> int:
        working = {child for child in self._children if child.process.role == "worker"}
        asked = {128 + n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        result, deadline = 0, None
        while working:
            try:
                limit = None if deadline is None else max(0.0, deadline - time.monotonic())
                child, code = self._ended.get(timeout=limit)
                self._left.discard(child)
            except Empty:
                print("stopped, but not all processes ended: killing them", file=sys.stderr)
                return result
            if code not in {0, *asked} or (code and child not in working):
                return self._explain(child, code)
            working.discard(child)  # servers and scheduler end with 0 after the last worker
            if code:  # stopped by a signal, in agreement with the others, after saving
                result, deadline = code, time.monotonic() + GRACE
        self._collect(GRACE)  # servers and scheduler end by themselves
        return result

    def _explain(self, child: _Child, code: int) -> int:
        how = f"exit code {code}"
        if code > 128:
            with contextlib.suppress(ValueError):
                how = f"signal {code - 128} ({signal.Signals(code - 128).name})"
        if child.process.host is not None and code == 255:
            how += ": ssh failed"
        print(f"error: {child.process.name} ended with {how}; ending all", file=sys.stderr)
        return code or 1

    def _collect(self, seconds: float) -> None:
        """Wait up to so many seconds for all to end."""
        deadline = time.monotonic() + seconds
        while self._left and time.monotonic() < deadline:
            try:
                child, _ = self._ended.get(timeout=max(0.0, deadline - time.monotonic()))
                self._left.discard(child)
            except Empty:
                pass

    def _end_all(self) -> None:
        """End all processes that still run."""
        for child in self._left:
            child.end()
        self._collect(GRACE)
        for child in self._left:
            child.kill()
