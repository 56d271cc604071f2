"""Resuming: the resumed run ends with the same bits as one that was never stopped."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.config import ConfigError, load_json
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.inference.detector import Detector
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState
from mxrcnn.runs.lock import RunLock, RunLockedError
from mxrcnn.training.configure import TrainRequest
from mxrcnn.training.loop import train
from mxrcnn.training.run import prepare, run_training
from mxrcnn.training.same_data import Continuation, continue_with, remember_data
from mxrcnn.training.signals import StopRequest
from mxrcnn.training.trainer import Trainer
from symnet.machine import mx
from tests.factories import TINY
from tests.runs import (
    EPOCH_STEPS,
    EPOCHS,
    TRAIN,
    arrays,
    assert_same_end,
    finish,
    kill,
    launch,
    logged,
    new_run,
    resume_to_the_end,
    stop_at,
    wait_until,
)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 12, 3, (96, 128))


# In this process

EVERYTHING = {
    "data__augment": ("strong", "short_sides:64/96/128"),
    "train__optimizer": "adamw",
    "train__schedule": "cosine",
    "train__warmup_steps": 9,
    "train__accumulate": 2,
    "train__batch_size": 1,
    "train__clip_norm": 1.0,
    "train__ema": 0.95,
}


@pytest.fixture
def begin(data_root, tmp_path):
    """Starts a run in tmp_path/NAME; settings are named `train__lr=1`."""

    def start(name: str, **settings) -> Trainer:
        named = {key.replace("__", "."): value for key, value in settings.items()}
        data = {"data.dataset": "voc", "data.root": str(data_root), "data.imageset": "2007_train"}
        settings = {**TINY, **data, "train.batch_size": 2, **named}
        return prepare(TrainRequest(settings=settings, out=str(tmp_path / name)))

    return start


def resume(run: Path, **settings) -> Trainer:
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return prepare(TrainRequest(resume=str(run), settings=named))


@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        (2, {"train__fixed": ("conv1", "conv2"), "train__warmup_steps": 8}),
        (12, {"train__lr_decay_epoch": (1,)}),
        (14, {"train__momentum": 0.0, "train__lr_decay_epoch": (1,)}),
        pytest.param(14, EVERYTHING, marks=pytest.mark.alone),  # with several threads
    ],
    ids=["warm-up and fixed", "at an epoch's end", "after the decay, no momentum", "everything"],
)
def test_stopped_and_resumed_equals_never_stopped(begin, tmp_path, monkeypatch, stop, settings):
    settings = {"train__epochs": 2, "train__lr": 0.01, **settings}
    train(begin("whole", **settings), 0)
    trainer = begin("stopped", **settings)
    with monkeypatch.context() as patched:
        stop_at(patched, stop)
        assert train(trainer, 0).stopped_by == signal.SIGTERM
    assert trainer.run.steps()[-1] == stop
    resumed = resume(trainer.run.path)
    assert resumed.state == TrainState(stop, stop // EPOCH_STEPS, stop % EPOCH_STEPS)
    train(resumed, 0)
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_stopped_before_the_first_step(begin, tmp_path, monkeypatch):
    train(begin("whole"), 0)
    trainer = begin("stopped")
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "owes_validation", lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert train(trainer, 0).stopped_by == signal.SIGINT
    assert trainer.run.steps() == [0]
    train(resume(trainer.run.path), 0)
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_patience_ends_a_run_and_counts_on_when_resumed(begin, monkeypatch, capsys):
    """Values 3 2 4 4 1: with patience 2 the third epoch is the best and the fifth the last."""
    values = dict(zip(range(1, 9), (0.3, 0.2, 0.4, 0.4, 0.1, 0.9, 0.9, 0.9)))

    def validate(trainer: Trainer, num_workers: int = 0):
        value = values[trainer.state.epoch]
        trainer.run.note_best(trainer.state.step, "voc07 mAP", value)
        row = {"epoch": trainer.state.epoch, "metric": "voc07", "step": trainer.state.step}
        trainer.run.append_log({"kind": "val", **row})
        return row, f"{value}"

    monkeypatch.setattr(Trainer, "validate", validate)
    steps = EPOCH_STEPS // 2
    small = {"data__flip": False, "data__short_side": 32, "data__long_side": 48}
    settings = {"train__epochs": 8, "data__val_imageset": "2007_test", **small}
    trainer = begin("run", train__patience=2, **settings)
    with monkeypatch.context() as patched:
        stop_at(patched, 4 * steps + 1)  # one validation without a better one is done
        train(trainer, 0)
    assert train(resume(trainer.run.path), 0).step == 5 * steps
    told = "ends early: 2 validations without one better than voc07 mAP 0.4000 at step 18"
    assert told in capsys.readouterr().out
    assert train(resume(trainer.run.path), 0).step == 5 * steps  # it is enough already
    assert train(resume(trainer.run.path, train__patience=3), 0).step == 8 * steps


def test_patience_needs_validations(begin):
    with pytest.raises(ConfigError, match=r"train\.patience=2: needs images to validate on"):
        begin("run", train__patience=2)


def test_a_checkpoint_without_the_weights_behind_its_averages(begin):
    trainer = begin("run", train__ema=0.9)
    trainer.save()
    path = trainer.run.folder() / "raw.params"
    raw = mx.nd.load(str(path))
    assert set(raw) == set(trainer.network.averages())
    del raw["arg:fc6_bias"]
    mx.nd.save(str(path), raw)
    trainer.run.unlock()
    with pytest.raises(CheckpointError, match=r"raw\.params: without arg:fc6_bias"):
        resume(trainer.run.path)


def test_more_epochs_later_equal_more_epochs_at_once(begin, tmp_path, monkeypatch):
    decay = {"train__lr_decay_epoch": (1,)}  # by default, it would follow the number of epochs
    train(begin("whole", train__epochs=2, **decay), 0)
    trainer = begin("longer", train__epochs=1, **decay)
    train(trainer, 0)
    with monkeypatch.context() as patched:
        stop_at(patched, 14)
        train(resume(trainer.run.path, train__epochs=2), 0)
    assert load_json(trainer.run.path / "config.json").train.epochs == 2
    train(resume(trainer.run.path), 0)  # without saying again how many epochs
    assert_same_end(tmp_path / "longer", tmp_path / "whole")


def test_what_may_change_changes_no_bits_and_stays(begin, data_root, tmp_path, monkeypatch):
    train(begin("whole", train__epochs=2), 0)
    trainer = begin("changed", train__epochs=2)
    with monkeypatch.context() as patched:
        stop_at(patched, 7)
        train(trainer, 0)
    path = trainer.run.path
    moved = shutil.copytree(data_root, tmp_path / "moved")
    words = ("checkpoint_steps=5", f"data.root={moved}")
    resumed = prepare(
        TrainRequest(resume=str(path), settings={"train.log_interval": 7}, words=words)
    )
    train(resumed, 0)
    kept = load_json(path / "config.json")
    assert (kept.train.checkpoint_steps, kept.train.log_interval) == (5, 7)
    assert kept.data.root == str(moved)
    assert [row["step"] for row in resumed.run.read_log()] == [14, 21, 24]
    assert resumed.run.steps()[-2:] == [20, 24]
    assert_same_end(path, tmp_path / "whole")


def test_a_run_without_a_checkpoint_starts_again(begin, tmp_path, capsys):
    train(begin("whole"), 0)
    trainer = begin("broken off")
    trainer.run.append_log({"kind": "train", "step": 3})
    trainer.run.unlock()
    resumed = resume(trainer.run.path)
    assert "no checkpoint yet: starting from the first step" in capsys.readouterr().out
    assert trainer.run.read_log() == []
    train(resumed, 0)
    assert_same_end(tmp_path / "broken off", tmp_path / "whole")


def test_a_finished_run_stays_as_it_is(begin):
    trainer = begin("done", data__val_imageset="2007_test")
    train(trainer, 0)
    before = arrays(trainer.run.folder()), trainer.run.read_log(), trainer.run.steps()
    resumed = resume(trainer.run.path)
    resumed.run.unlock()
    assert run_training(TrainRequest(resume=str(trainer.run.path), num_workers=0)) == 0
    after = arrays(trainer.run.folder()), resumed.run.read_log(), resumed.run.steps()
    assert before[1:] == after[1:]
    np.testing.assert_equal(before[0], after[0])


def test_the_log_goes_on_where_the_checkpoint_was(begin, monkeypatch):
    settings = {"train__log_interval": 1, "train__checkpoint_steps": 5, "train__tensorboard": True}
    trainer = begin("run", train__epochs=2, **settings)
    save = Trainer.save

    def save_until_10(trainer: Trainer) -> None:
        if trainer.state.step == 10:
            raise OSError("disk full")
        save(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save", save_until_10)
        with pytest.raises(OSError, match="disk full"):
            train(trainer, 0)
    assert (trainer.run.steps()[-1], trainer.run.read_log()[-1]["step"]) == (5, 10)
    train(resume(trainer.run.path), 0)
    assert [row["step"] for row in trainer.run.read_log()] == list(range(1, 25))
    assert shown_by_tensorboard(trainer.run.path, "RPNLogLoss") == list(range(1, 25))


def shown_by_tensorboard(run: Path, name: str) -> list[int]:
    """The steps of a curve: a file's START drops what was read of its step and later ones."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    steps: list[int] = []
    for path in sorted((run / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # records: length, its checksum, the event, its checksum
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:
                steps = [step for step in steps if step < event.step]
            steps += [event.step for value in event.summary.value if value.tag == name]
    return steps


@pytest.mark.parametrize(
    ("request_with", "named"),
    [
        ({"settings": {"train.lr": 1.0}}, "train.lr"),
        ({"settings": {"train.seed": 1, "data.root": "x"}}, "train.seed"),
        ({"words": ["width=0.5", "batch_size=4"]}, "model.width, train.batch_size"),
        ({"preset": "quick"}, "--preset"),
        ({"out": "elsewhere"}, "--out"),
        ({"network": "faster_rcnn_vgg16"}, "--network"),
    ],
)
def test_other_settings_are_refused(begin, request_with, named):
    run = begin("run").run
    with pytest.raises(ConfigError, match=rf"may change, not {re.escape(named)}$"):
        prepare(TrainRequest(resume=str(run.path), **request_with))


@pytest.mark.parametrize("epochs", [{"settings": {"train.epochs": 3}}, {"words": ["epochs=3"]}])
def test_epochs_may_change(begin, epochs):
    run = begin("run").run
    run.unlock()
    assert prepare(TrainRequest(resume=str(run.path), **epochs)).total == 3 * EPOCH_STEPS


def test_another_metric_from_now_on_is_told_and_kept(begin, capsys):
    run = begin("run", data__val_imageset="2007_test").run
    run.note_best(7, "voc07 mAP", 0.75)
    run.unlock()
    resume(run.path).run.unlock()
    assert "validation by voc07, VOC07 mAP, decides" in capsys.readouterr().out
    trainer = resume(run.path, train__val_metric="coco")
    told = capsys.readouterr().out
    assert "validation by coco, COCO's AP@[.50:.95], decides" in told
    assert "the best so far (voc07 mAP 0.7500 at step 7) is another metric" in told
    assert trainer.validation.metric.name == "coco"
    trainer.run.unlock()
    run.note_best(8, "coco AP", 0.5, trainer.validation.data)
    resume(run.path).run.unlock()
    assert "takes its place" not in capsys.readouterr().out
    run.note_best(9, "coco AP", 0.6, "0123")
    resume(run.path).run.unlock()
    assert "coco AP 0.6000 at step 9) is of other images" in capsys.readouterr().out
    assert run.config().train.val_metric == "coco"


def test_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run folder"):
        resume(tmp_path)


def test_a_checkpoint_that_lacks_a_parameter(begin):
    trainer = begin("run")
    trainer.save()
    path = trainer.run.folder() / "model.params"
    params = mx.nd.load(str(path))
    del params["arg:fc6_bias"]
    mx.nd.save(str(path), params)
    trainer.run.unlock()
    with pytest.raises(CheckpointError, match=r"step-00000000/model\.params: without fc6_bias"):
        resume(trainer.run.path)


def test_a_validation_that_was_missed_is_made_up_for(begin, tmp_path, monkeypatch):
    settings = {"data__val_imageset": "2007_test", "train__epochs": 2}
    train(begin("whole", **settings), 0)
    trainer = begin("killed", **settings)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "validate", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            train(trainer, 0)
    train(resume(trainer.run.path), 0)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_the_first_signal_is_noted_and_a_second_ctrl_c_interrupts():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert stop.signum is None
        for signum in (signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), signum)
            assert stop.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_hang_up_stops_unless_it_is_ignored():
    for ignored in (False, True):
        handler = signal.SIG_IGN if ignored else signal.SIG_DFL
        before = signal.signal(signal.SIGHUP, handler)
        try:
            with StopRequest() as stop:
                if not ignored:
                    assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum == (None if ignored else signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == handler
        finally:
            signal.signal(signal.SIGHUP, before)


# Other data


def voc_without(data_root: Path, folder: Path, missing: int) -> Path:
    """A copy of the data without the last images of its list."""
    shutil.copytree(data_root, folder)
    names = folder / "VOC2007" / "ImageSets" / "Main" / "train.txt"
    names.write_text("\n".join(names.read_text().split()[:-missing]) + "\n")
    return folder


def test_other_data_are_refused_or_accepted_from_the_next_epoch_on(
    begin, data_root, tmp_path, monkeypatch, capsys
):
    """12 steps per epoch become 6: epochs 2 and 3, and the decay, follow the new data."""
    trainer = begin("run", train__epochs=4, train__lr_decay_epoch=(3,), train__log_interval=1)
    path = trainer.run.path
    with monkeypatch.context() as patched:
        stop_at(patched, 14)
        train(trainer, 0)
    root = voc_without(data_root, tmp_path / "fewer", 6)
    last = sorted((data_root / "VOC2007" / "Annotations").iterdir())[11].stem
    changed = TrainRequest(resume=str(path), settings={"data.root": str(root)}, data_changed=True)
    with pytest.raises(
        CheckpointError, match=f"6 images removed: .*{last}.*--data-changed"
    ) as told:
        prepare(dataclasses.replace(changed, data_changed=False))
    assert str(path / "checkpoints" / "step-00000014") in str(told.value)
    assert load_json(path / "config.json").data.root == str(
        data_root
    )  # what failed changes nothing

    first = prepare(changed)
    assert (first.state, first.total) == (TrainState(14, 2, 0), 26)
    assert "the rest of epoch 1 is skipped\nepoch 2 starts with the" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        stop_at(patched, 17)
        train(first, 0)
    second = resume(path)
    assert (second.state, second.total) == (TrainState(17, 2, 3), 26)
    assert train(second, 0).step == 26
    assert second.state == TrainState(26, 4, 0)
    rows = [row for row in second.run.read_log() if row["step"] > 14]
    assert [row["epoch"] for row in rows[:3]] == [2.1667, 2.3333, 2.5]
    assert rows[-1]["epoch"] == 4
    rates = [row["lr"] for row in rows]
    assert rates == pytest.approx([rates[0]] * 6 + [rates[0] / 10] * 6)
    assert len(list((path / "data").iterdir())) == 2


IDENTITY = DataIdentity(("dog",), ("a", "b", "c"), ("1", "2", "3"))
OTHERS = {
    "added": (
        dict(image_ids=("a", "b", "c", "d"), hashes=("1", "2", "3", "4")),
        "1 image added: d",
    ),
    "removed": (dict(image_ids=("a", "c"), hashes=("1", "3")), "1 image removed: b"),
    "changed": (dict(hashes=("1", "9", "3")), "1 image changed .*: b"),
    "order": (dict(image_ids=("b", "a", "c"), hashes=("2", "1", "3")), "in another order"),
    "classes": (dict(class_names=("cat",)), "1 class added: cat"),
}


@pytest.fixture
def saved(tmp_path) -> RunFolder:
    """A run folder with a checkpoint of IDENTITY at batch 2 of epoch 1, with 3 steps per epoch."""
    run = RunFolder(tmp_path / "run")
    remember_data(run, IDENTITY)
    run.save(TrainState(5, 1, 2, IDENTITY.hash), {"arg:a": mx.nd.ones(1)}, {}, 1)
    return run


@pytest.mark.parametrize(("fields", "message"), OTHERS.values(), ids=OTHERS)
def test_what_differs_is_told(saved, fields, message):
    state, now = saved.load_state()[0], dataclasses.replace(IDENTITY, **fields)
    with pytest.raises(CheckpointError, match=f"step-00000005 was trained on other .*{message}"):
        continue_with(saved, state, now, 3, False)
    found = continue_with(saved, state, now, 3, True)
    assert found.state == TrainState(5, 2, 0)
    assert re.search(message, found.notes[0])
    assert continue_with(saved, dataclasses.replace(state, step=6, epoch=2, batch=0), now, 3, True)
    (saved.path / "data" / f"{IDENTITY.hash}.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"what differs is unknown, as .*json cannot be"):
        continue_with(saved, state, now, 3, False)


def test_the_same_data_go_on(saved):
    state = saved.load_state()[0]
    assert continue_with(saved, state, IDENTITY, 3, False) == Continuation(state)
    assert "are the same" in continue_with(saved, state, IDENTITY, 3, True).notes[0]
    with pytest.raises(CheckpointError, match=r"state\.json: batch 2, and an epoch has 2"):
        continue_with(saved, state, IDENTITY, 2, False)


def test_older_checkpoints_do_not_say_what_data_they_are_of(saved):
    path = saved.folder() / "state.json"
    path.write_text('{"step": 5, "epoch": 1, "batch": 2}')
    state = saved.load_state()[0]
    (line,) = continue_with(saved, state, IDENTITY, 3, False).notes
    assert line.startswith(f"{saved.folder()} does not record which data it was trained on")
    for steps in (2, 4):  # fewer than the position, and others than the steps done
        with pytest.raises(CheckpointError, match=f"step 5 was batch 2 of epoch 1, .*make {steps}"):
            continue_with(saved, state, IDENTITY, steps, False)
    assert continue_with(saved, state, IDENTITY, 2, True).state == TrainState(5, 2, 0)
    path.write_text('{"step": 5, "epoch": 1, "batch": 2, "data": "../x"}')
    with pytest.raises(CheckpointError, match=r"state\.json: data is \.\./x, not a hash"):
        saved.load_state()


def test_a_new_checkpoint_says_what_data_it_is_of(begin):
    trainer = begin("run")
    trainer.save()
    folder = trainer.run.folder()
    assert json.loads((folder / "state.json").read_text())["data"] == trainer.identity.hash
    stored = json.loads((trainer.run.path / "data" / f"{trainer.identity.hash}.json").read_text())
    assert DataIdentity.from_json(stored) == trainer.identity
    with pytest.raises(ConfigError, match="--data-changed goes with --resume"):
        prepare(TrainRequest(data_changed=True))


# One at a time


def test_a_second_training_is_refused_and_told_by_which(begin, data_root):
    trainer = begin("run")
    trainer.save()
    path, holder = trainer.run.path, f"process {os.getpid()} on {socket.gethostname()}, since 2"
    with pytest.raises(RunLockedError, match=f"{re.escape(str(path))}: {re.escape(holder)}"):
        begin("run")
    with pytest.raises(RunLockedError, match=re.escape(holder)):
        resume(path)
    assert len(Detector.load(path).predict(np.zeros((80, 100, 3), np.uint8)).boxes) >= 0
    trainer.run.lock()  # it has it
    assert train(trainer, 0).step == EPOCH_STEPS
    resume(path, train__epochs=2).run.unlock()
    with pytest.raises(CheckpointError, match="holds a run already"):
        begin("run")
    resume(path).run.unlock()  # what failed holds no lock


def test_a_file_system_without_locks_is_told_once(begin, monkeypatch, capsys):
    def no_locks(*_) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("mxrcnn.runs.lock.fcntl.flock", no_locks)
    assert train(begin("run"), 0).step == EPOCH_STEPS
    assert capsys.readouterr().out.count("its file system has no locks (Operation not") == 1


def test_a_child_does_not_keep_the_lock(tmp_path):
    """A forked child, or a program that it started, may outlive its killed parent."""
    script = """
        import os, pathlib, signal, subprocess, sys, time
        from mxrcnn.runs.lock import RunLock
        lock = RunLock(pathlib.Path(sys.argv[1]))
        started = subprocess.Popen(["sleep", "60"], close_fds=False)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, b"forked")  # its fork handlers have run
            time.sleep(60)
        os.read(reading, 1)
        print(started.pid, child, flush=True)
        time.sleep(60)
    """
    process = launch(tmp_path / "run", script=("-c", textwrap.dedent(script)))
    children = [int(pid) for pid in process.stdout.readline().split()]
    try:
        with pytest.raises(RunLockedError, match=f"process {process.pid} on"):
            RunLock(tmp_path / "run")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        RunLock(tmp_path / "run").release()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        process.communicate()


# As people run it


@pytest.fixture(scope="module")
def whole(data_root, tmp_path_factory):
    """A run that is never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = finish(launch(*new_run(data_root, out)))
    assert code == 0, err
    assert RunFolder(out).steps()[-1] == EPOCHS * EPOCH_STEPS
    return out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(data_root, tmp_path, signum):
    """Sent to the whole process group, as a terminal and many job schedulers do."""
    run = tmp_path / "run"
    process = launch(*new_run(data_root, run, workers=1))
    wait_until(process, lambda: logged(run) >= 4)
    os.killpg(process.pid, signum)
    code, out, err = finish(process)
    assert code == 128 + signum, err
    assert "Traceback" not in err
    step = RunFolder(run).steps()[-1]
    assert 4 <= step < EPOCHS * EPOCH_STEPS
    assert f"stopped at step {step}; go on: python tools/train.py --resume {run}" in out
    assert logged(run) <= step


def test_a_closed_terminal_writes_a_checkpoint(data_root, tmp_path):
    """Its processes get SIGHUP, and printing fails from then on."""
    run = tmp_path / "run"
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)

    def attach() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest itself may run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *map(str, new_run(data_root, run, workers=1))],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=attach,
    )
    os.close(theirs)

    def has_begun() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 1 << 16)  # a full terminal would make it wait
        return logged(run) >= 4

    wait_until(process, has_begun)
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert 4 <= RunFolder(run).steps()[-1] < EPOCHS * EPOCH_STEPS
    assert logged(run) <= RunFolder(run).steps()[-1]


def test_killed_once_and_resumed_at_once(data_root, tmp_path, whole):
    """Its loader workers may still be shutting down, and do not keep the lock."""
    run = tmp_path / "run"
    process = launch(*new_run(data_root, run, workers=1))
    wait_until(process, lambda: logged(run) >= 17)
    with pytest.raises(RunLockedError, match=f"process {process.pid} on"):
        resume(run)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert RunFolder(run).steps()[-1] >= 15, "at most the steps since the last checkpoint are lost"
    resume_to_the_end(run)
    process.communicate(timeout=60)  # ends when no worker holds the other end of the pipes
    assert_same_end(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again(data_root, tmp_path, whole, workers):
    rng = random.Random(workers)
    run = tmp_path / "run"
    process = launch(*new_run(data_root, run, workers))
    wait_until(process, (run / "config.json").exists)
    kill(process)  # before any checkpoint
    for _ in range(6):
        process = launch("--resume", run, "--num-workers", workers)
        goal = (RunFolder(run).steps() or [0])[-1] + rng.randint(4, 8)
        wait_until(process, lambda goal=goal: logged(run) >= goal)
        time.sleep(rng.uniform(0, 0.05))
        kill(process)
    process = launch("--resume", run, "--num-workers", workers)
    wait_until(process, lambda: logged(run) >= 45)
    os.killpg(process.pid, signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGTERM
    resume_to_the_end(run, workers)
    assert_same_end(run, whole)


@pytest.mark.slow
def test_killed_when_a_checkpoint_is_being_written(data_root, tmp_path, whole):
    run = tmp_path / "run"
    process = launch(*new_run(data_root, run))
    wait_until(process, lambda: any(run.glob("checkpoints/.step-*.partial")))
    kill(process)
    resume_to_the_end(run)
    assert_same_end(run, whole)
    assert not list(run.glob("checkpoints/.*"))


#: runs tools/train.py, which kills itself when a function is called for the n-th time
KILLER = """
    import os, runpy, signal, sys
    script, where, count, *sys.argv[1:] = sys.argv[1:]
    sys.path[:0] = [os.path.dirname(script), os.path.dirname(os.path.dirname(script))]
    from mxrcnn.runs import checkpoint
    from mxrcnn.training import curves, trainer
    *way, name = where.split(".")
    owner = {"checkpoint": checkpoint, "curves": curves, "trainer": trainer}[way[0]]
    for part in way[1:]:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, counted)
    runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "count", "steps"),
    [
        ("checkpoint.save_arrays", 1, []),
        ("checkpoint.save_arrays", 6, [3, 6]),
        ("checkpoint.os.rename", 2, [3]),
        ("checkpoint._sync", 5, [3]),
        ("checkpoint.shutil.rmtree", 1, [6, 9]),
        ("checkpoint.RunFolder.append_log", 13, [9, 12]),
        ("trainer.Trainer.validate", 1, [21, 24]),
        ("trainer.RunFolder.note_best", 2, [45, 48]),
        ("curves.viz.plot_losses", 1, [57, 60]),
    ],
)
def test_killed_at_a_chosen_place(data_root, tmp_path, whole, where, count, steps):
    run = tmp_path / "run"
    killer = ("-c", textwrap.dedent(KILLER), str(TRAIN), where, str(count))
    process = launch(*new_run(data_root, run), script=killer)
    assert process.wait(120) == -signal.SIGKILL, finish(process)[2]
    process.communicate(timeout=60)
    assert RunFolder(run).steps()[-2:] == steps
    for step in steps:
        assert arrays(RunFolder(run).folder(step))
    resume_to_the_end(run)
    assert_same_end(run, whole)
