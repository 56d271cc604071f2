"""`mxrcnn data split --to`: the sides as a data set of the same kind, read by --data."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mxrcnn.cli import main
from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset, split_files
from mxrcnn.data.detect import TESTING, TRAINING, VALIDATION, detect
from mxrcnn.data.records import DataError
from mxrcnn.data.split import read_split
from tests.factories import Picture, make_voc, noise
from tests.layouts import LAYOUTS, images_apart
from tests.test_data_formats import cells  # noqa: F401 - a fixture

FILES = {
    "voc": ["VOC2007"],
    "voc, one year": ["Annotations", "ImageSets", "JPEGImages"],
    "coco": ["images", "test.json", "train.json", "val.json"],
    "yolo": ["data.yaml", "source", "test.txt", "train.txt", "val.txt"],
    "csv": ["images", "test.csv", "train.csv", "val.csv"],
    "cvat": ["images", "test.xml", "train.xml", "val.xml"],
}


def listing(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_kind_is_written_and_read(cells, layout, tmp_path, capsys):  # noqa: F811
    kind, imageset, write, _ = LAYOUTS[layout]
    write(replace(cells, records=cells.records[:8]), tmp_path / "all")
    before = listing(tmp_path / "all")
    apart = images_apart(tmp_path / "all")
    apart = str(apart) if apart.exists() else ""
    words = ["data", "split", str(tmp_path / "all"), "--val", "0.25", "--images", apart]
    assert main([*words, "--test", "0.2", "--to", str(tmp_path / "new")]) == 0
    assert listing(tmp_path / "all") == before
    names = sorted({*os.listdir(tmp_path / "new")} - {"split.json"})
    assert names == FILES.get(layout, FILES.get(kind, ["test", "train", "val"]))
    found = detect(tmp_path / "new")
    assert found.kind == kind
    whole = open_dataset(DataConfig(kind, str(tmp_path / "all"), apart), imageset)
    boxes = {record.path.name: record.boxes.tolist() for record in whole.records}
    sides = read_split(tmp_path / "new/split.json").sides
    seen = []
    for purpose, side in ((TRAINING, "train"), (VALIDATION, "val"), (TESTING, "test")):
        dataset = open_dataset(DataConfig(kind, str(found.root)), found.imageset(purpose))
        assert sorted(record.path.stem for record in dataset.records) == [*sides[side]]
        assert {r.path.name: r.boxes.tolist() for r in dataset.records}.items() <= boxes.items()
        seen += dataset.records
    assert len(seen) == 8
    out = capsys.readouterr().out
    assert "train on it: mxrcnn train --data" in out
    assert main(words) == 0
    assert "nothing was written" in capsys.readouterr().out


def test_entries_keep_what_our_reader_does_not_read(tmp_path):
    images = [{"id": k, "file_name": f"train/{k}.png", "license": 3} for k in range(8)]
    boxes = [
        {"id": k, "image_id": k, "category_id": 5, "bbox": [1, 1, 5, 5], "score": 0.5, "x": "y"}
        for k in range(8)
    ]
    document = {"info": {"year": 2026}, "images": images, "annotations": boxes}
    document["categories"] = [{"id": 5, "name": "dog", "keypoints": ["nose"]}]
    (tmp_path / "a/train").mkdir(parents=True)
    for k in range(8):
        noise((20, 30), seed=k).save(tmp_path / f"a/train/{k}.png")
    (tmp_path / "a/labels.json").write_text(json.dumps(document))
    assert main(["data", "split", f"{tmp_path}/a", "--val", "0.25", "--to", f"{tmp_path}/b"]) == 0
    sides = [json.loads((tmp_path / f"b/{side}.json").read_text()) for side in ("train", "val")]
    assert [len(side["images"]) for side in sides] == [6, 2]
    for side in sides:
        assert (side["info"], side["categories"]) == (document["info"], document["categories"])
    for key in ("images", "annotations"):
        entries = [entry for side in sides for entry in side[key]]
        assert sorted(entries, key=lambda e: e["id"]) == document[key]


def test_several_years_of_voc(tmp_path):
    for year in ("2007", "2012"):
        make_voc(tmp_path / "a", {f"{year}{i}x": Picture() for i in range(4)}, year=year)
    assert main(["data", "split", f"{tmp_path}/a", "--val", "0.25", "--to", f"{tmp_path}/b"]) == 0
    found = detect(tmp_path / "b")
    assert re.fullmatch(r"2007_train\+2012_train", found.the_imageset(TRAINING))
    assert "val" in found.imageset(VALIDATION)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val", "0.25", "--to", "{}"], "is there already: give a new or an empty folder"),
        (["--val", "0.7", "--test", "0.5"], "above 0 and together below 1, not 0.7 and 0.5"),
        (["--val", "0.01"], "leave no image for the side val"),
    ],
)
def test_errors(words, message, tmp_path, capsys):
    make_voc(tmp_path, {f"x{i}x": Picture() for i in range(3)})
    with pytest.raises(SystemExit):
        main(["data", "split", str(tmp_path), *(word.format(tmp_path) for word in words)])
    assert message in capsys.readouterr().err


def test_what_would_be_read_otherwise_is_not_written(tmp_path, monkeypatch, capsys):
    make_voc(tmp_path / "a", {f"x{i}x": Picture() for i in range(4)})

    def wrong(divided, dataset, to):
        split_files._voc(
            replace(divided, by_path=dict.fromkeys(divided.by_path, "val")), dataset, to
        )
        lists = to / "VOC2007/ImageSets/Main"
        (lists / "train.txt").write_text((lists / "val.txt").read_text())

    monkeypatch.setitem(split_files.WRITERS, "voc", wrong)
    with pytest.raises(SystemExit):
        main(["data", "split", f"{tmp_path}/a", "--val", "0.25", "--to", f"{tmp_path}/b"])
    assert "train would not be read as it is" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_lists_of_yolo(tmp_path):
    """As other programs write them: from another folder, with other ends of lines."""
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        noise((20, 30)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [dog]\n")
    listed = tmp_path / "train.txt"
    data = DataConfig("yolo", str(tmp_path))
    listed.write_text("./images/a.png\r\n\r\n/content/x/images/b.png\r\n")
    dataset = open_dataset(data, "train")
    assert [len(record) for record in dataset.records] == [1, 0]
    assert dataset.notes.lines() == [
        "1 paths in train.txt were read as others inside the folder",
        "1 images have no label file, and so no objects",
    ]
    for text, message in (
        ("images/c.png", r"train\.txt: line 1: there is no image 'images/c\.png'"),
        ("../images", "there is no image"),
        ("a/" * 3000, "line 1 is too long for a path: 'a/a/a/"),
        ("a\0b", "there is no image"),
        ("\ud800".encode("utf-8", "surrogatepass"), "not UTF-8"),
        ("images/b.png", "no image that it lists has a label file"),
        ("", "no image that it lists has a label file"),
        ("images/a.png\nimages/a.png", "annotates .*a.png a second time"),
    ):
        listed.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=message):
            open_dataset(data, "train")
    (tmp_path / "data.yaml").write_text("train: none.txt\nnames: [dog]\n")
    with pytest.raises(DataError, match=r"train: there is no list 'none\.txt'"):
        open_dataset(data, "train")
