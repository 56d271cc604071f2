"""The synthetic data set: reproducible, consistent, complete or absent."""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

import mxrcnn.data as data_package
from mxrcnn import files
from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset, synthetic
from mxrcnn.data.coco import load_coco, resolve_coco
from mxrcnn.data.images import read_image
from mxrcnn.data.records import DataError
from mxrcnn.data.synthetic import LARGEST, MARKER, SHAPES, ensure_synthetic, write_synthetic
from mxrcnn.data.transforms import load_sample
from mxrcnn.data.voc import load_voc
from symnet.geometry.masks import unpack

NUMBER = 120
SMALL = {"num_train": 3, "num_test": 2, "size": (64, 80), "seed": 5}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("drawn") / "set", NUMBER, seed=3)


@pytest.fixture(scope="module")
def voc(drawn):
    return load_voc(drawn, "2007_train", SHAPES)


@pytest.fixture(scope="module")
def coco(drawn):
    return load_coco(*resolve_coco(drawn, "train"))


def digests(root):
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_voc_and_coco_agree(voc, coco):
    assert coco.class_names == voc.class_names == SHAPES
    assert len(voc) == len(coco) == NUMBER
    assert voc.notes.lines() == coco.notes.lines() == []
    for a, b in zip(voc.records, coco.records):
        assert a.path == b.path
        assert (a.height, a.width) == (b.height, b.width) == (192, 256)
        for field in ("boxes", "classes", "difficult"):
            assert getattr(a, field).tolist() == getattr(b, field).tolist()


def test_auto_classes_are_the_shapes(drawn):
    assert load_voc(drawn, "2007_train").class_names == SHAPES


def test_boxes_and_areas_are_those_of_the_masks(coco):
    for record in coco.records:
        for box, area, mask in zip(record.boxes, record.areas, record.masks):
            y, x = np.nonzero(rle.decode(mask))
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert area == len(x)


def test_masks_do_not_overlap_and_match_the_segmentation_picture(drawn, coco):
    for record in coco.records[:20]:
        numbers = np.zeros((record.height, record.width), int)
        for number, mask in enumerate(record.masks, start=1):
            bitmap = rle.decode(mask).astype(bool)
            assert not numbers[bitmap].any()
            numbers[bitmap] = number
        picture = Image.open(drawn / f"VOC2007/SegmentationObject/{record.path.stem}.png")
        assert (np.asarray(picture) == numbers).all()


def test_objects_are_varied_but_fair(coco):
    objects = Counter(len(r) for r in coco.records)
    assert set(objects) == set(range(synthetic.MAX_OBJECTS + 1))
    assert 0 < objects[0] < 0.15 * NUMBER
    classes = np.bincount(np.concatenate([r.classes for r in coco.records]), minlength=6)[1:]
    assert classes.min() > 0.6 * classes.mean()
    sides = np.concatenate([r.boxes[:, 2:] - r.boxes[:, :2] for r in coco.records]).max(axis=1)
    assert sides.max() <= LARGEST + 2
    assert np.percentile(sides, 5) >= 20
    assert np.percentile(sides, 90) - np.percentile(sides, 10) > 40


def test_objects_stand_out_from_the_ground(coco):
    gaps = []
    for record in coco.records:
        pixels = read_image(record.path).astype(float)
        masks = [rle.decode(mask).astype(bool) for mask in record.masks]
        ground = pixels[~np.any(masks, axis=0)] if masks else pixels
        gaps += [np.linalg.norm(pixels[m].mean(axis=0) - ground.mean(axis=0)) for m in masks]
    assert np.percentile(gaps, 2) > 60


