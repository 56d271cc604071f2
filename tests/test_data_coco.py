"""Reading COCO files: real data, every kind of broken input, and writing a Dataset as COCO."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.coco import dataset_to_coco, load_coco, load_joined, resolve_coco
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.voc import load_voc
from symnet.geometry.masks import decode

TRIANGLE = [10, 10, 30, 10, 20, 30]


def a_document():
    """Two images of 100x80 (width x height), three objects, categories out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 80, "width": 100},
            {"id": "b", "file_name": "b.png", "height": 80, "width": 100},
        ],
        "categories": [{"id": 90, "name": "fig"}, {"id": 5, "name": "date"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 10, 20, 20], "area": 200.5},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 50.5, 40], "iscrowd": 1},
            {"id": 3, "image_id": "b", "category_id": 5, "bbox": [1, 2, 3, 4], "ignore": 1},
        ],
    }


@pytest.fixture
def document():
    return a_document()


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "set.json"
        for name in ("a.png", "b.png"):
            Image.new("RGB", (100, 80)).save(root / name)

    def load(self, document, **kwargs):
        self.file.write_text(json.dumps(document), encoding="utf-8")
        return load_coco(self.file, **kwargs)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


# Real data


def test_fruits_nuts(shared_data):
    data = load_coco(*resolve_coco(shared_data / "fruits_nuts", "trainval"))
    assert len(data) == 18
    assert data.class_names == ("date", "fig", "hazelnut")
    assert np.bincount(np.concatenate([r.classes for r in data.records])).tolist() == [
        0,
        71,
        41,
        53,
    ]
    assert data.records[0].boxes[0].tolist() == [101, 118, 237, 285]
    assert data.records[0].areas[0] == pytest.approx(15584.661)
    assert all(mask for r in data.records for mask in r.masks)
    assert all(r.path.is_file() for r in data.records)
    assert data.notes.lines() == []


def test_eval_coco(shared_data):
    file = shared_data / "eval_coco" / "instances_val2014_100.json"
    data = load_coco(file, require_images=False)
    assert len(data) == 100
    assert sum(map(len, data.records)) == 839
    assert sum(r.crowd.sum() for r in data.records) == 9
    assert data.num_classes == 81
    assert data.category_ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert data.category_ids[-1] == 90
    assert data.annotation_file == file
    masks = [(m, crowd) for r in data.records for m, crowd in zip(r.masks, r.crowd)]
    assert all(isinstance(m, dict) == crowd for m, crowd in masks)
    with pytest.raises(DataError, match=r"\.jpg: no such image"):
        load_coco(file)


def test_voc100_agrees_with_its_xml(shared_data):
    """The JSON keeps VOC's 1-based left and top edges; otherwise every object is the same."""
    voc = load_voc(shared_data / "voc100", "2007_all")
    file, images = resolve_coco(shared_data / "voc100", "instances")
    coco = load_coco(file, images, class_names="voc")
    assert coco.class_names == voc.class_names
    assert coco.category_ids[:2] == (2, 9)  # aeroplane, bicycle
    of_stem = {r.path.stem: r for r in coco.records}
    for record in voc.records:
        twin = of_stem[record.path.stem]
        assert (twin.height, twin.width) == (record.height, record.width)
        assert twin.classes.tolist() == record.classes.tolist()
        np.testing.assert_array_equal(twin.boxes - [1, 1, 0, 0], record.boxes)


# Fields


def test_fields(folder, document):
    document["annotations"][0]["segmentation"] = [TRIANGLE]
    document["annotations"][1]["segmentation"] = {"size": [80, 100], "counts": [8000]}
    data = folder.load(document)
    assert data.class_names == ("date", "fig")
    assert data.category_ids == (5, 90)
    first, second = data.records
    assert (first.image_id, second.image_id) == (7, "b")
    assert (first.height, first.width, first.path) == (80, 100, folder.root / "a.png")
    assert first.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 50.5, 40]]
    assert first.boxes.dtype == np.float32
    assert first.classes.tolist() == [2, 1]
    assert first.crowd.tolist() == [False, True]
    assert first.areas.tolist() == [200.5, 2020]
    assert first.masks == ([TRIANGLE], {"size": [80, 100], "counts": [8000]})
    assert second.masks == (None,)
    assert second.difficult.tolist() == [True]
    assert not first.difficult.any()
    assert not first.truncated.any()


