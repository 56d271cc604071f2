"""--data PATH: each layout is recognised, and what is none or several is an error that says so."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mxrcnn.cli import main, train
from mxrcnn.cli.common import use_data
from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.detect import TESTING, TRAINING, Found, detect
from mxrcnn.data.records import DataError
from tests.broken_formats import WRITERS, small
from tests.factories import Picture, make_voc, noise
from tests.layouts import LAYOUTS, images_apart
from tests.test_data_formats import cells  # noqa: F401 - a fixture

#: layout -> a file or folder of it that means the whole
PARTS = {"voc": "VOCdevkit", "coco": "my labels.json", "yolo": "data.yaml", "csv": "labels.csv"}
PARTS |= {"retinanet": "labels.csv", "cvat": "annotations.xml"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised(cells, layout, tmp_path):  # noqa: F811
    kind, _, write, _ = LAYOUTS[layout]
    tmp_path = tmp_path / "data"
    write(replace(cells, records=cells.records[:2]), tmp_path)
    apart = images_apart(tmp_path)
    for path in (tmp_path, *((tmp_path / PARTS[layout],) if layout in PARTS else ())):
        found = detect(path)
        assert found.kind == kind
        images = str(apart) if apart.exists() else ""
        data = DataConfig(dataset=kind, root=str(found.root), images=images)
        dataset = open_dataset(data, found.the_imageset(TRAINING))
        assert [len(record) for record in dataset.records] == [len(r) for r in cells.records[:2]]


def test_coco_images_in_a_folder_above(cells, tmp_path):  # noqa: F811
    LAYOUTS["coco"][2](replace(cells, records=cells.records[:2]), tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations/x.json"
    shutil.move(tmp_path / "images/my labels.json", file)
    for path in (file, tmp_path):
        assert (detect(path).root, detect(path).imagesets) == (tmp_path, ("annotations/x.json",))


@pytest.mark.parametrize(
    ("sets", "train", "test"),
    [
        (("2007_train", "2012_train", "2007_val"), "2007_train+2012_train", "2007_val"),
        (("2007_trainval", "2007_test"), "2007_trainval", "2007_test"),
        (("annotations/instances_train2017.json", "a/instances_val2017.json"), 0, 1),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), 0, 1),
        (("odd",), "odd", "odd"),
    ],
)
def test_the_image_set_for_a_purpose(sets, train, test):
    found = Found("voc", Path("x"), sets, "")
    wanted = [sets[name] if isinstance(name, int) else name for name in (train, test)]
    assert [found.the_imageset(TRAINING), found.the_imageset(TESTING)] == wanted
    with pytest.raises(DataError, match="choose its image set by --imageset; there is: a, b"):
        Found("voc", Path("x"), ("a", "b"), "").the_imageset(TRAINING)


def test_what_is_no_data_set(tmp_path):
    for path, message in (("none", "no such file or folder"), (".", "labelme: images with Lab")):
        with pytest.raises(DataError, match=message):
            detect(tmp_path / path)


def test_two_data_sets_in_one_folder(tmp_path):
    small("csv", tmp_path / "a")
    for kind in ("labelimg", "labelme"):
        for name, text in WRITERS[kind].files.items():
            (tmp_path / "a/data" / name).write_text(text)
    with pytest.raises(DataError, match="several") as raised:
        detect(tmp_path / "a/data")
    for kind in ("csv", "labelimg", "labelme"):
        assert f"--dataset {kind} --data-root" in str(raised.value)


def test_lists_of_voc_win_over_its_xml(tmp_path):
    make_voc(tmp_path, {"a": Picture()})
    found = detect(tmp_path / "VOC2007")
    assert (found.kind, found.imagesets) == ("voc", ("train",))
    shutil.rmtree(tmp_path / "VOC2007/ImageSets")
    assert detect(tmp_path / "VOC2007").kind == "labelimg"


def test_a_neighbour_is_another_data_set(tmp_path):
    """A folder `xml` beside a data set is not part of it, but beside its `images` it is."""
    small("labelimg", tmp_path)
    (tmp_path / "xml").mkdir()
    shutil.copy(tmp_path / "data/bad.xml", tmp_path / "xml")
    (tmp_path / "data/bad.xml").unlink()
    assert len(open_dataset(DataConfig(dataset="labelimg", root=f"{tmp_path}/data"), "all")) == 1
    (tmp_path / "data").rename(tmp_path / "images")
    with pytest.raises(DataError, match="could be any of"):
        open_dataset(DataConfig(dataset="labelimg", root=str(tmp_path)), "all")
    (tmp_path / "images/good.xml").unlink()
    for root in (tmp_path, tmp_path / "images"):
        assert detect(root).kind == "labelimg"


def test_the_options_of_data(tmp_path, capsys):
    """--data sets what --dataset, --data-root and --imageset would, beside which it is an error."""
    small("yolo", tmp_path)
    path = tmp_path / "data/data.yaml"
    path.write_text(path.read_text() + "val: images\n")
    wanted = {"data.dataset": "yolo", "data.root": f"{tmp_path}/data", "data.imageset": "train"}
    for more, val in (([], "val"), (["--val-imageset", "x"], "x"), (["--imageset", "train"], None)):
        args = parsed("--data", f"{tmp_path}/data", *more)
        use_data(args, "data.imageset", "TRAINING", "data.val_imageset")
        assert {name: getattr(args, name) for name in wanted} == wanted
        assert getattr(args, "data.val_imageset") == val
    assert "yolo (it has data.yaml), image sets: train, val" in capsys.readouterr().out
    for more in (("--dataset", "voc"), ("--data-root", "x"), ("--resume", "x")):
        with pytest.raises(ConfigError, match="--data"):
            use_data(parsed("--data", str(tmp_path), *more), "data.imageset", "TRAINING")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("layout", ["coco", "csv", "retinanet", "cvat"])
def test_images_in_any_folder(cells, layout, tmp_path, capsys):  # noqa: F811
    """--images: a file names its images, which are far from it."""
    write = LAYOUTS[layout][2]
    write(replace(cells, records=cells.records[:2]), tmp_path / "far")
    file = shutil.move(tmp_path / "far" / PARTS[layout], tmp_path / PARTS[layout])
    images = tmp_path / "far" / ("images" if layout == "cvat" else "")
    args = parsed("--data", str(file), "--images", str(images))
    use_data(args, "data.imageset", "TRAINING", "data.val_imageset")
    given = {name: getattr(args, f"data.{name}") for name in ("dataset", "root", "images")}
    data = DataConfig(**given)
    dataset = open_dataset(data, getattr(args, "data.imageset"))
    assert [r.path.name for r in dataset.records] == [r.path.name for r in cells.records[:2]]
    for record, real in zip(dataset.records, cells.records):
        assert record.boxes == pytest.approx(real.boxes, abs=0.01)
    with pytest.raises(DataError, match=r"no (such )?image .*--images"):
        open_dataset(replace(data, images=""), args.__dict__["data.imageset"])
    with pytest.raises(DataError, match="no such folder of images"):
        open_dataset(replace(data, images=str(tmp_path / "none")), "x")
    capsys.readouterr()
    assert main(["data", "stats", str(file), "--images", str(images)]) == 0
    assert "image sizes: 640 x 480 (2)" in capsys.readouterr().out


def test_images_only_for_files_that_name_them(tmp_path):
    small("yolo", tmp_path)
    with pytest.raises(ConfigError, match="only for coco, csv, cvat"):
        open_dataset(DataConfig("yolo", str(tmp_path / "data"), str(tmp_path)), "train")


def test_images_of_one_name_have_paths_inside_images_as_ids(tmp_path):
    for folder in "ab":
        (tmp_path / "photos" / folder).mkdir(parents=True)
        noise((20, 30)).save(tmp_path / "photos" / folder / "1.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/x.csv").write_text("a/1.png,1,1,9,9,dog\nb/1.png,1,1,9,9,dog\n")
    data = DataConfig("csv", str(tmp_path / "labels"), str(tmp_path / "photos"))
    assert [r.image_id for r in open_dataset(data, "x").records] == ["a/1.png", "b/1.png"]
