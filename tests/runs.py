"""Training runs in their own processes: starting, watching, killing and comparing them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.runs.checkpoint import RunFolder, load_arrays
from mxrcnn.training.trainer import Trainer
from tests.conftest import REPO
from tests.factories import TINY

TRAIN = REPO / "tools" / "train.py"
EPOCHS, EPOCH_STEPS = 5, 12
#: these processes spend most of their time starting, however small the network
SMALLER = {
    "model.width": 0.0625,
    "model.box_head_dim": 16,
    "data.short_side": 64,
    "data.long_side": 96,
}


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint: parameters, momentum, and with train.ema raw parameters."""
    return {
        f"{path.stem}:{name}": value.asnumpy()
        for path in sorted(folder.glob("*.params"))
        for name, value in load_arrays(path).items()
    }


def assert_same_end(run: Path, other: Path) -> None:
    """Assert that both runs have the same last checkpoint, to the bit, and the same validations."""
    run, other = RunFolder(run), RunFolder(other)
    assert run.steps()[-1] == other.steps()[-1]
    ours, theirs = arrays(run.folder()), arrays(other.folder())
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different
    assert run.load_state()[0] == other.load_state()[0]
    assert run.best() == other.best()
    validations = [[r for r in f.read_log() if r["kind"] == "val"] for f in (run, other)]
    assert validations[0] == validations[1]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Send the process a signal after this many steps."""
    advance = Trainer.advance

    def advance_and_stop(trainer: Trainer) -> bool:
        ended = advance(trainer)
        if trainer.state.step == step:
            os.kill(os.getpid(), signum)
        return ended

    monkeypatch.setattr(Trainer, "advance", advance_and_stop)


def launch(*args: str | Path, script: tuple[str, ...] = (str(TRAIN),)) -> subprocess.Popen:
    """Start tools/train.py in its own process group."""
    return subprocess.Popen(
        [sys.executable, *script, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def new_run(data_root: Path, out: Path, workers: int = 0) -> list[str | Path]:
    words = [
        f"{key}={value}" for key, value in {**TINY, **SMALLER}.items() if key != "train.epochs"
    ]
    words = [word.replace("(", "").replace(")", "") for word in words]
    return [
        *("--network", "faster_rcnn_vgg16", "--dataset", "voc", "--data-root", data_root),
        *("--imageset", "2007_train"),
        *("--val-imageset", "2007_test", "--val-every", "2", "--num-workers", workers),
        *("--out", out, "--batch-size", 2, "--epochs", EPOCHS, "--lr", 0.01),
        *("--checkpoint-steps", 3, "--log-interval", 1, "--set", *words),
    ]


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def logged(run: Path) -> int:
    """The last step in the log."""
    return max((row["step"] for row in RunFolder(run).read_log()), default=0)


def wait_until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, finish(process)[2]
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.001)


def kill(process: subprocess.Popen) -> None:
    """kill -9 only the trainer; its workers must end by themselves."""
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.communicate(timeout=60)  # returns once no worker holds the other end of the pipes


def resume_to_the_end(run: Path, workers: int = 0) -> None:
    code, _, err = finish(launch("--resume", run, "--num-workers", workers))
    assert code == 0, err
