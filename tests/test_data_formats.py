"""The readers of labelling tools' files: the same ground truth comes back from each layout."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.config import DataConfig, make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.check import check_data
from mxrcnn.data.check.report import table
from mxrcnn.data.coco import load_coco
from mxrcnn.data.records import DataError, Dataset
from mxrcnn.data.voc import load_voc
from symnet.geometry.masks import decode
from tests.broken_formats import WRITERS, small
from tests.factories import noise
from tests.layouts import LAYOUTS, first_images, images_apart


def opened(kind: str, root: Path, imageset: str = "all", **settings) -> Dataset:
    return open_dataset(DataConfig(dataset=kind, root=str(root), **settings), imageset)


@pytest.fixture(scope="module")
def cells(shared_data) -> Dataset:
    """Twelve of BCCD's images, the last one without objects."""
    dataset = first_images(load_voc(shared_data / "bccd", "2007_train"), 12)
    *most, last = dataset.records
    names = ("boxes", "classes", "crowd", "difficult", "truncated", "areas")
    last = replace(last, **{name: getattr(last, name)[:0] for name in names})
    return replace(dataset, records=(*most, last))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_ground_truth_from_each_layout(cells, layout, tmp_path):
    kind, imageset, write, rounding = LAYOUTS[layout]
    tmp_path = tmp_path / "data"
    write(cells, tmp_path)
    apart = str(images_apart(tmp_path)) if images_apart(tmp_path).exists() else ""
    found = opened(kind, tmp_path, imageset, images=apart)
    assert found.class_names == cells.class_names
    assert found.notes.lines() == []
    records = {record.path.name: record for record in found.records}
    assert len(records) == len(found) == 12
    for wanted in cells.records:
        record = records[wanted.path.name]
        assert (record.height, record.width) == (wanted.height, wanted.width)
        assert record.classes.tolist() == wanted.classes.tolist()
        np.testing.assert_allclose(record.boxes, wanted.boxes, rtol=0, atol=rounding)
        if kind != "coco":
            assert record.image_id == wanted.path.stem


@pytest.mark.parametrize("layout", ["yolo", "labelme", "cvat"])
def test_polygons_become_masks(shared_data, layout, tmp_path):
    fruits = first_images(load_coco(shared_data / "fruits_nuts/trainval.json"), 2)
    kind, imageset, write, _ = LAYOUTS[layout]
    write(fruits, tmp_path)
    found = opened(kind, tmp_path, imageset, masks=True, class_names=fruits.class_names)
    for record, wanted in zip(found.records, sorted(fruits.records, key=lambda r: r.path.stem)):
        size = wanted.height, wanted.width
        assert len(record) == len(wanted) > 0
        for i in range(len(wanted)):
            ours, theirs = decode(record.masks[i], *size), decode(wanted.masks[i], *size)
            assert (ours & theirs).sum() > 0.97 * (ours | theirs).sum()
            assert record.areas[i] == pytest.approx(theirs.sum(), rel=0.05)


