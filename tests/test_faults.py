"""Real-life faults in training: kills, full and read-only disks, wrong clocks, no memory.

After each fault, every existing checkpoint loads and equals an undisturbed run's to the bit, and
none is lost. The resumed run ends with the same bits. Kills at chosen points are in
test_resume.py, dying workers in test_loader.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState
from tests.conftest import REPO
from tests.runs import (
    TRAIN,
    arrays,
    assert_same_end,
    finish,
    kill,
    launch,
    logged,
    new_run,
    resume_to_the_end,
    wait_until,
)

#: how often the trainer is killed at random moments; docs/reliability.md tells of 30
KILLS = int(os.environ.get("MXRCNN_KILLS", "4"))
#: rows of the log say these of the machine, not of the training
OF_THE_MACHINE = {"images_per_second", "waiting"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With more threads, runs this small would spend most of their time at barriers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 12, 3, (64, 96))


def start(data_root: Path, out: Path, workers: int = 0, keep: int = 2) -> list[str | Path]:
    return [*new_run(data_root, out, workers), "epochs=3", f"keep={keep}"]


@pytest.fixture(scope="module")
def whole(data_root, tmp_path_factory) -> RunFolder:
    """An undisturbed run, with every checkpoint that it wrote."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = finish(launch(*start(data_root, out, keep=1000)))
    assert code == 0, err
    return RunFolder(out)


def same_rows(run: RunFolder, whole: RunFolder) -> bool:
    """Whether the log is a part of the other's, apart from how fast it went."""
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in folder.read_log()]
        for folder in (run, whole)
    )
    return all(row in theirs for row in ours)


def assert_nothing_broken(run: Path, whole: RunFolder, at_least: int = 0) -> int:
    """Every checkpoint loads, with the bits of the undisturbed run, and those up to step
    `at_least` are not lost; returns the last one's step."""
    folder = RunFolder(run)
    for step in folder.steps():
        ours, theirs = arrays(folder.folder(step)), arrays(whole.folder(step))
        assert ours.keys() == theirs.keys()
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours), step
        state = [(f.folder(step) / "state.json").read_text() for f in (folder, whole)]
        assert state[0] == state[1]
    if (run / "best.json").exists():
        assert folder.best().step in folder.steps()
    if (run / "config.json").exists():
        assert folder.config().network == "faster_rcnn_vgg16"
        assert folder.symbol("test").list_outputs() == whole.symbol("test").list_outputs()
    assert same_rows(folder, whole)
    last = (folder.steps() or [0])[-1]
    assert last >= at_least
    return last


# Killed


def ended_within(seconds: float, process: subprocess.Popen) -> bool:
    """True if it has ended successfully after this many seconds."""
    try:
        assert process.wait(seconds) == 0, finish(process)[2]
    except subprocess.TimeoutExpired:
        return False
    process.communicate()
    return True


def wait_for_a_step(run: RunFolder, process: subprocess.Popen) -> None:
    """Wait until this process has logged a step, or ended."""
    saved = (run.steps() or [0])[-1]
    before = run.log.stat().st_ino if run.log.exists() else 0  # resuming writes the log anew

    def logged_one() -> bool:
        there = run.log.exists() and run.log.stat().st_ino != before
        return there and logged(run.path) > saved

    limit = time.monotonic() + 120
    while process.poll() is None and not logged_one():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.001)


