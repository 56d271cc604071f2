"""Several devices, and several processes, train as one does with the same batches."""

import dataclasses
import math
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.compat import mx
from mxrcnn.config import Config, make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.training import trainer as trainer_module
from mxrcnn.training.checkpoint import RunFolder, load_arrays
from mxrcnn.training.run import with_classes
from mxrcnn.training.trainer import Trainer, step_seed
from symnet import get_detector
from tests.conftest import REPO
from tests.factories import TINY

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
    "model.depth": 18,
    "model.anchor_sizes": (8, 16, 32, 64, 128),
    "model.rpn_pre_nms_top_n": 100,
    "model.rpn_post_nms_top_n": 40,
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
    "fcos_r50_fpn": {**SMALL_PYRAMID, "model.body": "resnet18", "model.head_layers": 1},
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 12, 3, (96, 128))


@pytest.fixture
def no_dropout(monkeypatch):
    """Devices draw the units that dropout leaves out for themselves."""

    def detector(name: str):
        known = get_detector(name)

        def train_symbol(config, images: int) -> mx.sym.Symbol:
            text = known.train_symbol(config, images).tojson(remove_amp_cast=False)
            return mx.sym.load_json(text.replace('"p": "0.5"', '"p": "0"'))

        return dataclasses.replace(known, train_symbol=train_symbol)

    monkeypatch.setattr(trainer_module, "get_detector", detector)


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
    with trainer_module.training_loader(config, trainer.plan, 0) as loader:
        for step, batch in zip(range(steps), loader.batches(trainer.plan.stream(0, 0))):
            pairs = trainer.network.step(batch, step_seed(0, step))
            trainer.metrics.add(step, batch.image_ids, pairs)
            trainer.metrics.absorb(everything=True)
            seen.append(trainer.metrics.take())
    return seen, {name: value.asnumpy() for name, value in trainer.network.params().items()}


def differences(one: list[dict], other: list[dict]) -> dict[str, float]:
    """By loss: the largest difference of a step, as a share of the loss's own size."""
    assert len(one) == len(other)
    names = [name for name in one[0] if name.endswith("Loss")]
    size = {name: max(math.fabs(row[name]) for row in one) for name in names}
    return {
        name: max(abs(a[name] - b[name]) for a, b in zip(one, other)) / size[name] for name in names
    }


@pytest.mark.parametrize(
    ("network", "steps"),
    [("faster_rcnn_vgg16", STEPS), ("mask_rcnn_r50_fpn", 3), ("fcos_r50_fpn", 3)],
)
@pytest.mark.usefixtures("no_dropout")
def test_two_devices_train_as_one(network, steps, data_root, tmp_path):
    """Also where images have different numbers of samples, of which the losses are means."""
    config = small_config(network, data_root)
    one, params = losses_of(config, tmp_path / "one", [mx.cpu(0)], steps)
    two, others = losses_of(config, tmp_path / "two", [mx.cpu(0), mx.cpu(1)], steps)
    assert max(differences(one, two).values()) < 1e-5
    for name, value in params.items():
        scale = np.abs(value).max() + 1e-8
        np.testing.assert_allclose(others[name] / scale, value / scale, atol=1e-4, err_msg=name)


# Several processes

#: tools/train.py without dropout, which each worker draws for itself; it can send itself a signal
DRIVER = """
    import dataclasses, os, runpy, sys
    script, *sys.argv[1:] = sys.argv[1:]
    sys.path[:0] = [os.path.dirname(script), os.path.dirname(os.path.dirname(script))]
    if os.environ["DMLC_ROLE"] == "worker":
        from mxrcnn.compat import mx
        from mxrcnn.training import trainer
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
                os.kill(os.getpid(), int(os.environ["TEST_SIGNUM"]))
            return ended

        trainer.get_detector = without_dropout
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


def new_run(config: Config, out: Path) -> list[object]:
    """Words for tools/train.py that make this config, at half its batch size."""
    words = [
        f"{section}.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for section in ("data", "model", "train")
        for name, value in vars(getattr(config, section)).items()
        if name not in ("class_names", "batch_size", "kvstore", "workers", "num_classes")
        and value != ""
    ]
    half = config.train.batch_size // 2
    return [
        "--preset",
        "classic",
        "--num-workers",
        0,
        "--out",
        out,
        "--batch-size",
        half,
        "--set",
        *words,
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
    """The run of two workers that is never stopped."""
    out = tmp_path_factory.mktemp("two") / "run"
    code, _, errors = launch(*new_run(config, out))
    assert code == 0, errors
    return out


@pytest.mark.usefixtures("no_dropout")
def test_two_workers_with_half_the_batch_train_as_one(config, two_workers, tmp_path):
    one, _ = losses_of(config, tmp_path / "one", [mx.cpu()], STEPS)
    run = RunFolder(two_workers)
    rows = run.read_log()
    assert [row["step"] for row in rows] == list(range(1, 25))
    found = differences(one, rows[:STEPS])

    assert max(found.values()) < 1e-5
    assert rows[0]["lr"] == rows[-1]["lr"] == config.train.lr


def test_only_the_first_worker_speaks_and_writes(two_workers):
    """The other's lines would be in the log too, or its half-written files beside it."""
    run = RunFolder(two_workers)
    assert run.steps() == [20, 24]
    assert {path.name for path in two_workers.rglob(".*")} == set()
    assert (two_workers / "losses.png").is_file()
    assert run.config().train.workers == 2


def assert_same_end(run: Path, other: Path) -> None:
    """Both runs end in the same parameters and momentum, to the bit."""
    for name in ("model.params", "momentum.params"):
        ours, theirs = (load_arrays(RunFolder(r).folder() / name) for r in (run, other))
        assert ours.keys() == theirs.keys()
        assert ours
        different = [k for k in ours if (ours[k].asnumpy() != theirs[k].asnumpy()).any()]
        assert not different
    ours, theirs = (
        [{k: v for k, v in row.items() if k.endswith("Loss")} for row in RunFolder(r).read_log()]
        for r in (run, other)
    )
    assert ours == theirs


def test_killed_stopped_and_resumed_equals_never_stopped(config, two_workers, tmp_path):
    """kill -9 of one worker at a random step; then SIGTERM to the other one; then to the end."""
    step, rank = random.randrange(5, 13), random.randrange(2)
    out, kill = tmp_path / "run", {"TEST_SIGNAL": f"{rank} {step}", "TEST_SIGNUM": "9"}
    code, _, errors = launch(*new_run(config, out), **kill)
    assert code == 137, errors
    assert f"error: worker {rank} ended with signal 9 (SIGKILL); ending all" in errors
    saved = RunFolder(out).steps()[-1]
    assert saved in (4, 8, 12), f"killed at {step}"

    stop = {"TEST_SIGNAL": "1 15", "TEST_SIGNUM": "15"}
    code, told, errors = launch("--resume", out, "--num-workers", 0, **stop)
    assert code == 143, errors
    assert f"resuming at step {saved} of 24" in told
    stopped = RunFolder(out).steps()[-1]
    assert 15 <= stopped <= 18
    assert f"stopped at step {stopped}; go on: python tools/train.py --resume {out}" in told

    code, _, errors = launch("--resume", out, "--num-workers", 0)
    assert code == 0, errors
    assert_same_end(out, two_workers)
