"""Several devices, and several processes, train like one with the same batches."""

import dataclasses
import itertools
import math
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.config import Config, ConfigError, TrainConfig, make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.loader import default_workers
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.runs.checkpoint import RunFolder, load_arrays
from mxrcnn.training import loop, network
from mxrcnn.training.configure import TrainRequest, build_config, with_classes
from mxrcnn.training.launch import free_port
from mxrcnn.training.network import step_seed
from mxrcnn.training.run import prepare
from mxrcnn.training.schedule import make_schedule
from mxrcnn.training.trainer import Trainer
from symnet import get_detector
from symnet.machine import engine, mx
from tests.conftest import REPO
from tests.factories import TINY, make_dataset, make_record, tiny_config

LAUNCH = REPO / "tools" / "launch.py"
STEPS = 20
SMALL_PYRAMID = {
    "model.norm": "group",
    "model.trainable_layers": 5,
    "model.fpn_channels": 16,
    "data.short_side": 64,
    "data.long_side": 96,
    "data.resize": "antialias",
}
SMALL_RPN = {
    "model.body": "resnet18",
    "model.anchor_sizes": (8, 16, 32, 64, 128),
    "model.rpn_pre_nms_top_n_train": 100,
    "model.rpn_post_nms_top_n_train": 40,
    "model.rpn_batch_size_per_image": 64,
    "model.box_head_dim": 32,
    "model.box_batch_size_per_image": 16,
}
SMALL = {
    "faster_rcnn_vgg16": TINY,
    "mask_rcnn_r50_fpn": {
        **SMALL_PYRAMID,
        **SMALL_RPN,
        "model.mask_channels": 8,
        "model.mask_layers": 1,
    },
    "fcos_r50_fpn": {
        **SMALL_PYRAMID,
        "model.body": "resnet18",
        "model.head_layers": 1,
        "model.head_norm": "none",  # after it biases have no gradient but rounding errors
    },
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 12, 3, (96, 128))


@pytest.fixture
def no_dropout(monkeypatch):
    """Each device draws dropout separately."""

    def detector(name: str):
        known = get_detector(name)

        def train_symbol(config, images: int) -> mx.sym.Symbol:
            text = known.train_symbol(config, images).tojson(remove_amp_cast=False)
            return mx.sym.load_json(text.replace('"p": "0.5"', '"p": "0"'))

        return dataclasses.replace(known, train_symbol=train_symbol)

    monkeypatch.setattr(network, "get_detector", detector)


def small_config(network: str, data_root: Path, **train: object) -> Config:
    masks = network.startswith("mask")
    settings = {**SMALL[network], "data.root": str(data_root), "train.lr": 0.001}
    settings["data.dataset"] = "coco" if masks else "voc"
    settings["data.imageset"] = "train" if masks else "2007_train"
    settings.update({"train.warmup_steps": 0, "train.batch_size": 2, "train.clip_gradient": 5.0})
    settings.update({"train.epochs": 4, "data.std": (58.4, 57.1, 57.4)})
    settings.update({f"train.{key}": value for key, value in train.items()})
    config = override(make_config(network), settings)
    return with_classes(config, open_dataset(config.data, config.data.imageset))


def losses_of(config: Config, folder: Path, devices: list, steps: int) -> tuple[list[dict], dict]:
    """The metrics of each of the first steps, and the parameters after them."""
    dataset = open_dataset(config.data, config.data.imageset)
    trainer = Trainer(config, RunFolder(folder), dataset, None, devices)
    trainer.begin()
    seen = []
    with loop.training_loader(config, trainer.plan, 0) as loader:
        for step, batch in zip(range(steps), loader.batches(trainer.plan.stream(0, 0))):
            pairs = trainer.network.step(batch, step_seed(0, step))
            trainer.metrics.add(step, batch.image_ids, pairs)
            trainer.metrics.absorb(everything=True)
            seen.append(trainer.metrics.take())
    return seen, {name: value.asnumpy() for name, value in trainer.network.params().items()}


def differences(one: list[dict], other: list[dict]) -> dict[str, float]:
    """By loss: the largest difference in a step, as a fraction of the loss's size."""
    assert len(one) == len(other)
    names = [name for name in one[0] if name.endswith("Loss")]
    size = {name: max(math.fabs(row[name]) for row in one) for name in names}
    return {
        name: max(abs(a[name] - b[name]) for a, b in zip(one, other)) / size[name] for name in names
    }