class Killer:
    """Trains in a folder, and kills it at random moments.

    A quarter of them while it starts, the others within the time of twelve steps after its first.
    """

    def __init__(self, data_root: Path, whole: RunFolder) -> None:
        self.data_root, self.whole, self.rng = data_root, whole, random.Random(7)
        self.startup, self.pace = 1.0, 0.2

    def _launch(self, run: Path) -> subprocess.Popen:
        workers = self.rng.choice([0, 0, 1])
        if (run / "config.json").exists():
            return launch("--resume", run, "--num-workers", workers)
        return launch(*start(self.data_root, run, workers))

    def measure(self, run: Path) -> None:
        """The time that start-up takes, and twelve steps; this run is killed too."""
        begun = time.monotonic()
        process = launch(*start(self.data_root, run))
        wait_until(process, lambda: logged(run) >= 1)
        first = time.monotonic()
        wait_until(process, lambda: logged(run) >= 13)
        self.startup, self.pace = first - begun, time.monotonic() - first
        kill(process)

    def survived(self, run: Path) -> bool:
        """Resume the run; True if it reached its end before it was killed."""
        saved = (RunFolder(run).steps() or [0])[-1]
        process = self._launch(run)
        longest = self.startup
        if self.rng.random() > 0.25:
            wait_for_a_step(RunFolder(run), process)
            longest = self.pace
        if ended_within(self.rng.uniform(0, longest), process):
            return True
        kill(process)
        assert_nothing_broken(run, self.whole, at_least=saved)
        return False


def test_killed_at_random_moments(data_root, tmp_path, whole):
    """As often as MXRCNN_KILLS says, in as many runs as it takes."""
    killer = Killer(data_root, whole)
    run, kills, lasts = tmp_path / "run 1", 1, []
    killer.measure(run)
    while kills < KILLS or not (run / "config.json").exists():
        if killer.survived(run):
            assert_same_end(run, whole.path)
            run = tmp_path / f"run {int(run.name[4:]) + 1}"
        else:
            kills += 1
        lasts.append((RunFolder(run).steps() or [0])[-1])
    resume_to_the_end(run)
    assert_same_end(run, whole.path)
    print(f"{kills} kills in {run.name[4:]} runs; last checkpoints after each: {lasts}")


#: of augmentation and optimising
EVERYTHING = [
    *("augment=strong", "schedule=cosine", "optimizer=adamw", "accumulate=2", "batch_size=1"),
    *("clip_norm=1", "ema=0.95", "patience=9", "lr=0.001", "epochs=2", "val_every=1"),
]


def test_killed_with_everything_on(data_root, tmp_path):
    """Two loader workers; killed at a random moment of its second epoch."""
    paths = [tmp_path / "whole", tmp_path / "killed"]
    whole, killed = (launch(*start(data_root, path, 2, 99), *EVERYTHING) for path in paths)
    step = 12 + random.Random(3).randrange(8)
    wait_until(killed, lambda: logged(paths[1]) >= step)
    kill(killed)
    assert finish(whole)[0] == 0
    assert_nothing_broken(paths[1], RunFolder(paths[0]))
    resume_to_the_end(paths[1], 2)
    assert_same_end(*paths)