def test_each_class_has_its_hue_in_many_shades(coco):
    hues, values = {k: [] for k in range(1, 6)}, []
    for record in coco.records:
        pixels = read_image(record.path)
        for k, mask in zip(record.classes, record.masks):
            colour = pixels[rle.decode(mask).astype(bool)].mean(axis=0) / 255
            hue, _, value = colorsys.rgb_to_hsv(*colour)
            hues[k].append(np.exp(2j * np.pi * hue))
            values.append(value)
    for k, turns in hues.items():
        assert abs(np.mean(turns) - np.exp(2j * np.pi * (k - 1) / 5)) < 0.25
    assert np.std(values) > 0.1


def test_mostly_covered_objects_are_difficult():
    def share(full, seen):
        return seen.sum() / full.sum()

    difficult = 0
    for index in range(300):
        rng = np.random.default_rng(index)
        synthetic._draw_ground(rng, (96, 128))  # draws first, from the same generator
        full = [s.mask for s in synthetic._place_shapes(rng, (96, 128))]
        scene = synthetic._draw_scene(np.random.default_rng(index), (96, 128))
        assert len(full) == len(scene.masks)
        shares = [share(f, seen) for f, seen in zip(full, scene.masks)]
        assert scene.difficult == [s < synthetic.DIFFICULT_BELOW for s in shares]
        assert min(shares, default=1) >= synthetic.LOOSE_LIMIT
        difficult += sum(scene.difficult)
    assert difficult > 0


def test_truncated_objects_touch_the_edge(voc):
    truncated = 0
    for record in voc.records:
        for box in record.boxes[record.truncated]:
            assert min(box[0], box[1], record.width - box[2], record.height - box[3]) <= 1
        truncated += record.truncated.sum()
    assert truncated > 0


def test_same_seed_same_files(tmp_path):
    first = write_synthetic(tmp_path / "a", 4, seed=1, size=(64, 80))
    again = write_synthetic(tmp_path / "b", 4, seed=1, size=(64, 80))
    assert len(digests(first)) == 4 * 3 + 2
    assert digests(first) == digests(again)


def test_seed_split_and_index_draw_anew_and_number_does_not(tmp_path):
    small = write_synthetic(tmp_path / "a", 3, seed=1, size=(64, 80))
    write_synthetic(small, 3, seed=1, split="test", size=(64, 80))
    large = write_synthetic(tmp_path / "b", 5, seed=1, size=(64, 80))
    other = write_synthetic(tmp_path / "c", 3, seed=2, size=(64, 80))
    pictures = [p.read_bytes() for p in (small / "VOC2007/JPEGImages").iterdir()]
    pictures += [p.read_bytes() for p in (other / "VOC2007/JPEGImages").iterdir()]
    assert len(set(pictures)) == 9
    for name in ("JPEGImages/train_000003.jpg", "Annotations/train_000003.xml"):
        assert (small / "VOC2007" / name).read_bytes() == (large / "VOC2007" / name).read_bytes()


def test_a_split_is_not_overwritten(drawn):
    with pytest.raises(DataError, match=r"train\.txt: exists already"):
        write_synthetic(drawn, 1, seed=4)


@pytest.mark.parametrize(
    "wrong", [{"num_images": 0}, {"size": (63, 100)}, {"split": "../x"}, {"split": ""}]
)
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"need|plain word"):
        write_synthetic(tmp_path / "x", **{"num_images": 1, "seed": 0, **wrong})
    assert not (tmp_path / "x").exists()


# Training with masks


@pytest.mark.parametrize("dataset", ["coco", "synthetic"])
def test_masks_are_loaded_by_either_name(tmp_path, monkeypatch, dataset):
    """`--dataset coco --data-root data/synthetic`, and the synthetic set itself."""
    root = ensure_synthetic(tmp_path / "set", **SMALL)
    monkeypatch.setattr(
        data_package, "ensure_synthetic", lambda root: ensure_synthetic(root, **SMALL)
    )
    data = DataConfig(dataset=dataset, root=str(root), masks=True, short_side=128, long_side=0)
    prefix = "2007_" if dataset == "synthetic" else ""
    assert len(open_dataset(data, f"{prefix}test")) == 2
    both = open_dataset(data, f"{prefix}train+{prefix}test")
    assert both.class_names == SHAPES
    assert {r.active_classes for r in both.records} == {None}
    assert len(both) == 5
    assert sum(map(len, both.records)) > 0
    for record in both.records:
        sample = load_sample(record, data)
        for mask, box in zip(unpack(sample.gt_masks, sample.size[1]), sample.gt_boxes):
            y, x = np.nonzero(mask)
            assert box[:4].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    plain = open_dataset(replace(data, dataset="synthetic", masks=False), "2007_train")
    assert {r.masks for r in plain.records} == {None}


