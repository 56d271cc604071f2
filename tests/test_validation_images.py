"""--val SHARE and --val PATH: training, resuming and testing with them, and their errors."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from mxrcnn.cli import main, train
from mxrcnn.cli.common import use_data, use_val
from mxrcnn.config import ConfigError, DataConfig, dump_json, make_config, override
from mxrcnn.data.records import DataError
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.data.validation import validation_images, with_classes_of
from mxrcnn.inference.quantize import quantize_run
from mxrcnn.training.configure import TrainRequest, configure
from mxrcnn.training.loop import train as train_all
from mxrcnn.training.run import prepare
from tests.factories import TINY, Picture, make_dataset, make_record, make_voc
from tests.runs import assert_same_end
from tests.test_resume import resume, stop_at


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 12, 3, (96, 128))


@pytest.fixture
def begin(data_root, tmp_path):
    """Starts a run in tmp_path/NAME, on a copy of the data."""

    def start(name: str, **settings):
        root = tmp_path / f"{name} data"
        shutil.copytree(data_root, root)
        data = {"data.dataset": "voc", "data.root": str(root), "data.imageset": "2007_train"}
        data |= {"data.val_share": 0.25, "train.batch_size": 2, "train.epochs": 1}
        settings = {**TINY, **data, **settings}
        return prepare(TrainRequest(settings=settings, out=str(tmp_path / name)))

    return start


def test_a_split_run_stopped_and_resumed_equals_one_never_stopped(begin, tmp_path, monkeypatch):
    whole = begin("whole")
    train_all(whole, 0)
    stopped = begin("stopped")
    with monkeypatch.context() as patched:
        stop_at(patched, 2)
        assert train_all(stopped, 0).stopped_by == signal.SIGTERM
        patched.setattr("mxrcnn.data.validation.make_split", None)  # the stored one is used
        trainer = resume(tmp_path / "stopped")
    train_all(trainer, 0)
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
    stored = [(tmp_path / name / "split.json").read_text() for name in ("whole", "stopped")]
    assert stored[0] == stored[1]
    sides = json.loads(stored[0])["sides"]
    assert [len(sides[side]) for side in ("train", "val")] == [9, 3]
    assert set(whole.identity.image_ids) == set(sides["train"])
    repeated = prepare(TrainRequest(config=str(tmp_path / "whole"), out=str(tmp_path / "again")))
    repeated.run.unlock()
    assert repeated.config == whole.config
    assert (tmp_path / "again/split.json").read_text() == stored[0]


def test_a_resumed_run_and_changed_data(begin, tmp_path):
    trainer = begin("run")
    trainer.run.unlock()
    folder = tmp_path / "run data/VOC2007"
    (tmp_path / "run/split.json").rename(tmp_path / "split.json")
    resume(tmp_path / "run").run.unlock()  # stopped before it was written: made again
    assert (tmp_path / "run/split.json").read_text() == (tmp_path / "split.json").read_text()
    stem = json.loads((tmp_path / "split.json").read_text())["sides"]["val"][0]
    for kind, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (folder / kind / f"{stem}.{ending}").rename(folder / kind / f"new.{ending}")
    listing = folder / "ImageSets/Main/train.txt"
    listing.write_text(listing.read_text().replace(stem, "new"))
    with pytest.raises(DataError, match=r"new\.jpg: 1 images of 2007_train are on no side"):
        resume(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--resume uses the run's own .* not data.val_share"):
        resume(tmp_path / "run", data__val_share=0.5)


def test_test_and_quantize_use_the_val_side(begin, tmp_path, capsys):
    train_all(begin("run"), 0)
    val = json.loads((tmp_path / "run/split.json").read_text())["sides"]["val"]
    assert main(["test", str(tmp_path / "run"), "--pictures", "0"]) == 0
    assert "val: 3 images, " in capsys.readouterr().out
    results = json.loads((tmp_path / "run/test_val/coco_results.json").read_text())
    assert {row["image_id"] for row in results} <= set(val)
    quantize_run(tmp_path / "run", tmp_path / "copy", "bf16")
    assert (tmp_path / "copy/split.json").is_file()


def val_of(data: DataConfig, names: tuple[str, ...], tmp_path):
    return validation_images(replace(data, class_names=names), tmp_path)


def test_another_data_set_to_validate_on(tmp_path, capsys):
    """Of another kind; its classes are matched by name."""
    make_voc(tmp_path / "a", {"a": Picture(objects=[("zebra", 1, 1, 9, 9), ("dog", 1, 1, 9, 9)])})
    words = ["filename,width,height,class,xmin,ymin,xmax,ymax", "b.jpg,100,80,zebra,1,2,30,40"]
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a/VOC2007/JPEGImages/a.jpg", tmp_path / "b/b.jpg")
    (tmp_path / "b/labels.csv").write_text("\n".join(words))
    args = parsed("--data", f"{tmp_path}/a", "--val", f"{tmp_path}/b/labels.csv")
    use_data(args, "data.imageset", "TRAINING", "data.val_imageset")
    use_val(args)
    assert "image set: labels.csv" in capsys.readouterr().out
    data = DataConfig(**{n[5:]: v for n, v in vars(args).items() if n[:5] == "data." and v})
    dataset = val_of(data, ("dog", "zebra"), tmp_path)
    assert (dataset.class_names, dataset[0].classes.tolist()) == (("dog", "zebra"), [2])
    message = r"(?s)has objects of zebra, .*train on: dog, cat\n  its classes: zebra\n"
    with pytest.raises(DataError, match=message):
        val_of(data, ("dog", "cat"), tmp_path)


def test_classes_without_objects_may_be_missing():
    records = [replace(make_record(), active_classes=(0, 1, 2), classes=np.array([2]))]
    dataset = make_dataset(records, ("bird", "dog"))
    found = with_classes_of(dataset, ("cat", "dog"), "x")
    assert (found.class_names, found[0].classes.tolist()) == (("cat", "dog"), [2])
    assert found[0].active_classes == (0, 2)
    assert with_classes_of(dataset, ("bird", "dog"), "x") is dataset


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "1.5"], "--val 1.5: a share is above 0 and below 1"),
        (["--val", "nan"], "--val nan: a share"),
        (["--val", "0.2", "--val-imageset", "x"], "--val and --val-imageset: give one"),
        (["--val", "0.2", "--resume", "x"], "--val is for new runs"),
        (["--val", "nowhere"], "nowhere: no such file or folder"),
        (["--val", "{}"], "choose its image set by --val-imageset; there is: 2007_a, 2007_b"),
    ],
)
def test_wrong_values_of_val(words, message, tmp_path):
    for name in "ab":
        make_voc(tmp_path, {name: Picture()}, name)
    args = parsed(*(word.format(tmp_path) for word in words))
    with pytest.raises((ConfigError, DataError), match=message):
        use_val(args)


def test_a_share_replaces_the_image_set_for_validation(tmp_path, capsys):
    make_voc(tmp_path, {"a": Picture()})
    make_voc(tmp_path, {"b": Picture()}, "val")
    args = parsed("--data", str(tmp_path), "--val", "0.2")
    use_data(args, "data.imageset", "TRAINING", "data.val_imageset")
    use_val(args)
    assert (getattr(args, "data.val_imageset"), getattr(args, "data.val_share")) == (None, 0.2)
    assert "not used, as --val is given: 2007_val" in capsys.readouterr().out


def test_settings_that_contradict():
    for settings in ({"val_share": 0.2, "val_imageset": "x"}, {"val_dataset": "voc"}):
        with pytest.raises(ConfigError, match=r"data\.val_"):
            DataConfig(**settings)


def test_settings_of_another_run(tmp_path):
    """--config: its settings, changed by flags; other data have their own classes."""
    file = tmp_path / "config.json"
    stored = override(make_config("fcos_r50_fpn"), {"lr": 0.5, "class_names": ("a", "b")})
    file.write_text(dump_json(stored))
    for where in (file, tmp_path):
        assert configure(TrainRequest(config=str(where))).config == stored
    made = configure(TrainRequest(config=str(file), settings={"data.root": "x"}, words=["lr=0.1"]))
    assert (made.config.train.lr, made.config.data.class_names) == (0.1, ("auto",))
    assert (made.sources["train.lr"], made.sources["train.epochs"]) == ("--set", str(file))
    file.write_text(dump_json(override(stored, {"workers": 2, "kvstore": "dist_sync"})))
    for request, message in (
        ({"config": "none"}, "--config none: no such file"),
        ({"config": str(file), "network": "x"}, "not with --network"),
        ({"config": str(file)}, "started with 2 workers .*, and here are 1: start as many, by"),
    ):
        with pytest.raises(ConfigError, match=message):
            configure(TrainRequest(**request))
