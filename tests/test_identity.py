"""The identity of a data set: what changes it, what does not, and how changes are reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.data.identity import DataIdentity, differences
from mxrcnn.data.records import Dataset
from mxrcnn.data.voc import load_voc
from tests.factories import Picture, make_dataset, make_record, make_voc

POLYGON = [[1.5, 2, 30, 2, 30, 40.25]]


def small_set(**changes) -> Dataset:
    """Three images, a dog and a cat in each; changes are made to the second record."""
    boxes = [[1, 2, 30, 40], [5, 6, 70, 71.5]]
    records = [
        replace(make_record(name, boxes=boxes, path=Path("/a", name)), classes=np.array([1, 2]))
        for name in ("1.jpg", "2.jpg", "3.jpg")
    ]
    records[1] = replace(records[1], **changes)
    return make_dataset(records, ("dog", "cat"))


def array_with(name, place, value):
    array = getattr(small_set()[1], name).copy()
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    "change",
    [
        array_with("boxes", (0, 0), 1.0000001),
        array_with("classes", 0, 2),
        array_with("crowd", 1, True),
        array_with("difficult", 1, True),
        array_with("truncated", 1, True),
        array_with("areas", 1, 7),
        {"height": 81},
        {"width": 101},
        {"path": Path("/a/2.png")},
        {"active_classes": (0, 1)},
        {"masks": (POLYGON, None)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts(change):
    before = DataIdentity.of(small_set(), masks=True)
    now = DataIdentity.of(small_set(**change), masks=True)
    assert before.hash != now.hash
    assert [a == b for a, b in zip(before.hashes, now.hashes)] == [True, False, True]
    (line,) = differences(before, now)
    assert line.startswith("1 image changed")
    assert line.endswith(": 2.jpg")


@pytest.mark.parametrize(
    "other",
    [
        ([[1.5, 2, 30, 2, 30, 40.5]], None),
        ([[1.5, 2, 30, 2, 30, 40.25], [1, 1, 2, 2, 3, 1]], None),
        (None, POLYGON),
        ({"size": [80, 100], "counts": "PPYo0"}, None),
        ({"size": [80, 100], "counts": [8000]}, None),
    ],
)
def test_masks_count_where_they_are_loaded(other):
    sets = [small_set(masks=masks) for masks in ((POLYGON, None), other)]
    with_masks = [DataIdentity.of(one, masks=True).hash for one in sets]
    without = [DataIdentity.of(one).hash for one in sets]
    assert with_masks[0] != with_masks[1]
    assert without[0] == without[1]


def test_what_is_the_same():
    """Folders, the sign of zero, and numbers as strings make no difference."""
    rle = {"size": [80, 100], "counts": "PPYo0"}
    zero = array_with("boxes", (0, 0), 0.0)["boxes"]
    pairs = [
        ({}, {"path": Path("/elsewhere/2.jpg")}),
        ({"boxes": zero}, {"boxes": np.where(zero == 0, np.float32(-0.0), zero)}),
        ({}, {"height": np.int64(80)}),
        ({"masks": (rle, None)}, {"masks": ({**rle, "counts": b"PPYo0"}, None)}),
        ({"masks": ([[1, 2, 3, 4, 5, 6]], None)}, {"masks": ([[1.0, 2, 3, 4, 5, 6.0]], None)}),
    ]
    for one, other in pairs:
        identities = [DataIdentity.of(small_set(**fields), masks=True) for fields in (one, other)]
        assert identities[0].hash == identities[1].hash
        assert differences(*identities) == []


def test_the_hash_is_the_same_on_every_machine():
    identity = DataIdentity.of(small_set(masks=(POLYGON, None)), masks=True)
    assert identity.hashes[1] == "59a2710c2f339066"
    assert identity.hash == "21593261ad1fab38786eb72c4d220332"


def test_a_moved_folder_is_the_same_data_and_an_edited_one_is_not(tmp_path):
    """Read it again from disk, as a resumed training does."""
    make_voc(tmp_path / "a", {name: Picture() for name in ("1", "2")})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before, moved = (DataIdentity.of(load_voc(tmp_path / x, "2007_train")) for x in "ab")
    assert before == moved
    xml = tmp_path / "b/VOC2007/Annotations/2.xml"
    xml.write_text(xml.read_text().replace("<xmin>11<", "<xmin>12<"))
    edited = DataIdentity.of(load_voc(tmp_path / "b", "2007_train"))
    assert differences(before, edited) == [
        "1 image changed (file name, size, boxes, classes, flags or masks): 2"
    ]


def identity(images: str, classes: str = "dog cat") -> DataIdentity:
    """An identity for `1 2 3`: ids whose hash is the part after a colon."""
    ids = [word.partition(":")[0] for word in images.split()]
    return DataIdentity(tuple(classes.split()), tuple(ids), tuple(images.split()))


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        (("1 2",), ("1 2 3",), ["1 image added: 3"]),
        (("1 2 3 4 5 6 7",), ("7",), ["6 images removed: 1, 2, 3, 4, 5, ..."]),
        (
            ("1 2 3",),
            ("1 3 2",),
            ["the images are in another order: of those in both, number 2 was 2 and is 3"],
        ),
        (
            ("1 2 3 9",),
            ("3 1 2:x 8",),
            [
                "1 image added: 8",
                "1 image removed: 9",
                "1 image changed (file name, size, boxes, classes, flags or masks): 2",
                "the other images are in another order: of those in both, number 1 was 1 and is 3",
            ],
        ),
        (
            ("1", "dog cat"),
            ("1", "cat dog"),
            ["the classes are in another order: dog, cat before, cat, dog now"],
        ),
        (
            ("1", "dog cat"),
            ("1", "cat cow hen"),
            ["2 classes added: cow, hen", "1 class removed: dog"],
        ),
    ],
)
def test_differences_are_told(before, now, lines):
    assert differences(identity(*before), identity(*now)) == lines


def test_a_new_class_changes_only_the_images_that_have_it():
    """A new name shifts the numbers of later classes; their objects stay the same."""
    grown = replace(
        small_set(**array_with("classes", 0, 1)),
        class_names=("dog", "ant", "cat"),
    )
    grown = replace(
        grown,
        records=tuple(
            replace(record, classes=np.where(record.classes == 2, 3, record.classes))
            for record in grown.records
        ),
    )
    before, now = DataIdentity.of(small_set()), DataIdentity.of(grown)
    assert before.hashes == now.hashes
    assert differences(before, now) == ["1 class added: ant"]


def test_json_round_trip():
    records = [make_record(image, boxes=()) for image in (7, "7", "ü\ud800")]
    for dataset in (make_dataset(records), make_dataset([]), small_set()):
        before = DataIdentity.of(dataset)
        assert DataIdentity.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"hash": "0"},
        {"class_names": ["dog"]},
        {"class_names": 3},
        {"images": [["1.jpg"]]},
        {"images": 5},
        {"images": [[["1.jpg"], "0"]]},
    ],
    ids=str,
)
def test_broken_json_is_refused(change):
    document = {**DataIdentity.of(small_set()).to_json(), **change}
    for broken in (document, [document], {key: document[key] for key in ("format", "hash")}):
        with pytest.raises(ValueError, match="not the identity of a data set"):
            DataIdentity.from_json(broken)
