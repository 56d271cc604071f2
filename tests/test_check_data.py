"""Checking a data set: every kind of fault is found, and the anchors' coverage is exact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mxrcnn.config import make_config, override, parse_settings
from mxrcnn.data.check import check_data, twins
from mxrcnn.data.check.anchors import best_overlaps, coverage
from mxrcnn.data.check.faults import KINDS
from mxrcnn.data.check.objects import Objects, network_objects
from mxrcnn.data.check.pictures import draw_check
from mxrcnn.data.check.reach import find_reach, point_reach
from mxrcnn.data.check.report import table, to_json
from mxrcnn.data.check.suggest import kmeans, suggest
from mxrcnn.data.check.twins import fingerprint
from symnet import get_detector, list_detectors
from symnet.geometry.boxes import iou
from symnet.geometry.targets import candidate_anchors
from tests.conftest import REPO
from tests.factories import Picture, make_record, make_voc, noise, truncate


def config_of(network: str = "faster_rcnn_vgg16", **settings: object):
    small = {"data.short_side": 100, "data.long_side": 200, "data.dataset": "voc"}
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return override(make_config(network), {**small, **named})


def photo(size: tuple[int, int] = (80, 100), seed: int = 0) -> Image.Image:
    """A picture with large shapes, like a photo: unlike noise it survives resizing."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size[::-1], Image.Resampling.BICUBIC)


# Anchors


def objects_of(boxes, size, padded) -> Objects:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    sizes = (np.tile(side, (count, 1)) for side in (size, padded))
    none = np.zeros(count, np.int64)
    return Objects(boxes, none, *sizes, none)


def some_boxes(rng: np.random.Generator, size: tuple[int, int], count: int = 40) -> np.ndarray:
    limit = np.array(size[::-1])
    corners = rng.uniform(0, 1, (count, 2, 2)) * limit
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes[:, 2:] = np.minimum(boxes[:, 2:] + 1, limit)
    return boxes


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((200, 300), (224, 320)),
        ((300, 200), (320, 224)),
        ((61, 500), (64, 512)),  # no anchor is inside: those that touch it count
        ((40, 40), (64, 64)),
        ((512, 512), (512, 512)),
    ],
)
@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("faster_rcnn_vgg16", {}),
        ("faster_rcnn_vgg16", {"model.anchor_scales": (1.3, 7.7), "model.anchor_ratios": (0.3,)}),
        ("faster_rcnn_r50v1_c4", {}),
        ("faster_rcnn_r50_fpn", {}),
        ("faster_rcnn_r50_fpn", {"model.form.anchor_form": "classic"}),
        ("faster_rcnn_r50_fpn", {"model.form.anchor_form": "last_pixel"}),
    ],
)
def test_the_best_overlap_is_that_of_all_anchors(network, size, padded, settings):
    """Compared with every anchor of the whole grid."""
    model = override(make_config(network), settings).model
    boxes = some_boxes(np.random.default_rng(0), size).astype(np.float32)
    if network == "faster_rcnn_vgg16":
        grid = model.anchors.grid(padded[0] // 16, padded[1] // 16)
        want = iou(grid[candidate_anchors(grid, *size)], boxes, 1).max(axis=0)
    else:
        want = iou(model.anchors.grid(*padded), boxes).max(axis=0)
    found = best_overlaps(model.anchors, objects_of(boxes, size, padded))
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("size", [(200, 300), (61, 500), (9, 9)])
@pytest.mark.parametrize("network", ["faster_rcnn_r50v1_c4", "mask_rcnn_r50_fpn"])
def test_forms_that_leave_out_anchors_across_the_border(network, size):
    """gluoncv's. In (61, 500) only small anchors are inside; in (9, 9) none, so all that touch."""
    model = override(make_config(network), get_detector(network).presets.get("gluoncv", {})).model
    padded = tuple(-(-side // 32) * 32 for side in size)
    boxes = some_boxes(np.random.default_rng(0), size).astype(np.float32)
    grid = model.anchors.grid(*padded)
    inside = grid[candidate_anchors(grid, *size)]
    objects = objects_of(boxes, size, padded)
    found = best_overlaps(model.anchors, objects, model.form.rpn_inside_only)
    np.testing.assert_allclose(found, iou(inside, boxes).max(axis=0), atol=1e-5)
    assert (found < best_overlaps(model.anchors, objects)).any() or size == (9, 9)


def test_coverage():
    assert coverage(np.array([0.1, 0.5, 0.6, 0.7])) == {"0.5": 0.75, "0.7": 0.25}
    assert all(np.isnan(share) for share in coverage(np.zeros(0)).values())


def test_kmeans_finds_groups():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(centre, 0.05, 50) for centre in (-3, 1, 2)])
    assert kmeans(values, 3) == pytest.approx([-3, 1, 2], abs=0.05)
    assert kmeans(np.ones(5), 3) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    "network", ["faster_rcnn_vgg16", "faster_rcnn_r50v1_c4", "faster_rcnn_r50_fpn"]
)
def test_suggested_anchors_fit_objects_that_are_all_alike(network):
    rng = np.random.default_rng(0)
    corners = rng.uniform(60, 200, (200, 2))
    boxes = np.concatenate([corners, corners + (240, 80)], axis=1)  # 3 times as wide as high
    objects = objects_of(boxes, (480, 640), (480, 640))
    model = make_config(network).model
    before = coverage(best_overlaps(model.anchors, objects))
    found = suggest(model, objects)
    after = coverage(found.overlaps)
    assert after["0.7"] > max(0.9, before["0.7"])
    assert after["0.5"] >= before["0.5"]
    lengths = {name: len(getattr(model, name)) for name in found.settings}
    assert {name: len(values) for name, values in found.settings.items()} == lengths
    config = override(make_config(network), parse_settings(found.words().split()))
    assert all(getattr(config.model, name) == values for name, values in found.settings.items())