# ensure_synthetic


def test_ensure_writes_once(tmp_path):
    root = ensure_synthetic(tmp_path / "new" / "set", **SMALL)
    assert root == tmp_path / "new" / "set"
    assert [len(load_voc(root, f"2007_{split}")) for split in ("train", "test")] == [3, 2]
    assert [len(load_coco(*resolve_coco(root, split))) for split in ("train", "test")] == [3, 2]
    assert [path.name for path in root.parent.iterdir()] == ["set"]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    ensure_synthetic(root, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_ensure_fills_an_empty_folder(tmp_path):
    assert (ensure_synthetic(tmp_path, **SMALL) / MARKER).is_file()


@pytest.mark.parametrize(
    "change", [{"num_train": 4}, {"num_test": 3}, {"size": (80, 64)}, {"seed": 6}]
)
def test_ensure_refuses_other_parameters(tmp_path, change):
    root = ensure_synthetic(tmp_path / "set", **SMALL)
    before = digests(root)
    with pytest.raises(DataError, match="other parameters"):
        ensure_synthetic(root, **{**SMALL, **change})
    assert digests(root) == before


def test_ensure_refuses_other_versions(tmp_path):
    root = ensure_synthetic(tmp_path / "set", **SMALL)
    marker = json.loads((root / MARKER).read_text())
    (root / MARKER).write_text(json.dumps({**marker, "version": marker["version"] - 1}))
    with pytest.raises(DataError, match="other parameters"):
        ensure_synthetic(root, **SMALL)


@pytest.mark.parametrize(("name", "text"), [("mine.txt", "hello"), (MARKER, "{")])
def test_ensure_leaves_other_folders_alone(tmp_path, name, text):
    root = tmp_path / "set"
    root.mkdir()
    (root / name).write_text(text)
    with pytest.raises(DataError, match=r"no synthetic|broken marker"):
        ensure_synthetic(root, **SMALL)
    assert [path.name for path in root.iterdir()] == [name]
    assert (root / name).read_text() == text


def test_ensure_refuses_a_file(tmp_path):
    (tmp_path / "set").write_text("")
    with pytest.raises(DataError, match="no synthetic"):
        ensure_synthetic(tmp_path / "set", **SMALL)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "_append_coco", stop)
        with pytest.raises(KeyboardInterrupt):
            ensure_synthetic(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert len(load_voc(ensure_synthetic(tmp_path / "set", **SMALL), "2007_train")) == 3


@pytest.mark.parametrize("same", [True, False])
def test_another_process_may_be_faster(tmp_path, monkeypatch, same):
    """Its folder is used if it is the same, and never overwritten."""
    root = tmp_path / "set"
    rename = files.os.rename

    def late(whole, target):
        monkeypatch.setattr(files.os, "rename", rename)
        ensure_synthetic(target, **(SMALL if same else {**SMALL, "seed": 9}))
        rename(whole, target)

    monkeypatch.setattr(files.os, "rename", late)
    if same:
        ensure_synthetic(root, **SMALL)
    else:
        with pytest.raises(DataError, match="other parameters"):
            ensure_synthetic(root, **SMALL)
    assert json.loads((root / MARKER).read_text())["seed"] == (5 if same else 9)
    assert list(tmp_path.iterdir()) == [root]
