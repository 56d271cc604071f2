"""Awkward images of real folders: each one trains, or fails with an error that names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.data import open_dataset
from mxrcnn.data.loader import training_loader
from mxrcnn.data.records import DataError, ImageRecord
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.configure import TrainRequest
from mxrcnn.training.loop import train
from mxrcnn.training.run import prepare
from mxrcnn.training.trainer import Trainer
from symnet.machine import mx
from tests.factories import (
    TINY,
    Picture,
    make_dataset,
    make_record,
    make_voc,
    noise,
    tiny_config,
    truncate,
)

REPO = Path(__file__).resolve().parent.parent
GRID = [(5 * (i % 20), 6 * (i // 20), 5 * (i % 20) + 4, 6 * (i // 20) + 5) for i in range(300)]
#: the awkward images: size (height, width), mode, objects
AWKWARD = {
    "no objects": ((100, 120), "RGB", []),
    "1x1 box": ((100, 120), "RGB", [(10, 10, 11, 11)]),
    "1x1 box in the corner": ((100, 120), "RGB", [(119, 99, 120, 100)]),
    "1x1 box that shrinks": ((400, 800), "RGB", [(10, 10, 11, 11)]),
    "1x1 image": ((1, 1), "RGB", [(0, 0, 1, 1)]),
    "61x1000": ((61, 1000), "RGB", [(100, 10, 160, 50)]),
    "1000x61": ((1000, 61), "RGB", [(10, 100, 50, 160)]),
    "grey": ((100, 120), "L", [(10, 20, 50, 60)]),
    "rgba": ((100, 120), "RGBA", [(10, 20, 50, 60)]),
    "300 objects": ((100, 120), "RGB", GRID),
    "300 times the same": ((100, 120), "RGB", [(10, 20, 50, 60)] * 300),
    "the whole image": ((100, 120), "RGB", [(0, 0, 120, 100)]),
    "a crowd alone": ((100, 120), "RGB", [(10, 20, 50, 60)]),
}


def record_of(name: str, folder: Path) -> ImageRecord:
    size, mode, boxes = AWKWARD[name]
    path = folder / f"{name}.png"
    noise(size, mode).save(path)
    flags = {"crowd": [True]} if "crowd" in name else {}
    return make_record(name, size, boxes, path, **flags)


def trainer_of(records: list[ImageRecord], folder: Path, **settings: object) -> Trainer:
    config = tiny_config(
        model__num_classes=2, data__class_names=("dog",), train__log_interval=1, **settings
    )
    dataset = make_dataset(records)
    trainer = Trainer(config, RunFolder(folder / "run"), dataset, dataset, [mx.cpu()])
    trainer.begin()
    return trainer


def assert_trained(trainer: Trainer) -> None:
    """Training ends with finite losses and parameters, and testing works too."""
    result = train(trainer, num_workers=0)
    assert result.step == trainer.total >= 2
    rows = [row for row in trainer.run.read_log() if row["kind"] == "train"]
    assert len(rows) == result.step
    for row in rows:
        for name in trainer.network.detector.losses:
            value = row[name]  # None: no sample to take the mean of, as box losses of no objects
            assert "L1" in name if value is None else np.isfinite(value) and value >= 0
    for name, value in trainer.network.params().items():
        assert np.isfinite(value.asnumpy()).all(), name
    assert any(row["kind"] == "val" for row in trainer.run.read_log())


@pytest.mark.parametrize("name", AWKWARD)
def test_alone(tmp_path, name):
    assert_trained(trainer_of([record_of(name, tmp_path)], tmp_path))


@pytest.mark.parametrize("name", ["no objects", "1x1 box", "61x1000", "300 objects"])
def test_at_the_classic_scale(tmp_path, name):
    sides = {"data__short_side": 600, "data__long_side": 1000, "data__flip": False}
    record = record_of(name, tmp_path)
    assert_trained(trainer_of([record], tmp_path, train__epochs=2, **sides))


def test_all_together_in_batches(tmp_path):
    records = [record_of(name, tmp_path) for name in AWKWARD]
    assert_trained(trainer_of(records, tmp_path, train__batch_size=3))


def test_an_image_without_objects_has_box_losses_of_exactly_0(tmp_path):
    records = [record_of(name, tmp_path) for name in ("no objects", "grey")]
    trainer = trainer_of(records, tmp_path, train__batch_size=2, data__flip=False)
    with training_loader(trainer.config, trainer.plan, 0) as loader:
        (batch,) = loader.batches(trainer.plan.epoch(0))
    trainer.network.step(batch, seed=0)
    module = trainer.network.module
    outputs = dict(zip(module.output_names, module.get_outputs()))
    for name in ("rpn_bbox_loss_output", "bbox_loss_reshape_output"):
        losses = outputs[name].asnumpy()
        totals = dict(zip(batch.image_ids, np.abs(losses).reshape(2, -1).sum(axis=1)))
        assert totals["no objects"] == 0
        assert totals["grey"] > 0


def test_a_data_set_without_any_object(tmp_path):
    """They are trained as background, unless the config drops them: then no images are left."""
    pictures = {str(i): Picture((100, 120), []) for i in range(2)}
    settings = {**TINY, "data.dataset": "voc", "data.root": str(make_voc(tmp_path, pictures))}
    settings["train.log_interval"] = 1
    trainer = prepare(TrainRequest(settings=settings, out=str(tmp_path / "run")))
    train(trainer, num_workers=0)
    rows = trainer.run.read_log()
    assert len(rows) == 4
    for row in rows:
        assert row["RPNL1Loss"] is row["RCNNL1Loss"] is None
        assert row["RPNLogLoss"] > 0
        assert row["RCNNLogLoss"] > 0

    settings["data.keep_empty"] = False
    with pytest.raises(DataError, match="keep_empty"):
        prepare(TrainRequest(settings=settings, out=str(tmp_path / "other")))


def test_a_1x1_box_in_voc_counts_as_a_stray_click_and_is_told(tmp_path):
    root = make_voc(tmp_path, {"a": Picture(objects=[("dog", 10, 10, 11, 11)])})
    dataset = open_dataset(
        tiny_config(data__dataset="voc", data__root=str(root)).data, "2007_train"
    )
    assert [len(record) for record in dataset.records] == [0]
    assert dataset.notes.lines() == ["1 boxes were empty or inverted and were dropped"]


# What cannot be trained on


def truncated_jpeg(root: Path) -> Path:
    return truncate(root / "VOC2007/JPEGImages/bad.jpg")


def headless_jpeg(root: Path) -> Path:
    return truncate(root / "VOC2007/JPEGImages/bad.jpg", 0.001)


def zero_byte_xml(root: Path) -> Path:
    return truncate(root / "VOC2007/Annotations/bad.xml", 0)


def unknown_class(root: Path) -> Path:
    path = root / "VOC2007/Annotations/bad.xml"
    path.write_text(path.read_text().replace("dog", "unicorn"))
    return path


def missing_image(root: Path) -> Path:
    path = root / "VOC2007/JPEGImages/bad.jpg"
    path.unlink()
    return path


BAD = {
    truncated_jpeg: "truncated",
    headless_jpeg: "not a readable image",
    zero_byte_xml: "broken XML",
    unknown_class: "unknown class 'unicorn'",
    missing_image: "no such image",
}


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "voc", {"good": Picture(), "bad": Picture()})


@pytest.mark.parametrize("spoil", [truncated_jpeg, zero_byte_xml, unknown_class])
def test_the_tool_names_a_bad_file_and_exits_with_1(voc, tmp_path, spoil):
    path = spoil(voc)
    words = [f"{key}={','.join(map(str, np.ravel(value)))}" for key, value in TINY.items()]
    command = [sys.executable, "tools/train.py", "--dataset", "voc", "--data-root", str(voc)]
    command += ["--network", "faster_rcnn_vgg16", "--num-workers", "1"]
    command += ["--out", str(tmp_path / "run"), "--set", "class_names=dog"]
    done = subprocess.run([*command, *words], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {path}: ")
    assert BAD[spoil] in last
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("spoil", BAD)
def test_bad_files_raise_or_are_skipped_and_told(voc, tmp_path, spoil, capsys):
    path = spoil(voc)
    settings = {
        **TINY,
        "data.dataset": "voc",
        "data.root": str(voc),
        "data.class_names": ("dog",),
    }
    with pytest.raises(DataError, match=BAD[spoil]) as caught:
        train(prepare(TrainRequest(settings=settings, out=str(tmp_path / "run"))), num_workers=0)
    assert caught.value.path == str(path)

    settings["data.skip_bad"] = True
    trainer = prepare(TrainRequest(settings=settings, out=str(tmp_path / "other")))
    out = capsys.readouterr().out
    assert "1 bad entries were skipped" in out
    assert str(path) in out
    assert train(trainer, num_workers=0).step == 2