def test_without_any_segmentation_masks_are_none(folder, document):
    document["annotations"][0]["segmentation"] = []
    assert [r.masks for r in folder.load(document).records] == [None, None]


def test_class_names_pick_and_order(folder, document):
    data = folder.load(document, class_names=["fig", "date"])
    assert data.category_ids == (90, 5)
    assert data.records[0].classes.tolist() == [1, 2]
    only = folder.load(document, class_names=["date"])
    assert [len(r) for r in only.records] == [1, 1]
    assert only.records[0].boxes[0, 2] == 50.5
    assert only.notes.lines() == []


@pytest.mark.parametrize(
    ("names", "reason"),
    [(["dates"], "'dates'.*'date'"), ([], "class names"), (["fig"] * 2, "repeated"), ("fig", "'f")],
)
def test_bad_class_names(folder, document, names, reason):
    with pytest.raises(DataError, match=rf"set\.json: .*{reason}"):
        folder.load(document, class_names=names)


def test_bad_boxes_are_clipped_or_dropped_with_their_fields(folder, document):
    boxes = ([200, 200, 5, 5], [-5, 10, 20, 20], [3, 4, 0, 7])
    for annotation, box in zip(document["annotations"], boxes):
        annotation["bbox"] = box
        annotation["segmentation"] = [TRIANGLE]
    data = folder.load(document)
    assert (data.notes.clipped, data.notes.dropped) == (1, 2)
    record = data.records[0]
    assert record.boxes.tolist() == [[0, 10, 15, 30]]
    assert record.classes.tolist() == [1]
    assert record.areas.tolist() == [15 * 20]
    assert record.crowd.tolist() == [True]
    assert record.masks == ([TRIANGLE],)
    assert data.records[1].boxes.shape == (0, 4)
    assert data.records[1].masks == ()


def test_image_without_annotations(folder, document):
    document["annotations"] = []
    assert [len(r) for r in folder.load(document).records] == [0, 0]


def test_sizes_come_from_the_header_where_the_json_has_none(folder, document):
    for side in ("height", "width"):
        del document["images"][0][side]
        document["images"][1][side] = 0
    assert [(r.height, r.width) for r in folder.load(document).records] == [(80, 100)] * 2
    (folder.root / "a.png").unlink()
    with pytest.raises(DataError, match=r"images\[0\] has no height"):
        folder.load(document, require_images=False)


def test_exif_orientation_reads_the_files(folder, document):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(folder.root / "a.png", exif=exif)
    assert folder.load(document).records[0].height == 80
    with pytest.raises(DataError, match=r"a\.png: .*exif_orientation=false keeps"):
        folder.load(document, exif_orientation=True)
    document["images"][0].update(height=101, width=80)
    upright = folder.load(document, exif_orientation=True)
    assert [(r.height, r.width) for r in upright.records] == [(100, 80), (80, 100)]
    assert upright.notes.size_mismatch == 1


# Where images are


@pytest.mark.parametrize("place", [".", "images", "JPEGImages", "VOC2007/JPEGImages"])
def test_image_root_is_found(tmp_path, document, place):
    (tmp_path / "images").mkdir()  # an empty one must not win
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    Folder(tmp_path / place)
    file = tmp_path / "set.json"
    file.write_text(json.dumps(document))
    assert load_coco(file)[0].path == tmp_path / place / "a.png"


def test_given_image_root(tmp_path, document):
    (tmp_path / "elsewhere").mkdir()
    folder = Folder(tmp_path)
    assert folder.load(document, image_root=tmp_path)[0].path == tmp_path / "a.png"
    with pytest.raises(DataError, match=r"elsewhere/a\.png: no such image"):
        folder.load(document, image_root=tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "..\\a.png", "", 3])
def test_file_names_stay_in_the_image_root(folder, document, name):
    document["images"][1]["file_name"] = name
    for require in (True, False):
        with pytest.raises(DataError, match=r"set\.json: images\[1\]\.file_name"):
            folder.load(document, require_images=require)