def test_nothing_is_suggested_for_no_objects():
    none = objects_of([], (100, 100), (128, 128))
    model = make_config().model
    assert suggest(model, none) is None
    assert best_overlaps(model.anchors, none).shape == (0,)


def test_points_reach_what_lies_on_one():
    """Points of the first level are at multiples of 8: a box of 4 pixels may hold none."""
    model = make_config("fcos_r50_fpn").model
    boxes = [(40, 40, 60, 60), (17, 17, 21, 21), (10, 10, 500, 400)]
    reach = point_reach(model, objects_of(boxes, (512, 512), (512, 512)))
    assert reach.matched == pytest.approx(2 / 3)
    assert list(reach.levels) == [f"stride {2**k}" for k in range(3, 8)]
    assert sum(reach.levels.values()) == pytest.approx(1)
    assert reach.levels["stride 8"] == pytest.approx(2 / 3)  # sides of 128 and less
    assert reach.levels["stride 32"] == pytest.approx(1 / 3)


def test_objects_in_network_pixels():
    """Difficult objects and crowds are not trained, so no anchor has to cover them."""
    boxes = [(10, 20, 50, 60), (0, 0, 5, 5), (1, 1, 9, 9)]
    record = make_record(size=(50, 100), boxes=boxes, difficult=[0, 1, 0], crowd=[0, 0, 1])
    found = network_objects([record], ("cat", "dog"), ("dog",), config_of())
    assert found.boxes.tolist() == [[20, 40, 100, 120]]  # 100 x 200 pixels: twice as large
    assert found.size.tolist() == [[100, 200]]
    assert found.padded.tolist() == [[128, 224]]
    assert found.classes.tolist() == [1]


# Pictures that look the same


def test_fingerprints_survive_resizing_and_compression(tmp_path):
    original = photo((300, 400))
    original.resize((640, 480)).save(tmp_path / "a.jpg", quality=40)
    again = fingerprint(np.asarray(Image.open(tmp_path / "a.jpg")))
    first = fingerprint(np.asarray(original))
    assert (first != again).sum() <= twins.ALIKE / 3
    others = [fingerprint(np.asarray(photo((300, 400), seed))) for seed in range(1, 30)]
    assert min((first != other).sum() for other in others) > 2 * twins.ALIKE


def test_a_plain_picture_is_like_no_other():
    assert fingerprint(np.full((50, 60, 3), 7, np.uint8)) is None


# Faults