@pytest.mark.alone
@pytest.mark.parametrize(
    ("network", "steps"),
    [("faster_rcnn_vgg16", STEPS), ("mask_rcnn_r50_fpn", 3), ("fcos_r50_fpn", 3)],
)
@pytest.mark.usefixtures("no_dropout")
def test_two_devices_train_as_one(network, steps, data_root, tmp_path):
    """Even if images have different numbers of samples, over which the losses are means."""
    config = small_config(network, data_root)
    one, params = losses_of(config, tmp_path / "one", [mx.cpu(0)], steps)
    two, others = losses_of(config, tmp_path / "two", [mx.cpu(0), mx.cpu(1)], steps)
    assert max(differences(one, two).values()) < 1e-5
    for name, value in params.items():
        scale = np.abs(value).max() + 1e-8
        np.testing.assert_allclose(others[name] / scale, value / scale, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("network", "steps"),
    [
        ("faster_rcnn_vgg16", 6),
        ("fcos_r50_fpn", 2),
        pytest.param("mask_rcnn_r50_fpn", 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("no_dropout")
def test_accumulated_passes_train_as_one(network, steps, data_root, tmp_path):
    """Four passes of one image and one of four: also on two devices, with two passes of two."""
    options = {"clip_norm": 0.5, "seed": 1}
    one = small_config(network, data_root, batch_size=4, **options)
    seen, params = losses_of(one, tmp_path / "one", [mx.cpu(0)], steps)
    devices = [mx.cpu(0)] if network != "fcos_r50_fpn" else [mx.cpu(0), mx.cpu(1)]
    share = {"batch_size": len(devices), "accumulate": 4 // len(devices)}
    four = small_config(network, data_root, **share, **options)
    others, parts = losses_of(four, tmp_path / "four", devices, steps)
    assert max(differences(seen, others).values()) < 1e-5
    for name, value in params.items():
        scale = np.abs(value).max() + 1e-8
        np.testing.assert_allclose(parts[name] / scale, value / scale, atol=1e-5, err_msg=name)


# Several processes

#: tools/train.py without dropout, which each worker draws for itself; it can send a signal at
#: some step, and let worker 1 have more words
DRIVER = """
    import dataclasses, os, runpy, sys
    script, *sys.argv[1:] = sys.argv[1:]
    sys.path[:0] = [os.path.dirname(script), os.path.dirname(os.path.dirname(script))]
    role, pids = os.environ["DMLC_ROLE"], os.environ.get("TEST_PIDS", "")
    if pids:
        with open(f"{pids}/{role}", "w") as handle:
            handle.write(str(os.getpid()))
    if os.environ.get("DMLC_WORKER_ID") == "1":
        sys.argv += os.environ.get("TEST_WORDS", "").split()
    if role == "worker":
        from symnet.machine import mx
        from mxrcnn.training import network, trainer
        from symnet import get_detector

        def without_dropout(name):
            known = get_detector(name)

            def train_symbol(*args):
                text = known.train_symbol(*args).tojson(remove_amp_cast=False)
                return mx.sym.load_json(text.replace('"p": "0.5"', '"p": "0"'))

            return dataclasses.replace(known, train_symbol=train_symbol)

        advance = trainer.Trainer.advance

        def advance_and_signal(self):
            ended = advance(self)
            if os.environ.get("TEST_SIGNAL") == f"{self.workers.rank} {self.state.step}":
                target = os.environ.get("TEST_TARGET")
                pid = int(open(f"{pids}/{target}").read()) if target else os.getpid()
                os.kill(pid, int(os.environ["TEST_SIGNUM"]))
            return ended

        network.get_detector = without_dropout
        trainer.Trainer.advance = advance_and_signal
    runpy.run_path(script, run_name="__main__")
"""


def launch(*train_args: object, flags: Sequence[str] = ("-n", "2"), **variables: str):
    """tools/launch.py with tools/train.py, finished: (exit code, output, errors)."""
    driver = [sys.executable, "-c", textwrap.dedent(DRIVER), str(REPO / "tools" / "train.py")]
    done = subprocess.run(
        [sys.executable, str(LAUNCH), *flags, "--", *driver, *map(str, train_args)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **variables},
    )
    return done.returncode, done.stdout, done.stderr


def new_run(config: Config, out: Path, workers: int = 2) -> list[object]:
    """Arguments of tools/train.py for this config, with a worker's share of the batch size."""
    words = [
        f"{section}.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for section in ("data", "model", "train")
        for name, value in vars(getattr(config, section)).items()
        if name not in ("class_names", "batch_size", "kvstore", "workers", "num_classes")
        and value != ""
        and not (name == "lr_decay_epoch" and config.train.schedule != "step")
    ]
    share = config.train.batch_size // workers
    return [
        *("--preset", "classic", "--num-workers", 0, "--out", out),
        *("--batch-size", share, "--set", *words),
    ]


@pytest.fixture(scope="module")
def config(data_root) -> Config:
    return small_config(
        "faster_rcnn_vgg16",
        data_root,
        checkpoint_steps=4,
        epochs=2,
        log_interval=1,
        lr_scaling="none",
        val_every=0,
    )


@pytest.fixture(scope="module")
def two_workers(config, tmp_path_factory) -> Path:
    """A run with two workers that is never stopped."""
    out = tmp_path_factory.mktemp("two") / "run"
    code, _, errors = launch(*new_run(config, out))
    assert code == 0, errors
    return out


@pytest.mark.alone
@pytest.mark.usefixtures("no_dropout")
def test_two_workers_with_half_the_batch_train_as_one(config, two_workers, tmp_path):
    one, _ = losses_of(config, tmp_path / "one", [mx.cpu()], STEPS)
    run = RunFolder(two_workers)
    rows = run.read_log()
    assert [row["step"] for row in rows] == list(range(1, 25))
    found = differences(one, rows[:STEPS])

    assert max(found.values()) < 1e-5
    assert rows[0]["lr"] == rows[-1]["lr"] == config.train.lr


@pytest.mark.slow
@pytest.mark.usefixtures("no_dropout")
def test_two_workers_with_everything_on(data_root, tmp_path):
    """They train as one process with four times the batch, and resume to the bit."""
    options = {"optimizer": "adamw", "schedule": "cosine", "clip_norm": 0.5, "ema": 0.9}
    options.update({"class_weights": ("circle:2",), "lr_scaling": "none", "epochs": 2})
    config = small_config("faster_rcnn_vgg16", data_root, batch_size=4, **options)
    one, _ = losses_of(config, tmp_path / "one", [mx.cpu()], 6)
    options.update({"accumulate": 2, "log_interval": 1, "patience": 1})
    config = small_config("faster_rcnn_vgg16", data_root, batch_size=2, **options)
    two, again = RunFolder(tmp_path / "two"), RunFolder(tmp_path / "again")
    words = ("data.val_imageset=2007_test",)
    code, _, errors = launch(*new_run(config, two.path), *words)
    assert code == 0, errors
    rows = [row for row in two.read_log() if row["kind"] == "train"]
    assert max(differences(one, rows[:6]).values()) < 1e-5
    assert {"grad_norm", "clipped"} <= rows[0].keys()
    stop = {"TEST_SIGNAL": "1 4", "TEST_SIGNUM": "15"}
    code, _, errors = launch(*new_run(config, again.path), *words, **stop)
    assert code == 143, errors
    code, _, errors = launch("--resume", again.path, "--num-workers", 0)
    assert code == 0, errors
    assert_same_end(again.path, two.path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_dropout")
def test_four_workers_and_two_servers_train_as_one(data_root, tmp_path):
    """The servers sum in any order, so rounding errors differ from run to run.

    Sooner or later they decide about an activation near 0, and then about a RoI: in five of six
    runs the losses differed by 3e-3 from step 7 on, in one by 1e-6 in all twelve.
    """
    settings = {"batch_size": 4, "epochs": 2, "log_interval": 1, "lr_scaling": "none", "seed": 1}
    config = small_config("faster_rcnn_vgg16", data_root, val_every=0, **settings)
    one, _ = losses_of(config, tmp_path / "one", [mx.cpu()], 12)
    run = RunFolder(tmp_path / "four")
    code, _, errors = launch(*new_run(config, run.path, 4), flags=("-n", "4", "-s", "2"))
    assert code == 0, errors
    rows = run.read_log()
    assert max(differences(one[:4], rows[:4]).values()) < 1e-5
    assert max(differences(one, rows).values()) < 0.05


def test_only_the_first_worker_speaks_and_writes(two_workers):
    """Otherwise the other's lines would be in the log, or its half-written files next to it."""
    run = RunFolder(two_workers)
    assert run.steps() == [20, 24]
    assert {path.name for path in two_workers.rglob(".*")} == set()
    assert (two_workers / "losses.png").is_file()
    assert run.config().train.workers == 2


def assert_same_end(run: Path, other: Path) -> None:
    """Both runs end in the same parameters and momentum, to the bit."""
    for path in RunFolder(run).folder().glob("*.params"):
        ours, theirs = (load_arrays(RunFolder(r).folder() / path.name) for r in (run, other))
        assert ours.keys() == theirs.keys()
        assert ours
        different = [k for k in ours if (ours[k].asnumpy() != theirs[k].asnumpy()).any()]
        assert not different
    logs = (
        [row for row in RunFolder(r).read_log() if row["kind"] == "train"] for r in (run, other)
    )
    ours, theirs = ([{k: row[k] for k in row if k.endswith("Loss")} for row in log] for log in logs)
    assert ours == theirs


def test_killed_stopped_and_resumed_equals_never_stopped(config, two_workers, tmp_path):
    """kill -9 of one worker at a random step; then SIGTERM to the other one; then to the end.

    Worker 1 may be ahead of what worker 0 has saved, even before there is any checkpoint.
    """
    step, rank = random.randrange(5, 13), random.randrange(2)
    out, kill = tmp_path / "run", {"TEST_SIGNAL": f"{rank} {step}", "TEST_SIGNUM": "9"}
    code, _, errors = launch(*new_run(config, out), **kill)
    assert code == 137, errors
    assert f"error: worker {rank} ended with signal 9 (SIGKILL); ending all" in errors
    saved = max(RunFolder(out).steps(), default=0)
    expected = {(step - 1) // 4 * 4} if rank == 0 else {step // 4 * 4 - 4, step // 4 * 4}
    assert saved in expected, f"worker {rank} was killed at step {step}"

    stop = {"TEST_SIGNAL": "1 15", "TEST_SIGNUM": "15"}
    code, told, errors = launch("--resume", out, "--num-workers", 0, **stop)
    assert code == 143, errors
    assert (f"resuming at step {saved} of 24" if saved else "no checkpoint yet") in told
    stopped = RunFolder(out).steps()[-1]
    assert 15 <= stopped <= 18
    assert f"stopped at step {stopped}; go on: python tools/train.py --resume {out}" in told

    code, _, errors = launch("--resume", out, "--num-workers", 0)
    assert code == 0, errors
    assert_same_end(out, two_workers)


def test_sums_that_nobody_waits_for_stay_apart(tmp_path):
    """MXNet does not keep consecutive pushes of a key in order: a server would mix two sums."""
    script = f"""
        import sys, time
        sys.path.insert(0, {str(REPO)!r})
        from mxrcnn.training.server import serve_if_asked
        if serve_if_asked():
            sys.exit()
        from symnet.machine import mx
        from mxrcnn.training.workers import Workers
        workers = Workers("dist_sync")
        workers.total("numbers", mx.nd.zeros(1)).wait_to_read()
        time.sleep(workers.rank)  # the other one runs ahead
        sums = [workers.total("numbers", mx.nd.array([k + workers.rank])) for k in range(100)]
        assert [s.asscalar() for s in sums] == [2 * k + 1 for k in range(100)]
        assert workers.share("first, \u00e9" if workers.first else "") == "first, \u00e9"
        workers.leave()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    launcher = [sys.executable, str(LAUNCH), "-n", "2", "--", *command]
    done = subprocess.run(launcher, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["server", "scheduler"])
def test_when_a_server_is_killed_the_run_can_be_resumed(victim, config, two_workers, tmp_path):
    out = tmp_path / "run"
    kill = {"TEST_SIGNAL": "0 6", "TEST_SIGNUM": "9", "TEST_TARGET": victim}
    code, _, errors = launch(*new_run(config, out), TEST_PIDS=str(tmp_path), **kill)
    assert code == 137, errors
    name = "server 0" if victim == "server" else victim
    assert f"error: {name} ended with signal 9 (SIGKILL); ending all" in errors
    code, _, errors = launch("--resume", out, "--num-workers", 0)
    assert code == 0, errors
    assert_same_end(out, two_workers)


@pytest.mark.slow
def test_dist_device_sync_is_the_same(config, two_workers, tmp_path):
    code, _, errors = launch(*new_run(config, tmp_path), "--kvstore", "dist_device_sync")
    assert code == 0, errors
    assert_same_end(tmp_path, two_workers)


@pytest.mark.slow
@pytest.mark.usefixtures("no_dropout")
def test_one_worker_whose_updates_the_servers_make_trains_as_without_them(config, tmp_path):
    """The servers use the worker's rule: schedule, momentum, weight decay only for weights."""
    settings = {"train.batch_size": 1, "train.lr_decay_epoch": (1,), "train.warmup_steps": 3}
    config = override(config, settings)
    dataset = open_dataset(config.data, config.data.imageset)
    alone = Trainer(config, RunFolder(tmp_path / "alone"), dataset, None, [mx.cpu()])
    alone.begin()
    loop.train(alone, 0)
    words = [*new_run(override(config, {"train.batch_size": 2}), tmp_path / "run")]
    flags = ("-n", "1", "-s", "2")  # two servers: large parameters are cut in two
    code, _, errors = launch(
        *words, "--kvstore", "dist_async", flags=flags, MXNET_KVSTORE_BIGARRAY_BOUND="1000"
    )
    assert code == 0, errors
    ours, theirs = (
        load_arrays(RunFolder(tmp_path / name).folder() / "model.params")
        for name in ("alone", "run")
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(value.asnumpy(), ours[name].asnumpy(), atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_workers_at_their_own_pace(config, tmp_path):
    words = [*new_run(config, tmp_path / "run"), "--kvstore", "dist_async"]
    code, told, errors = launch(*words)
    assert code == 0, errors
    assert "2 workers, 1 images an update, each at its own pace" in told
    rows = RunFolder(tmp_path / "run").read_log()
    assert rows[-1]["step"] == 24
    assert rows[-1]["RPNLogLoss"] < rows[0]["RPNLogLoss"]
    code, told, errors = launch(*("--resume", tmp_path / "run", "--num-workers", 0, "--epochs", 3))
    assert code == 0, errors
    assert RunFolder(tmp_path / "run").steps()[-1] == 36


@pytest.mark.slow
def test_the_others_wait_while_the_first_validates(config, two_workers, tmp_path):
    words = [*new_run(config, tmp_path), "data.val_imageset=2007_test", "train.val_every=1"]
    code, _, errors = launch(*words)
    assert code == 0, errors
    assert [row["step"] for row in RunFolder(tmp_path).read_log() if row["kind"] == "val"] == [
        12,
        24,
    ]
    assert_same_end(tmp_path, two_workers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("train.lr=0.5", "their settings"),
        ("data.root=OTHER", "their settings, their data"),
    ],
)
def test_workers_that_differ(words, what, config, tmp_path, tmp_path_factory):
    other = ensure_synthetic(tmp_path_factory.mktemp("other") / "set", 11, 3, (96, 128))
    words = words.replace("OTHER", str(other))
    code, _, errors = launch(*new_run(config, tmp_path / "run"), TEST_WORDS=words)
    assert code == 1
    assert f"error: the workers differ in {what}: " in errors


@pytest.mark.slow
def test_a_server_does_not_unpickle(tmp_path):
    """What MXNet's own server would unpickle: here an object that creates a file."""
    worker = f"""
        import os, sys
        sys.path.insert(0, {str(REPO)!r})
        from mxrcnn.training.server import serve_if_asked
        if serve_if_asked():
            sys.exit()
        from symnet.machine import mx
        store = mx.kv.create("dist_sync")
        body = "cos\\nmkdir\\n(S'{tmp_path}/made'\\ntR."
        store._send_command_to_servers(0, body)
    """
    command = [sys.executable, "-c", textwrap.dedent(worker)]
    done = subprocess.run(
        [sys.executable, str(LAUNCH), "-n", "1", "--", *command],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert "[server 0] error: command 0 is not understood: JSONDecodeError" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_tasks_of_a_job_scheduler_train_together(config, two_workers, tmp_path):
    variables = {
        "DMLC_PS_ROOT_URI": "localhost",
        "DMLC_PS_ROOT_PORT": str(free_port()),
        "DMLC_INTERFACE": "lo",
        "SLURM_NTASKS": "2",
    }
    flags, words = ("--from-env", "slurm", "-s", "1"), new_run(config, tmp_path)
    with ThreadPoolExecutor() as pool:
        tasks = [
            pool.submit(launch, *words, flags=flags, SLURM_PROCID=str(task), **variables)
            for task in range(2)
        ]
    for task in tasks:
        code, _, errors = task.result()
        assert code == 0, errors
    assert_same_end(tmp_path, two_workers)


# Shares, rates and environments


@pytest.mark.parametrize(("images", "workers", "batch"), [(12, 2, 2), (1, 4, 1), (5, 3, 2)])
def test_the_shares_make_up_the_batches(images, workers, batch):
    records = [make_record(f"{k}") for k in range(images)]
    share = TrainingPlan(make_dataset(records), tiny_config(train__batch_size=batch), workers)
    whole = TrainingPlan(make_dataset(records), tiny_config(train__batch_size=batch * workers))
    assert share.steps == whole.steps == math.ceil(2 * images / (batch * workers))
    count = 2 * share.steps + 1
    plans = [list(itertools.islice(share.stream(0, 0, rank), count)) for rank in range(workers)]
    for parts, plan in zip(zip(*plans), itertools.islice(whole.stream(0, 0), count)):
        assert {part.size for part in parts} == {plan.size}
        for name in ("records", "flips", "seeds"):
            assert sum((getattr(part, name) for part in parts), ()) == getattr(plan, name)


@pytest.mark.parametrize(
    ("settings", "first", "after", "last"),
    [
        ({}, (0, 1.0), (100, 4.0), 4.0),  # an epoch is shorter than 500 steps
        ({"lr_scaling": "none"}, (0, 1.0), (1, 1.0), 1.0),
        ({"kvstore": "dist_async"}, (0, 1.0), (1, 1.0), 1.0),
        ({"warmup_steps": 200, "warmup_factor": 0.1}, (0, 0.1), (200, 4.0), 4.0),
        ({"warmup_steps": 50, "warmup_factor": 0.1}, (0, 0.1), (100, 4.0), 4.0),
    ],
)
def test_the_learning_rate_of_four_workers(settings, first, after, last):
    train = TrainConfig(lr=1.0, lr_decay_epoch=(), kvstore="dist_sync", workers=4)
    schedule = make_schedule(dataclasses.replace(train, **settings), 100)
    for step, rate in (first, after, (10_000, last)):
        assert schedule(step) == pytest.approx(rate)
    rates = [schedule(step) for step in range(300)]
    assert rates == sorted(rates)
    assert make_schedule(train, 10_000)(499) < 4 == make_schedule(train, 10_000)(500)


def test_one_worker_is_not_scaled():
    train = TrainConfig(lr=1.0, lr_decay_epoch=(), kvstore="dist_sync", workers=1)
    assert [make_schedule(train, 10)(step) for step in (0, 20)] == [1.0, 1.0]


DMLC = {
    "DMLC_ROLE": "worker",
    "DMLC_PS_ROOT_URI": "127.0.0.1",
    "DMLC_PS_ROOT_PORT": "9",
    "DMLC_NUM_WORKER": "2",
    "DMLC_NUM_SERVER": "1",
}


@pytest.mark.parametrize(
    ("variables", "kvstore", "message"),
    [
        ({}, "dist_sync", "DMLC_ROLE, DMLC_PS_ROOT_URI, .* not in the environment. Start"),
        ({**DMLC, "DMLC_NUM_WORKER": "0"}, None, "DMLC_NUM_WORKER=0, DMLC_NUM_SERVER=1: numbers"),
        ({**DMLC, "DMLC_NUM_SERVER": "a"}, None, "DMLC_NUM_SERVER=a: numbers from 1"),
        (DMLC, "local", "--kvstore local: this process is one of several"),
    ],
)
def test_environments_that_cannot_be(variables, kvstore, message, monkeypatch, data_root):
    for name in DMLC:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = {"data.dataset": "voc", "data.root": str(data_root)}
    if kvstore:
        settings["train.kvstore"] = kvstore
    with pytest.raises(ConfigError, match=message):
        build_config(TrainRequest(settings=settings))


def test_started_together_means_in_step(monkeypatch, data_root):
    for name, value in DMLC.items():
        monkeypatch.setenv(name, value)
    settings = {"data.dataset": "voc", "data.root": str(data_root)}
    config = build_config(TrainRequest(settings=settings)).config
    assert (config.train.kvstore, config.train.workers) == ("dist_sync", 2)


def test_a_run_is_resumed_by_as_many_workers(two_workers, monkeypatch):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with pytest.raises(ConfigError, match=r"started with 2 workers .* and here are 1: .* -n 2$"):
        prepare(TrainRequest(resume=str(two_workers)))


def test_local_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("symnet.machine.engine.physical_cores", lambda: 7)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12))
    for workers, threads, loaders in (("", 7, 6), ("2", 3, 3), ("99", 1, 1)):
        monkeypatch.setenv("MXRCNN_LOCAL_WORKERS", workers)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        engine.set_environment()
        assert os.environ["OMP_NUM_THREADS"] == str(threads)
        assert default_workers() == loaders