def test_missing_image(folder, document):
    (folder.root / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: no such image \(set\.json, images\[1\]\)"):
        folder.load(document)
    assert len(folder.load(document, require_images=False)) == 2
    document["annotations"][2]["bbox"] = None
    data = folder.load(document, skip_bad=True)
    assert [r.image_id for r in data.records] == [7]
    assert len(data.notes.skipped) == 1  # its annotation goes with it, without a word of its own


def test_zero_byte_image_without_stated_size(folder, document):
    del document["images"][1]["width"]
    (folder.root / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.png: not a readable image"):
        folder.load(document)
    assert len(folder.load(document, skip_bad=True)) == 1


def test_nothing_usable(folder, document):
    document["images"] = []
    document["annotations"] = []
    with pytest.raises(DataError, match="no usable image; images is empty"):
        folder.load(document)
    document["images"] = [{"id": 1}]
    with pytest.raises(DataError, match=r"no usable image.*file_name is missing"):
        folder.load(document, skip_bad=True)


# Broken JSON


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x80", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "holds a JSON list"),
        (b"{}", "categories is missing"),
        (b'{"categories": {}}', "categories is missing or not a list"),
        (b'{"categories": []}', "categories is empty"),
        (b'{"categories": [{"id": 1, "name": "a"}]}', "images is missing"),
        (b'{"categories": [{"id": 1, "name": "a"}], "images": []}', "annotations is missing"),
    ],
)
def test_wrong_documents(tmp_path, text, reason):
    file = tmp_path / "set.json"
    file.write_bytes(text)
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=rf"set\.json: {reason}"):
            load_coco(file, skip_bad=skip_bad)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"no\.json: unreadable"):
        load_coco(tmp_path / "no.json")


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"name": "kiwi"}, "id is missing"),
        ({"id": 5, "name": "kiwi"}, "id is not a unique"),
        ({"id": "6", "name": "kiwi"}, "id is not a unique"),
        ({"id": True, "name": "kiwi"}, "id is not a unique"),
        ({"id": 6}, "name is missing"),
        ({"id": 6, "name": "fig"}, "name is not a unique"),
        ({"id": 6, "name": None}, "name is not a unique"),
    ],
)
def test_wrong_categories_raise_always(folder, document, entry, field):
    document["categories"].append(entry)
    with pytest.raises(DataError, match=rf"set\.json: categories\[2\]\.{field}"):
        folder.load(document, skip_bad=True)


def changed(document, where, **fields):
    """The document with changed fields in one entry; a field set to `...` is deleted."""
    document = copy.deepcopy(document)
    key, index = where
    document[key][index].update(fields)
    document[key][index] = {k: v for k, v in document[key][index].items() if v is not ...}
    return document


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ...},
        {"id": 1.5},
        {"id": 7},
        {"id": None},
        {"file_name": ...},
        {"height": -1},
        {"width": "100"},
        {"width": 99.5},
    ],
)
def test_wrong_images(folder, document, fields):
    broken = changed(document, ("images", 1), **fields)
    field = next(iter(fields))
    with pytest.raises(DataError, match=rf"set\.json: images\[1\]\.{field}"):
        folder.load(broken)
    data = folder.load(broken, skip_bad=True)
    assert [r.image_id for r in data.records] == [7]
    assert f"images[1].{field}" in data.notes.skipped[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"image_id": ...},
        {"image_id": 99},
        {"image_id": [7]},
        {"category_id": ...},
        {"category_id": 4},
        {"category_id": {}},
        {"id": 1},
        {"id": [1]},
        {"bbox": ...},
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, "4"]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"bbox": [1, 2, float("inf"), 4]},
        {"bbox": [1, 2, 3, 10**400]},
        {"bbox": [1, 2, 3, True]},
        {"area": -1},
        {"area": "4"},
        {"area": float("nan")},
        {"iscrowd": 2},
        {"ignore": "no"},
        {"segmentation": "polygon"},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
        {"segmentation": [[1, 2, 3, 4, 5, None]]},
        {"segmentation": TRIANGLE},
        {"segmentation": {"counts": "abc"}},
        {"segmentation": {"size": [80, 100], "counts": None}},
    ],
    ids=str,
)
def test_wrong_annotations(folder, document, fields):
    broken = changed(document, ("annotations", 1), **fields)
    field = next(iter(fields))
    with pytest.raises(DataError, match=rf"set\.json: annotations\[1\]\.{field}"):
        folder.load(broken)
    data = folder.load(broken, skip_bad=True)
    assert [len(r) for r in data.records] == [1, 1]
    assert len(data.notes.skipped) == 1