@pytest.fixture
def faulty(tmp_path) -> Path:
    """Two splits with one fault of each kind, or two."""
    dog = ("dog", 10, 20, 50, 60)
    shifted = [dog, ("cat", 10, 20, 50, 59.5), ("cat", 60, 20, 70, 60), ("cat", 60, 20, 70, 60)]
    pictures = {
        "good": Picture(objects=[dog, ("cat", 60, 20, 90, 60)]),
        "broken": Picture(),
        "no_xml": Picture(),
        "no_image": Picture(),
        "size": Picture(),
        "dropped": Picture(objects=[dog, ("dog", 50, 20, 10, 60)]),
        "clipped": Picture(objects=[("dog", 10, 20, 500, 60)]),
        "places": Picture(objects=shifted),
        "turned": Picture(),
        "empty": Picture(objects=[]),
        "twin": Picture(),
        "plain": Picture(),
    }
    root = make_voc(tmp_path / "voc", pictures, "train")
    make_voc(root, {"leaked": Picture(), "own": Picture()}, "test")
    voc = root / "VOC2007"
    for seed, stem in enumerate([*pictures, "own"]):
        photo(seed=seed).save(voc / f"JPEGImages/{stem}.jpg", quality=95)
    truncate(voc / "JPEGImages/broken.jpg")
    (voc / "Annotations/no_xml.xml").unlink()
    (voc / "JPEGImages/no_image.jpg").unlink()
    xml = voc / "Annotations/size.xml"
    xml.write_text(xml.read_text().replace("<width>100<", "<width>99<"))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(seed=50).save(voc / "JPEGImages/turned.jpg", exif=exif)
    photo(seed=0).resize((100, 80)).save(voc / "JPEGImages/twin.jpg", quality=60)
    photo(seed=7).save(voc / "JPEGImages/leaked.jpg", quality=50)  # "places"
    Image.new("RGB", (100, 80)).save(voc / "JPEGImages/plain.jpg")
    return root


@pytest.fixture
def checked(faulty):
    return check_data(config_of(data__root=str(faulty)), ["2007_train", "2007_test"], False)


def names(checked, kind: str) -> list[str]:
    return [Path(fault.file).stem for fault in checked.faults if fault.kind == kind]


def test_each_fault_is_found_and_nothing_else(checked):
    assert names(checked, "broken image") == ["broken"]
    unreadable = [fault.detail for fault in checked.faults if fault.kind == "unreadable"]
    assert len(unreadable) == 2
    assert "no_xml.xml: no such annotation file" in unreadable[0]
    assert "no_image.jpg: no such image" in unreadable[1]
    assert names(checked, "size mismatch") == ["size"]
    assert names(checked, "dropped") == ["dropped"]
    assert names(checked, "clipped") == ["clipped"]
    assert names(checked, "two classes") == names(checked, "same box twice") == ["places"]
    assert names(checked, "turned") == ["turned"]
    assert names(checked, "same image") == ["good"]
    assert names(checked, "leak") == ["places"]
    missing = [(f.split, f.detail) for f in checked.faults if f.kind == "class without objects"]
    assert missing == [("2007_test", "cat")]
    assert len(checked.faults) == 12


def test_the_faults_say_where_and_what(checked):
    by_kind = {fault.kind: fault for fault in checked.faults}
    assert by_kind["dropped"].box == (50, 20, 10, 60)
    assert by_kind["clipped"].box == (10, 20, 500, 60)
    assert by_kind["size mismatch"].detail == "annotated as 99 x 80 but is 100 x 80"
    assert by_kind["two classes"].detail.startswith("dog and cat at 10 20 50")
    assert Path(by_kind["leak"].other).stem == "leaked"
    assert "2007_test" in by_kind["leak"].detail


def test_counts(checked):
    counts = checked.counts["2007_train"]
    assert counts["images"] == 10
    assert counts["images without objects"] == 1
    assert counts["objects"] == 13
    assert counts["per class"] == {"dog": 9, "cat": 4}
    assert checked.counts["2007_test"]["per class"] == {"dog": 2}


def test_levels(checked, faulty):
    assert not checked.passed()
    config = config_of(data__root=str(faulty))
    fine = check_data(config, ["2007_test"], False)
    assert fine.faults == []
    assert fine.passed(strict=True)
    assert table(fine).endswith("no faults")
    (faulty / "VOC2007/ImageSets/Main/some.txt").write_text("good\nclipped\n")
    warned = check_data(config, ["2007_some"], False)
    assert {fault.level for fault in warned.faults} == {"warning"}
    assert warned.passed()
    assert not warned.passed(strict=True)


