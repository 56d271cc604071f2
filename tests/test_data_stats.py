"""`mxrcnn data stats`: its numbers, counted here by hand, its table, and what it could not read."""

from __future__ import annotations

import json

import pytest

from mxrcnn.cli import main
from tests.factories import Picture, make_voc

PICTURES = {
    "a": Picture((80, 100), [("dog", 0, 0, 31, 32), ("dog", 0, 0, 32, 32), ("cat", 1, 1, 9, 9)]),
    "b": Picture((120, 100), [("dog", 0, 0, 97, 96)]),
    "c": Picture((80, 100), []),
}


@pytest.fixture
def voc(tmp_path):
    make_voc(tmp_path, PICTURES)
    make_voc(tmp_path, {"d": Picture(objects=[("dog", 5, 5, 5, 9)])}, "val")
    return tmp_path


def test_the_numbers(voc, capsys):
    assert main(["data", "stats", str(voc), "--imageset", "2007_train", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    stats = document["imagesets"].pop("2007_train")
    assert (document["kind"], document["imagesets"]) == ("voc", {})
    wanted = {"images": 3, "images without objects": 1, "objects": 4, "crowd": 0, "notes": []}
    wanted |= {"small": 2, "medium": 1, "large": 1, "image sizes": {"100 x 80": 2, "100 x 120": 1}}
    wanted["objects an image"] = {"mean": 1.33, "median": 1, "most": 3}
    wanted["image height"] = {"smallest": 80, "median": 80, "largest": 120}
    wanted["classes"] = {
        "cat": {"objects": 1, "images": 1, "small": 1, "medium": 0, "large": 0},
        "dog": {"objects": 3, "images": 2, "small": 1, "medium": 1, "large": 1},
    }
    assert {name: stats[name] for name in wanted} == wanted


def test_the_table_has_all_image_sets_and_what_was_left_out(voc, capsys):
    (voc / "VOC2007/ImageSets/Main/broken.txt").write_text("none\n")
    assert main(["data", "stats", str(voc)]) == 1
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["images", "3", "1"] in rows
    assert ["objects", "4", "0"] in rows
    assert ["dog", "3", "2", "1", "1", "1", "75.0%"] in rows
    assert "1 boxes were empty or inverted and were dropped" in out
    assert err.startswith("error: 2007_broken: ")
    assert "none.xml: no such annotation file" in err


def test_a_folder_of_two_data_sets(voc, capsys):
    text = json.dumps({"images": [], "annotations": [], "categories": []})
    (voc / "labels.json").write_text(text)
    with pytest.raises(SystemExit):
        main(["data", "stats", str(voc)])
    assert "could be several" in capsys.readouterr().err
    assert main(["data", "stats", str(voc), "--dataset", "voc"]) == 0
    with pytest.raises(SystemExit):
        main(["data", "stats", str(voc), "--dataset", "yolo"])
    assert "no data set of the kind 'yolo'" in capsys.readouterr().err