@pytest.mark.parametrize("key", ["images", "annotations"])
@pytest.mark.parametrize("entry", [None, 3, [], "text"])
def test_entries_that_are_no_objects(folder, document, key, entry):
    document[key].append(entry)
    with pytest.raises(DataError, match=rf"{key}\[\d\] is not an object"):
        folder.load(document)
    assert len(folder.load(document, skip_bad=True).notes.skipped) == 1


# Masks in PNG files


def save_mask(path: Path, mode: str = "L", size=(100, 80)) -> np.ndarray:
    """A PNG (80, 100) with the values 0, 3 and 200."""
    values = np.zeros((80, 100), np.uint8)
    values[10:30, 20:40], values[40:50, 5:9] = 3, 200
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette([0, 0, 0] * 255 + [9, 9, 9])  # 3 and 200 are as black as 0
    elif mode == "colours":
        high = np.where(values == 200, 1, 0).astype(np.uint8)
        picture = Image.merge("RGB", [picture, Image.fromarray(high), Image.new("L", (100, 80))])
    else:
        picture = picture.convert(mode)
    picture = picture if size == (100, 80) else picture.resize(size)
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
    return values


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGB", "RGBA", "I;16", "1"])
def test_a_png_is_the_pixels_that_are_not_0(folder, document, mode):
    values = save_mask(folder.root / "masks" / "a.png", mode if mode != "1" else "L")
    if mode == "1":
        Image.fromarray(values != 0).save(folder.root / "masks" / "a.png")
    document["annotations"][0]["segmentation"] = "masks/a.png"
    data = folder.load(document)
    mask, other = data.records[0].masks
    assert other is None
    np.testing.assert_array_equal(decode(mask, 80, 100), values != 0)
    assert json.loads(json.dumps(mask)) == mask


@pytest.mark.parametrize(
    ("mode", "codes"), [("L", (3, 200)), ("P", (3, 200)), ("colours", (3, 456))]
)
def test_a_png_of_numbers(folder, document, mode, codes):
    values = save_mask(folder.root / "ids.png", mode)
    for entry, code in zip(document["annotations"], codes):
        entry["segmentation"] = {"png": "ids.png", "value": code}
    masks = folder.load(document).records[0].masks
    for mask, code in zip(masks, (3, 200)):
        np.testing.assert_array_equal(decode(mask, 80, 100), values == code)


