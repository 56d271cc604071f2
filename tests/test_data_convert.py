"""`mxrcnn data convert`: image sets, names, links, what is lost, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.cli import main
from mxrcnn.config import DataConfig
from mxrcnn.data.convert import convert, layouts, read_source
from mxrcnn.data.detect import detect
from mxrcnn.data.records import DataError
from tests.broken_formats import small
from tests.factories import Picture, make_voc, noise

DOG, CAT = ("dog", 10, 20, 50, 60), ("cat", 0, 0, 100, 80)
POLYGON, BOX = [10, 10, 40, 10, 20, 30], [10, 10, 30, 20]
RLE = {"size": [80, 100], "counts": [800, 7200]}


@pytest.fixture
def voc(tmp_path) -> Path:
    """Two years, with train, val and trainval, and no cat in val."""
    root = tmp_path / "voc"
    make_voc(root, {"a": Picture(objects=[DOG, CAT]), "b": Picture(objects=[])}, "trainval")
    folder = root / "VOC2007/ImageSets/Main"
    (folder / "train.txt").write_text("a\n")
    (folder / "val.txt").write_text("b\n")
    make_voc(root, {"a": Picture(objects=[DOG], ending=".PNG")}, "train", "2012")
    return root


def source_of(path: Path, imagesets=(), **settings):
    return read_source(detect(path), DataConfig(**settings), imagesets)


def coco_set(root: Path, *annotations: dict, files=("a.jpg",), names=("cat", "dog")) -> Path:
    """A COCO file with these annotations of the first image, in class 1 unless they say another."""
    root.mkdir()
    for seed, file in enumerate(files):
        (root / file).parent.mkdir(exist_ok=True)
        noise((80, 100), seed=seed).save(root / file)
    images = [{"id": i, "file_name": f, "height": 80, "width": 100} for i, f in enumerate(files, 1)]
    base = {"image_id": 1, "category_id": 1, "bbox": BOX}
    document = {
        "images": images,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "annotations": [{"id": i, **base, **entry} for i, entry in enumerate(annotations, 1)],
    }
    (root / "labels.json").write_text(json.dumps(document))
    return root


def test_image_sets_carry_over(voc, tmp_path):
    """2007 and 2012 have a train each, so names keep their year; YOLO joins them."""
    source = source_of(voc)
    assert list(source.sets) == ["2007_train", "2007_trainval", "2007_val", "2012_train"]
    for form, sets in (
        ("coco", {"2007_train": (1, 2), "2007_trainval": (2, 2), "2007_val": (1, 0)}),
        ("voc", {"2007_train": (1, 2), "2007_trainval": (2, 2), "2007_val": (1, 0)}),
        ("yolo", {"train": (2, 3), "val": (1, 0)}),
    ):
        made = convert(source, tmp_path / "new" / form, form)
        assert made.sets == (sets if form == "yolo" else {**sets, "2012_train": (1, 1)})
        files = sorted(
            p.name for p in (tmp_path / "new" / form).rglob("*") if p.suffix in (".jpg", ".png")
        )
        same = ["VOC2007_JPEGImages_a.jpg", "VOC2012_JPEGImages_a.png", "b.jpg"]
        assert files == same, "names that two images share have their folders in front"
        assert source_of(tmp_path / "new" / form).class_names == ("cat", "dog")
    assert made.lost == (
        "train is image set 2007_train and 2012_train",
        "val is image set 2007_val",
        "image set 2007_trainval is not written: its images are in train, val",
        "2 images have another file name",
    )
    one = source_of(voc, ["2007_train", "2007_val"])
    assert list(one.sets) == ["train", "val"]
    assert one.class_names == ("cat", "dog")
    odd = {**one.sets, "odd": source.sets["2012_train"]}
    with pytest.raises(DataError, match="image set odd is neither train, val nor test"):
        convert(replace(one, sets=odd), tmp_path / "odd", "yolo")


def test_image_sets_with_other_classes_and_images_in_common(tmp_path):
    """Classes are those of all image sets; what an image loses is counted once."""
    objects = [("dog", 10.25, 20, 50, 60), ("dog", 5, 5, 5, 9), ("cat", 1, 1, 9, 9)]
    make_voc(tmp_path / "in", {"a": Picture(objects=objects)}, "train")
    make_voc(tmp_path / "in", {"b": Picture()}, "val")
    (tmp_path / "in/VOC2007/ImageSets/Main/trainval.txt").write_text("a\nb\n")
    source = source_of(tmp_path / "in")
    assert source.class_names == ("cat", "dog")
    assert source.sets["val"][0].classes.tolist() == [2]
    assert source.notes.lines() == ["1 boxes were empty or inverted and were dropped"]
    lost = convert(source, tmp_path / "out", "voc").lost
    assert lost == ("1 boxes have moved, by at most 0.25 pixels",)


def test_classes_keep_their_order_and_coco_its_ids(tmp_path):
    root = coco_set(
        tmp_path / "in", {"category_id": 2}, {"category_id": 3}, names="zebra ant cow".split()
    )
    source = source_of(root)
    for form in layouts.LAYOUTS:
        assert convert(source, tmp_path / form, form).lost[:1] in (
            (),
            ("train is image set labels",),
        )
        assert source_of(tmp_path / form).class_names == ("zebra", "ant", "cow")
    source = source_of(coco_set(tmp_path / "two", {"category_id": 2}, {}, names=("x:", "a", "b")))
    lost = convert(source, tmp_path / "voc2", "voc").lost
    assert lost == (
        "1 classes without objects are lost: b",
        "the order of classes is lost; it was x:, a, b",
    )
    given = source_of(root, class_names=("cow", "zebra"))
    convert(given, tmp_path / "given", "coco")
    assert source_of(tmp_path / "given").class_names == ("cow", "zebra")


@pytest.mark.parametrize(
    ("entry", "form", "lost"),
    [
        ({"iscrowd": 1}, "coco", []),
        ({"iscrowd": 1}, "voc", ["1 crowd regions became difficult objects"]),
        ({"iscrowd": 1}, "yolo", ["1 crowd regions were left out"]),
        ({"ignore": 1}, "voc", []),
        ({"ignore": 1}, "yolo", ["1 objects are no longer marked as difficult"]),
        ({"segmentation": [POLYGON]}, "coco", []),
        ({"segmentation": [POLYGON]}, "voc", ["1 masks (polygons) were left out"]),
        ({"segmentation": [POLYGON]}, "yolo", ["1 masks (polygons) were left out"]),
        ({"segmentation": [POLYGON]}, "polygons", []),
        ({"segmentation": [POLYGON] * 2}, "polygons", ["1 masks (polygons) became their boxes"]),
        ({"segmentation": RLE}, "yolo", ["1 masks (RLE) were left out"]),
        ({"segmentation": RLE}, "polygons", ["1 masks (RLE) became their boxes"]),
        ({}, "polygons", ["1 masks (none) became their boxes"]),
        (
            {"segmentation": [POLYGON], "bbox": [10, 9, 30, 21]},
            "polygons",
            ["1 boxes have moved, by at most 1 pixels"],
        ),
        (
            {"bbox": [10.25, 10, 30, 20]},
            "voc",
            ["1 boxes have moved, by at most 0.25 pixels"],
        ),
        ({"bbox": [10.25, 10, 30, 20]}, "yolo", []),
        (
            {"bbox": [10, 10, 1, 20]},
            "voc",
            ["1 boxes a pixel wide or high are written, but dropped by mxrcnn as stray clicks"],
        ),
        ({"bbox": [10, 10, 1, 20]}, "yolo", []),
    ],
)
def test_what_is_lost_is_counted(tmp_path, entry, form, lost):
    source = source_of(coco_set(tmp_path / "in", {}, entry, {"category_id": 2}))
    if form == "polygons":
        boxes = source.sets["labels"][0].boxes[1:2]
        source = _only(source, 1)
        made = convert(source, tmp_path / "out", "yolo", polygons=True)
        if not lost:
            (record,) = source_of(tmp_path / "out").sets["train"]
            np.testing.assert_allclose(record.masks[0], [POLYGON])
            np.testing.assert_array_equal(record.boxes, boxes)
    else:
        made = convert(source, tmp_path / "out", form)
    told = [line for line in made.lost if "train is" not in line]
    assert told == lost


def _only(source, i: int):
    """The source with object i of its image."""
    (record,) = source.sets["labels"]
    names = "boxes classes crowd difficult truncated areas".split()
    fields = {name: getattr(record, name)[i : i + 1] for name in names}
    masks = None if record.masks is None else record.masks[i : i + 1]
    return replace(source, sets={"labels": (replace(record, **fields, masks=masks),)})


@pytest.mark.parametrize("form", layouts.LAYOUTS)
def test_links(voc, tmp_path, form, monkeypatch):
    source = source_of(voc)
    inode = (voc / "VOC2007/JPEGImages/b.jpg").stat().st_ino
    for how, link, name in (("copies", False, "c"), ("hard links", True, "h")):
        made = convert(source, tmp_path / name, form, link)
        (image,) = (tmp_path / name).rglob("b.jpg")
        assert made.images == f"3 {how}"
        assert (image.stat().st_ino == inode) == link
        assert not image.is_symlink()

    def another_disk(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    assert convert(source, tmp_path / "s", form, True).images == "3 symbolic links"
    assert source_of(tmp_path / "s").sets.keys() >= {"train"} or form != "yolo"


def test_whole_or_not_there(voc, tmp_path, monkeypatch):
    source = source_of(voc)
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="out: is there already: give a new or an empty folder"):
        convert(source, target, "coco")
    with pytest.raises(DataError, match="is there already"):
        convert(source, target / "mine.txt", "coco")
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    (target / "mine.txt").unlink()

    def full(*paths):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            convert(source, target, "yolo")
    assert not any(target.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "voc"]
    convert(source, target, "yolo")  # an empty folder is taken
    assert (target / "data.yaml").is_file()


@pytest.mark.parametrize(
    ("files", "names", "form", "message"),
    [
        (("a.jpg", "a.png"), ("cat", "dog"), "voc", "a.png: would get the same name as .*a.jpg"),
        (("a/b_c.jpg", "a_b/c.jpg", "c.jpg", "b_c.jpg"), ("cat", "dog"), "yolo", "the same name"),
        (("a.gif",), ("cat", "dog"), "voc", "a.gif: its ending is none of .jpg, .jpeg, .png, .bmp"),
        ((" a.jpg",), ("cat", "dog"), "voc", "blanks at an end"),
        (("classes.jpg", "a.jpg"), ("cat", "dog"), "yolo", "would not be read back as classes.jpg"),
        (("a.jpg",), ("dog", " cat"), "voc", "class ' cat' cannot be a name in VOC's XML"),
        (("a.jpg",), ("dog", "c\x01t"), "voc", "cannot be a name in VOC's XML"),
        (("a.jpg",), ("dog", "c\nt"), "yolo", "cannot be a name in YOLO's data.yaml"),
    ],
)
def test_names_that_a_form_cannot_hold(tmp_path, files, names, form, message):
    source = source_of(coco_set(tmp_path / "in", {}, files=files, names=names))
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "old", "new", "unread"),
    [
        ("labelimg", "<bndbox>", "<pose>Left</pose><occluded>0</occluded><bndbox>", {"pose": 2}),
        (
            "labelme",
            '"shape_type"',
            '"flags": {"a": true}, "mask": null, "shape_type"',
            {"flags": 4},
        ),
        ("csv", "ymax\n", "ymax,score\n", {"column score": 2}),
        (
            "cvat",
            'ybr="36.0"/>',
            'ybr="36.0" occluded="1"><attribute name="age">5</attribute></box>',
            {"occluded": 2, "attribute age": 2},
        ),
    ],
)
def test_fields_that_are_not_read_are_counted(kind, old, new, unread, tmp_path):
    small(kind, tmp_path)
    for path in (tmp_path / "data").rglob("*"):
        if path.suffix in (".xml", ".json", ".csv"):
            text = path.read_text().replace(old, new)
            path.write_text(text.replace(",36\n", ",36,1\n") if kind == "csv" else text)
    assert source_of(tmp_path / "data").notes.unread == unread
    root = coco_set(tmp_path / "coco", {"keypoints": [1, 1, 2], "attributes": {}, "id": 0})
    assert source_of(root).notes.unread == {"keypoints": 1}


def test_image_sets_that_disagree(tmp_path):
    """Two COCO files of the same image: VOC has one annotation for it."""
    root = coco_set(tmp_path / "in", {})
    text = (root / "labels.json").read_text()
    (root / "other.json").write_text(text.replace("[10, 10, 30, 20]", "[10, 10, 30, 21]"))
    source = source_of(root)
    with pytest.raises(DataError, match="has other objects in image set other than in labels"):
        convert(source, tmp_path / "out", "voc")
    convert(source, tmp_path / "out", "coco")
    sets = source_of(tmp_path / "out").sets
    assert [sets[name][0].boxes[0, 3] for name in ("labels", "other")] == [30, 31]
    (root / "labels_2.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"categories is missing.*; --imageset A,B chooses"
    ) as error:
        source_of(root, ["labels.json", "labels_2.json"])
    assert "labels_2.json" in str(error.value)


def test_the_command(voc, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["data", "convert", str(voc), str(out), "--to", "yolo", "--imageset", "2007_train"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{voc}: {detect(voc)}",
        f"{out}: yolo, 2 classes, 1 copies",
        "  train: 1 images, 2 objects",
        "nothing was lost",
        f"train on it: mxrcnn train --data {out}",
    ]
    for more, message in (
        (["--polygons", "--to", "voc"], "--polygons is for --to yolo"),
        (["--set", "lr=1"], "--set train.lr: only data.class_names"),
        ([], "is there already"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