# Disks


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 12 MB, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def mount(*args: str | Path) -> None:
    """Mount, or skip the test where this is not permitted."""
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    done = subprocess.run(["mount", *args], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves this many bytes free on the disk."""
    stat = os.statvfs(disk)
    path = disk / "something else"
    with path.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - leave))
    return path


def test_a_disk_that_is_full_at_any_byte_of_a_checkpoint(disk):
    from tests.test_checkpoint import params

    def save(step: int) -> Path:
        return run.save(TrainState(step), params(step, 9000), params(-step, 5000), keep=9)

    run = RunFolder(disk / "run")
    size = sum(f.stat().st_size for f in save(1).iterdir())
    before, failures = arrays(run.folder()), 0
    for leave in range(0, size + 5 * 4096, 4096):
        run._clear_partial()  # what the last time left
        filler = fill(disk, leave)
        with suppress(OSError, CheckpointError):
            save(2)
        failures += run.steps() == [1]
        filler.unlink()
        np.testing.assert_equal(arrays(run.folder(1)), before)
    assert failures > size // 4096
    assert run.steps() == [1, 2], "it never fitted"
    assert arrays(run.folder(2))["model:arg:a_weight"].tolist() == [2] * 9000
    save(3)
    assert not list(run.checkpoints.glob(".*"))


def test_a_disk_that_fills_up_while_it_trains(data_root, disk, whole):
    """But for the place of half a checkpoint."""
    run = disk / "run"
    process = launch(*start(data_root, run))
    wait_until(process, lambda: len(RunFolder(run).steps()) >= 1)
    size = sum(file.stat().st_size for file in whole.folder().iterdir())
    filler = fill(disk, size // 2)
    saved = RunFolder(run).steps()[-1]
    code, _, err = finish(process)
    assert code == 1
    assert "error: " in err
    assert "No space left on device" in err or "cannot be written" in err
    assert "Traceback" not in err
    assert_nothing_broken(run, whole, at_least=saved)
    filler.unlink()
    resume_to_the_end(run)
    assert_same_end(run, whole.path)


def test_files_that_may_not_grow(data_root, tmp_path, whole):
    """Like a quota; it also works where mounting is not permitted."""
    out = tmp_path / "run"
    limited = f"""
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        script, *sys.argv[1:] = sys.argv[1:]
        sys.path[:0] = [{str(REPO / "tools")!r}]
        runpy.run_path(script, run_name="__main__")
    """
    script = ("-c", textwrap.dedent(limited), str(TRAIN))
    code, _, err = finish(launch(*start(data_root, out), script=script))
    assert code == 1
    assert "model.params: cannot be written" in err
    assert "Traceback" not in err
    assert assert_nothing_broken(out, whole) == 0


def read_only(disk: Path) -> None:
    """Make the disk read-only from now on; waits until no file is open for writing."""
    for _ in range(2000):
        done = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(0.002)
    raise AssertionError(done.stderr)


def test_an_output_folder_that_is_read_only(data_root, disk):
    read_only(disk)
    code, _, err = finish(launch(*start(data_root, disk / "run")))
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert "Read-only file system" in err
    assert str(disk / "run") in err
    assert "Traceback" not in err
    assert list(disk.iterdir()) == []


def test_a_disk_that_becomes_read_only_while_it_trains(data_root, disk, whole):
    """Like Linux does when the disk has errors."""
    run = disk / "run"
    process = launch(*start(data_root, run))
    wait_until(process, lambda: len(RunFolder(run).steps()) >= 2)
    read_only(disk)
    saved = RunFolder(run).steps()[-1]
    code, _, err = finish(process)
    assert code == 1
    assert "Read-only file system" in err or "cannot be written" in err
    assert "Traceback" not in err
    assert_nothing_broken(run, whole, at_least=saved)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    resume_to_the_end(run)
    assert_same_end(run, whole.path)


# Clocks

#: runs a script with a clock that jumps by up to thirty days, in both directions, at every look
JUMPING = f"""
    import random, runpy, sys, time
    real, rng = time.time, random.Random(3)
    time.time = lambda: real() + rng.uniform(-2.6e6, 2.6e6)
    time.time_ns = lambda: int(time.time() * 1e9)
    script, *sys.argv[1:] = sys.argv[1:]
    sys.path[:0] = [{str(REPO / "tools")!r}]
    runpy.run_path(script, run_name="__main__")
    assert time.time.__name__ == "<lambda>"
"""


def test_a_clock_that_jumps(data_root, tmp_path, whole):
    run = tmp_path / "run"
    script = ("-c", textwrap.dedent(JUMPING), str(TRAIN))
    process = launch(*start(data_root, run, workers=1), script=script)
    wait_until(process, lambda: len(RunFolder(run).steps()) >= 2)
    kill(process)
    saved = assert_nothing_broken(run, whole)
    newest = time.time() + 1e6
    for age, path in enumerate(sorted(run.rglob("*"), reverse=True)):  # the last looks the oldest
        os.utime(path, (age * 1e4, age * 1e4) if path.is_file() else (newest, newest - age))
    code, out, err = finish(launch("--resume", run, "--num-workers", "0", script=script))
    assert code == 0, err
    assert f"resuming at step {saved} of" in out
    assert_same_end(run, whole.path)
    rows = [row for row in RunFolder(run).read_log() if row["kind"] == "train"]
    assert all(0 < row["images_per_second"] < 1e4 for row in rows)
    assert all(0 <= row["waiting"] <= 1 for row in rows)


# Workers


def workers_of(pid: int) -> list[int]:
    """The loader workers of a trainer, without the helper processes of multiprocessing."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = {int(c): Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
    return [child for child, line in lines.items() if b"spawn_main" in line]


def test_a_worker_is_killed(data_root, tmp_path, whole):
    """By a signal, as by the kernel when memory runs out."""
    run = tmp_path / "run"
    process = launch(*start(data_root, run, workers=2))
    wait_until(process, lambda: len(RunFolder(run).steps()) >= 1)
    os.kill(random.Random(1).choice(workers_of(process.pid)), signal.SIGKILL)
    assert_ends_for_a_worker(process, run, whole)


def assert_ends_for_a_worker(process: subprocess.Popen, run: Path, whole: RunFolder) -> None:
    """A killed loader worker is reported, and the resumed run ends as if nothing had happened."""
    code, _, err = finish(process)
    assert code == 1
    assert "a loader worker died (exit code -9): killed, or out of memory?" in err
    assert "--resume continues from the last checkpoint" in err
    assert "Traceback" not in err
    assert_nothing_broken(run, whole, at_least=3)
    resume_to_the_end(run)
    assert_same_end(run, whole.path)


# Memory that runs out


#: of Linux's control groups, version 1 and 2: where they are, the limit, the counts of kills
MEMORY_GROUPS = [
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.events"),
]


class MemoryGroup(NamedTuple):
    """A control group of this test's own, with a limit of memory that the kernel enforces."""

    path: Path
    limit: str
    counts: str

    def let_run_out(self, pid: int) -> None:
        """Make the kernel kill the process when it needs more pages."""
        (self.path / self.limit).write_text("4096")
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many processes of the group the kernel killed for memory."""
        lines = (self.path / self.counts).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


@pytest.fixture
def memory_group() -> Iterator[MemoryGroup]:
    """Skip if such groups cannot be created: they need root, and a writable /sys/fs/cgroup."""
    root, limit, counts = next(
        (known for known in MEMORY_GROUPS if known[0].is_dir()), MEMORY_GROUPS[-1]
    )
    group = MemoryGroup(root / f"mxrcnn-test-{os.getpid()}", limit, counts)
    try:
        group.path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        if not (group.path / limit).exists():
            pytest.skip(f"the control groups in {root} have no limit of memory")
        yield group
    finally:
        group.path.rmdir()


def test_the_kernel_kills_a_worker_out_of_memory(data_root, tmp_path, whole, memory_group):
    run = tmp_path / "run"
    process = launch(*start(data_root, run, workers=2))
    wait_until(process, lambda: len(RunFolder(run).steps()) >= 1)
    memory_group.let_run_out(random.Random(1).choice(workers_of(process.pid)))
    assert_ends_for_a_worker(process, run, whole)
    assert memory_group.kills() == 1


def test_the_kernel_kills_the_trainer_out_of_memory(data_root, tmp_path, whole, memory_group):
    run = tmp_path / "run"
    process = launch(*start(data_root, run, workers=1))
    wait_until(process, lambda: len(RunFolder(run).steps()) >= 1)
    memory_group.let_run_out(process.pid)
    assert finish(process)[0] == -signal.SIGKILL
    assert memory_group.kills() == 1
    assert_nothing_broken(run, whole, at_least=3)
    resume_to_the_end(run)
    assert_same_end(run, whole.path)


def test_the_log_of_a_fault_is_json(whole):
    """What `same_rows` compares is there."""
    rows = whole.read_log()
    assert len(rows) > 36
    assert {"kind", "step", "lr"} <= rows[0].keys()
    assert json.loads((whole.path / "best.json").read_text())["step"] in whole.steps()