def test_a_png_may_be_in_the_image_folder_and_is_scored_without_the_file(tmp_path, document):
    (tmp_path / "images").mkdir()
    Folder(tmp_path / "images")
    save_mask(tmp_path / "images" / "m.png")
    file = tmp_path / "set.json"
    file.write_text(json.dumps(document))
    assert load_coco(file).annotation_file == file
    document["annotations"][0]["segmentation"] = "m.png"
    file.write_text(json.dumps(document))
    data = load_coco(file)
    assert data.annotation_file is None
    written = json.loads(json.dumps(dataset_to_coco(data)))
    assert written["annotations"][0]["segmentation"] == data.records[0].masks[0]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ("../m.png", r"set\.json: annotations\[0\]\.segmentation: .*is not a file name inside"),
        ("/etc/hostname", r"annotations\[0\]\.segmentation: .*is not a file name inside"),
        ({"png": "../m.png", "value": 1}, r"annotations\[0\]\.segmentation: .*not a file name"),
        ("none.png", r"annotations\[0\]\.segmentation: there is no 'none\.png'"),
        ({"png": "m.png"}, r"annotations\[0\]\.segmentation is neither"),
        ({"png": 3, "value": 1}, r"annotations\[0\]\.segmentation is neither"),
        ({"png": "m.png", "value": 1.5}, r"annotations\[0\]\.segmentation is neither"),
        ({"png": "m.png", "value": 77}, r"annotations\[0\]\.segmentation: no pixel of .*m\.png"),
        ("small.png", r"small\.png: the mask is 50 x 80 and the image 100 x 80"),
        ("broken.png", r"broken\.png: not a readable PNG"),
        ("picture.jpg", r"picture\.jpg: not a readable PNG"),
    ],
    ids=str,
)
def test_bad_png_masks(folder, document, segmentation, reason):
    save_mask(folder.root / "m.png")
    save_mask(folder.root / "small.png", size=(50, 80))
    whole = (folder.root / "m.png").read_bytes()
    (folder.root / "broken.png").write_bytes(whole[: len(whole) - 30])
    Image.new("RGB", (100, 80)).save(folder.root / "picture.jpg")
    document["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(DataError, match=reason):
        folder.load(document)
    assert len(folder.load(document, skip_bad=True).notes.skipped) == 1


def test_a_png_is_read_again_for_an_image_of_another_size(folder, document):
    save_mask(folder.root / "m.png")
    Image.new("RGB", (90, 80)).save(folder.root / "b.png")
    document["images"][1]["width"] = 90
    for entry in document["annotations"]:
        entry["segmentation"] = "m.png"
    with pytest.raises(DataError, match=r"m\.png: the mask is 100 x 80 and the image 90 x 80"):
        folder.load(document)


# Joined files


def second_document():
    """A file that shares an image id and a category with another file."""
    return {
        "images": [{"id": 7, "file_name": "b.png", "height": 80, "width": 100}],
        "categories": [{"id": 1, "name": "kiwi"}, {"id": 2, "name": "date"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [-1, 1, 5, 5]},
        ],
    }


def opened(folder: Folder, *documents: dict, **settings: object) -> Dataset:
    names = [f"{chr(ord('p') + i)}.json" for i in range(len(documents))]
    for name, document in zip(names, documents):
        (folder.root / name).write_text(json.dumps(document))
    data = DataConfig(dataset="coco", root=str(folder.root), **settings)
    return open_dataset(data, "+".join(names))


def test_joined_files_share_classes_by_name(folder, document):
    data = opened(folder, document, second_document())
    assert data.class_names == ("date", "fig", "kiwi")
    assert (data.name, data.annotation_file, data.category_ids) == ("p.json+q.json", None, None)
    assert [r.image_id for r in data.records] == ["1:7", "1:b", "2:7"]
    assert [r.classes.tolist() for r in data.records] == [[2, 1], [1], [3, 1]]
    assert [r.active_classes for r in data.records] == [(0, 1, 2), (0, 1, 2), (0, 1, 3)]
    assert data.notes.clipped == 1
    written = dataset_to_coco(data)
    assert {a["category_id"] for a in written["annotations"]} == {1, 2, 3}


def test_joined_files_of_the_same_classes_have_all_active(folder, document):
    other = second_document()
    other["categories"] = [{"id": 1, "name": "fig"}, {"id": 2, "name": "date"}]
    other["images"][0]["id"] = other["annotations"][0]["image_id"] = 8
    other["annotations"][1]["image_id"] = 8
    data = opened(folder, document, other)
    assert data.class_names == ("date", "fig")
    assert [r.image_id for r in data.records] == [7, "b", 8]
    assert {r.active_classes for r in data.records} == {None}
    assert data.records[2].classes.tolist() == [2, 1]


def test_one_file_has_all_active_and_its_own_annotation_file(folder, document):
    data = opened(folder, document)
    assert {r.active_classes for r in data.records} == {None}
    assert data.annotation_file == folder.root / "p.json"
    (folder.root / "p+q.json").write_text(json.dumps(document))  # one file with a + in its name
    config = DataConfig(dataset="coco", root=str(folder.root))
    assert open_dataset(config, "p+q.json").annotation_file == folder.root / "p+q.json"


def test_given_classes_of_joined_files(folder, document):
    data = opened(folder, document, second_document(), class_names=("kiwi", "fig"))
    assert data.class_names == ("kiwi", "fig")
    assert [r.classes.tolist() for r in data.records] == [[2], [], [1]]
    assert [r.active_classes for r in data.records] == [(0, 2), (0, 2), (0, 1)]
    with pytest.raises(DataError, match=r"p\.json and q\.json: no category 'figs'.*'fig'"):
        opened(folder, document, second_document(), class_names=("kiwi", "fig", "figs"))
    with pytest.raises(DataError, match=r"q\.json: has none of the categories fig"):
        opened(folder, document, second_document(), class_names=("fig",))


def test_a_file_twice_or_broken(folder, document):
    folder.load(document)
    with pytest.raises(DataError, match=r"set\.json: occurs twice"):
        load_joined([(folder.file, folder.root)] * 2, "x")
    broken = second_document()
    broken["annotations"][0]["image_id"] = 99
    with pytest.raises(DataError, match=r"q\.json: annotations\[0\]\.image_id"):
        opened(folder, document, broken)
    assert len(opened(folder, document, broken, skip_bad=True).notes.skipped) == 1


# Layouts


@pytest.mark.parametrize(
    ("file", "images", "imageset"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017", "val2017"),
        ("annotations/train.json", "images", "train"),
        ("train.json", "images", "train"),
        ("train.json", "JPEGImages", "train"),
        ("instances.json", "VOC2007/JPEGImages", "instances"),
        ("instances_val.json", "val", "val"),
        ("valid/_annotations.coco.json", "valid", "valid"),
        ("labels/my.json", "images", "labels/my.json"),
        ("annotations/instances_val2017.json", "val2017", "annotations/instances_val2017.json"),
        ("train.json", ".", "train"),
    ],
)
def test_layouts(tmp_path, file, images, imageset):
    for path in (tmp_path / images, (tmp_path / file).parent):
        path.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert resolve_coco(tmp_path, imageset) == (tmp_path / file, tmp_path / images)


def test_a_split_of_images_wins_over_the_folder_of_all(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "train.json").write_text("{}")
    assert resolve_coco(tmp_path, "train")[1] == tmp_path / "images" / "train"


def test_absolute_annotation_path(tmp_path):
    (tmp_path / "root" / "images").mkdir(parents=True)
    file = tmp_path / "a.json"
    file.write_text("{}")
    assert resolve_coco(tmp_path / "root", str(file)) == (file, tmp_path / "root" / "images")


def test_no_layout_or_two(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"no annotation files.*instances_val\.json.*train\.json"):
        resolve_coco(tmp_path, "val")
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(DataError, match="2 annotation files fit"):
        resolve_coco(tmp_path, "train")
    with pytest.raises(DataError, match="JSON files there: none"):
        resolve_coco(tmp_path / "nowhere", "val")


# Writing


def same(first: Dataset, second: Dataset) -> None:
    assert first.class_names == second.class_names
    assert len(first) == len(second)
    for a, b in zip(first.records, second.records):
        assert (a.image_id, a.height, a.width, a.masks) == (b.image_id, b.height, b.width, b.masks)
        for field in ("boxes", "classes", "crowd", "difficult", "areas"):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-5, atol=1e-4)