def test_table_and_json_tell_the_same(checked):
    text, report = table(checked), json.loads(to_json(checked))
    assert report["passed"] is False
    assert sum(report["fault_counts"].values()) == len(report["faults"]) == 12
    for kind, count in report["fault_counts"].items():
        level, what = KINDS[kind]
        assert f"{level}: {count} {what}" in text
    assert report["splits"]["2007_train"]["objects"] == 13
    assert [Path(p).stem for p in report["images_without_objects"]["2007_train"]] == ["empty"]
    assert f"{report['anchors']['coverage']['0.5']:.1%} of objects at IoU 0.5" in text


@pytest.mark.parametrize("network", ["faster_rcnn_vgg16", "mask_rcnn_r50_fpn", "fcos_r50_fpn"])
def test_pictures(checked, faulty, tmp_path, network):
    config = config_of(network, data__root=str(faulty))
    paths = draw_check(check_data(config, ["2007_train", "2007_test"], False), tmp_path / "out")
    drawn = {path.name for path in paths}
    assert ("anchor_coverage.png" in drawn) == (network != "fcos_r50_fpn")
    assert {"class_balance.png", "box_sizes.png", "box_ratios.png"} <= drawn
    faults = {path.name.rpartition("_1_")[0] for path in paths if path.parent.name == "faults"}
    assert faults == {
        *("size_mismatch", "dropped", "clipped", "same_box_twice", "two_classes"),
        *("turned", "same_image", "leak"),
    }
    for path in paths:
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    beside = next(path for path in paths if path.name.startswith("leak"))
    assert Image.open(beside).width == 2 * 100 + 4


def test_a_data_set_without_objects(tmp_path):
    root = make_voc(tmp_path / "voc", {"a": Picture(objects=[]), "b": Picture(objects=[])})
    checked = check_data(config_of(data__root=str(root)), ["2007_train"], False)
    assert checked.passed(strict=True)
    assert json.loads(to_json(checked))["anchors"]["coverage"] == {"0.5": None, "0.7": None}
    assert "no faults" in table(checked)
    assert [path.name for path in draw_check(checked, tmp_path / "out")] == ["class_balance.png"]


def test_a_coco_image_of_another_size_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    noise((80, 100)).save(tmp_path / "images/a.png")
    noise((80, 100), seed=1).save(tmp_path / "images/b.png")
    data = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 80, "width": 100},
            {"id": 2, "file_name": "b.png", "height": 100, "width": 80},
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
    }
    (tmp_path / "train.json").write_text(json.dumps(data))
    config = config_of(data__dataset="coco", data__root=str(tmp_path))
    checked = check_data(config, ["train"], False)
    assert names(checked, "broken image") == ["b"]
    assert "exif_orientation" in checked.faults[0].detail
    assert [f.detail for f in checked.faults if f.kind == "class without objects"] == ["cat"]
    assert not checked.passed()


@pytest.mark.parametrize("network", list_detectors())
def test_every_network_has_a_reach(network):
    records = [make_record(boxes=[(10, 20, 50, 60)])]
    objects = network_objects(records, ("dog",), ("dog",), config_of(network))
    reach = find_reach(config_of(network), objects, objects)
    assert (reach.points is None) == (not network.startswith("fcos"))
    assert reach.points or reach.overlaps.shape == (1,)


def test_bccd(shared_data):
    """SOURCES.md mentions two boxes without size."""
    config = config_of(
        data__root=str(shared_data / "bccd"), data__short_side=480, data__long_side=640
    )
    checked = check_data(config, ["2007_val"], False)
    assert names(checked, "dropped") == ["BloodImage_00338"]
    assert checked.counts["2007_val"]["objects"] == 1137
    assert checked.passed()
    assert not names(checked, "leak")


def test_the_tool(faulty, tmp_path):
    command = [
        sys.executable,
        "tools/check_data.py",
        "--dataset",
        "voc",
        "--data-root",
        str(faulty),
    ]
    command += ["--json", str(tmp_path / "check.json"), "--imageset", "2007_train,2007_test"]
    command += ["--out", str(tmp_path / "out"), "--set", "short_side=100", "long_side=200"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: 1 images that cannot be decoded" in done.stdout
    assert json.loads((tmp_path / "check.json").read_text())["passed"] is False
    assert (tmp_path / "out/class_balance.png").is_file()