def words(root: Path, **files: str) -> Path:
    """A folder with two images and these text files; __ is a slash, _ before the ending a dot."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, stem in enumerate("ab"):
        noise((48, 64), seed=seed).save(root / f"{stem}.png")
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [dog, 'a, cat']", ("dog", "a, cat")),
        ('names:\n- dog\n- "cat"  # two', ("dog", "cat")),
        ("names:\n  - dog\n  - it''s", ("dog", "it''s")),
        ("names: {0: dog, 1: cat}", ("dog", "cat")),
        ("names:\n  1: cat\n  0: traffic light", ("traffic light", "cat")),
        ("---\n# hello\nnc: 2\nnames: ['it''s',\n  \"b\\u00e4r\"]", ("it's", "bär")),
        ("\ufeffnames: [no, 1]\nroboflow:\n  url: http://x/y\n  a: {b: c}", ("no", "1")),
    ],
)
def test_names_in_data_yaml(tmp_path, text, names):
    root = words(tmp_path, data_yaml=f"{text}\ntrain: .\n", a_txt="0 .5 .5 .5 .5\r\n")
    noise((48, 64)).save(root / "a.png")
    dataset = opened("yolo", root)
    assert dataset.class_names == names
    assert dataset.notes.lines() == ["1 images have no label file, and so no objects"]
    assert dataset.records[0].boxes.tolist() == [[16, 12, 48, 36]]


def test_paths_of_data_yaml_that_lead_elsewhere(tmp_path):
    """Roboflow writes ../train/images; only what is in the folder is read, and that is said."""
    root = tmp_path / "here"
    words(root / "train/images", x_txt="")
    (root / "train/images/x.txt").unlink()
    (root / "train/labels").mkdir()
    (root / "train/labels/a.txt").write_text("1 .5 .5 1 1\n")
    (root / "data.yaml").write_text("train: ../train/images\nnames: [dog, cat]\n")
    dataset = opened("yolo", root, "train")
    assert dataset.records[0].classes.tolist() == [2]
    assert "1 path of data.yaml was read as train/images here" in dataset.notes.lines()


def test_folders_inside_that_of_data_yaml(tmp_path):
    """As Ultralytics reads them; but a folder that is another image set is no part of this one."""
    for folder in ("images", "images/day 1", "images/val/x", "images/.trash"):
        words(tmp_path / folder)
        words(tmp_path / folder.replace("images", "labels"), a_txt="0 .5 .5 1 1\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: [images/val/x]\nnames: [dog]\n")
    train, val = (opened("yolo", tmp_path, name) for name in ("train", "val"))
    ids = ["images/a.png", "images/b.png", "images/day 1/a.png", "images/day 1/b.png"]
    assert [record.image_id for record in train.records] == ids
    assert [len(record) for record in train.records] == [1, 0, 1, 0]
    assert [record.image_id for record in val.records] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        *((kind, WRITERS[kind].target) for kind in WRITERS),
        ("yolo", "data.yaml"),
        ("coco", "labels.json"),
        ("voc", "ImageSets/Main/labels.txt"),
    ],
)
def test_a_file_is_not_larger_than_its_limit(kind, file, tmp_path):
    """The files are sparse, so they take no room; they are refused before they are read."""
    path = tmp_path / "data" / file
    if kind in WRITERS:
        small(kind, tmp_path)
    else:
        path.parent.mkdir(parents=True)
        path.touch()
    limit = {"coco": 8 << 30, "csv": 8 << 30, "cvat": 1 << 30}.get(kind, 256 << 20)
    os.truncate(path, limit + 1)
    names = {"imageset": WRITERS[kind].imageset if kind in WRITERS else "labels"}
    with pytest.raises(DataError, match=rf"{path.name}: .* over the limit of {limit >> 20} MiB"):
        opened(kind, tmp_path / "data", **names)


def test_images_that_are_not_labelled_yet(tmp_path):
    root = words(tmp_path, a_json='{"shapes": []}')
    with pytest.raises(DataError, match="no class names"):
        opened("labelme", root)
    dataset = opened("labelme", root, class_names=("dog",))
    assert [len(record) for record in dataset.records] == [0]
    assert dataset.notes.lines() == ["1 images have no .json file and were left out"]


def test_shapes_that_are_no_boxes_are_counted(tmp_path):
    shape = '{"label": "dog", "shape_type": "%s", "points": [[30, 20], [33, 24]]}'
    kinds = ", ".join(shape % kind for kind in ("circle", "line", "line", "rectangle"))
    dataset = opened("labelme", words(tmp_path, a_json=f'{{"shapes": [{kinds}]}}'))
    assert dataset.records[0].boxes.tolist() == [[25, 15, 35, 25], [30, 20, 33, 24]]
    assert dataset.notes.counted["circles were read as their boxes"] == 1
    assert dataset.notes.counted["shapes that are a line were left out"] == 2
    config = override(make_config(), {"data.dataset": "labelme", "data.root": str(tmp_path)})
    report = table(check_data(config, ["all"]))
    assert "all: 2 shapes that are a line were left out" in report


def test_polygons_of_a_group_are_one_object(tmp_path):
    """Of the same label and group_id; without a group_id each is an object."""
    kind = '{"label": "%s", "group_id": %s, "points": [[%d, 5], [%d, 5], [9, 9]]}'
    parts = [("dog", "1", 5, 9), ("dog", "1", 15, 20), ("cat", "1", 5, 9), ("dog", "null", 5, 9)]
    shapes = ", ".join(kind % part for part in parts)
    dataset = opened("labelme", words(tmp_path, a_json=f'{{"shapes": [{shapes}]}}'))
    record = dataset.records[0]
    assert record.boxes.tolist() == [[5, 5, 20, 9], [5, 5, 9, 9], [5, 5, 9, 9]]
    assert [len(mask) for mask in record.masks] == [2, 1, 1]
    assert record.areas.tolist() == [8 + 10, 8, 8]


def test_rotated_boxes_of_cvat(tmp_path):
    box = '<box label="dog" xtl="20" ytl="20" xbr="40" ybr="30" rotation="%s"/>'
    text = f'<image name="a.png" width="64" height="48">{box % 90}{box % 0}<points label="x"/>'
    root = words(tmp_path, cvat_xml=f"<annotations>{text}</image></annotations>")
    dataset = opened("cvat", root, "cvat")
    np.testing.assert_allclose(dataset.records[0].boxes, [[25, 15, 35, 35], [20, 20, 40, 30]])
    assert sorted(dataset.notes.lines()) == [
        "1 rotated boxes became the upright boxes around them",
        "1 shapes <points> were left out",
    ]


def test_several_image_sets(cells, tmp_path):
    """Joined by +; images with the same name in two folders get their folders' names."""
    for name in ("train", "val"):
        LAYOUTS["labelimg"][2](first_images(cells, 2), tmp_path / name)
    dataset = opened("labelimg", tmp_path, "train+val")
    names = [record.path.name for record in first_images(cells, 2).records]
    assert [r.image_id for r in dataset.records] == [
        f"{s}/{n}" for s in ("train", "val") for n in names
    ]
    with pytest.raises(DataError, match="a second time"):
        opened("labelimg", tmp_path, "train+train")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_inputs_that_are_then_broken_are_good(kind, tmp_path):
    small(kind, tmp_path)
    dataset = opened(kind, tmp_path / "data", WRITERS[kind].imageset)
    assert len(dataset) == 2
    assert dataset.notes.lines() == []
    assert dataset.records[0].boxes[0].tolist() == [16, 12, 48, 36]