def test_round_trip_of_coco(shared_data, tmp_path):
    data = load_coco(shared_data / "eval_coco/instances_val2014_100.json", require_images=False)
    written = dataset_to_coco(data)
    assert [a["id"] for a in written["annotations"]] == list(range(1, 840))
    assert {a["category_id"] for a in written["annotations"]} <= set(data.category_ids)
    assert sum(a["iscrowd"] for a in written["annotations"]) == 9
    (tmp_path / "x.json").write_text(json.dumps(written))
    again = load_coco(tmp_path / "x.json", require_images=False)
    same(data, again)
    assert again.category_ids == data.category_ids


def test_round_trip_of_voc(shared_data, tmp_path):
    data = load_voc(shared_data / "voc100", "2007_all")
    written = dataset_to_coco(data)
    assert sum(a["ignore"] for a in written["annotations"]) == 38
    assert not any(a["iscrowd"] for a in written["annotations"])
    assert not any("segmentation" in a for a in written["annotations"])
    assert written["categories"][0] == {"id": 1, "name": "aeroplane", "supercategory": "none"}
    (tmp_path / "x.json").write_text(json.dumps(written))
    same(data, load_coco(tmp_path / "x.json", require_images=False))


def test_rle_bytes_become_text():
    none = np.zeros(1, bool)
    box = np.array([[0, 0, 2, 2]], np.float32)
    mask = {"size": [4, 4], "counts": b"04L0"}
    record = ImageRecord(
        "a", Path("a"), 4, 4, box, np.ones(1, int), none, none, none, np.ones(1), (mask,)
    )
    written = json.loads(json.dumps(dataset_to_coco(Dataset("d", ("x",), (record,)))))
    assert written["annotations"][0]["segmentation"] == {"size": [4, 4], "counts": "04L0"}


def test_pycocotools_scores_a_perfect_detector_with_one(shared_data, capsys):
    data = load_voc(shared_data / "voc100", "2007_all")
    truth = COCO()
    truth.dataset = dataset_to_coco(data)
    truth.createIndex()
    keys = ("image_id", "category_id", "bbox")
    found = truth.loadRes(
        [{**{k: a[k] for k in keys}, "score": 0.9} for a in truth.dataset["annotations"]]
    )
    scorer = COCOeval(truth, found, "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    assert scorer.stats[0] == pytest.approx(1)
