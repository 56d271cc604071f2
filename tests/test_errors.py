"""Errors of detections: equal to tidecv's, and on cases that one can check by eye; confusion."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.data.records import Detections
from mxrcnn.evaluation.confusion import confusion
from mxrcnn.evaluation.errors import KINDS, find_errors
from symnet.geometry.boxes import iou, paired_coverage
from tests.factories import make_dataset, make_record

TIDE = json.loads((Path(__file__).parent / "data/tide.json").read_text())["sets"]


def boxes_of(rows):
    """xyxy of rows that end with x, y, width, height."""
    boxes = np.array([row[-4:] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def column(rows, place, kind):
    return np.array([row[place] for row in rows], kind)


def read(drawn):
    """(data set, detections) of a set of tide.json."""
    records, detections = [], {}
    for image in range(1, drawn["images"] + 1):
        objects = [row for row in drawn["objects"] if row[0] == image]
        found = [row for row in drawn["detections"] if row[0] == image]
        record = make_record(
            image, (200, 200), np.zeros((len(objects), 4)), crowd=column(objects, 2, bool)
        )
        classes = column(objects, 1, np.int64)
        records.append(replace(record, boxes=boxes_of(objects), classes=classes))
        detections[image] = Detections(
            boxes_of(found), column(found, 2, np.float64), column(found, 1, np.int64)
        )
    return make_dataset(records, ("a", "b", "c")), detections


@pytest.mark.parametrize("drawn", TIDE, ids=["no crowds", "crowds"])
def test_equal_to_tide(drawn):
    """With crowds, TIDE also lists the detections that it ignores as errors; costs are equal."""
    errors = find_errors(*read(drawn))
    crowds = any(row[2] for row in drawn["objects"])
    for kind in KINDS:
        count, theirs = errors.counts[kind], drawn["counts"][kind]
        assert count <= theirs if crowds else count == theirs
        assert 100 * errors.cost[kind] == pytest.approx(drawn["cost"][kind], abs=1e-9)
    assert errors.counts["missed"] == drawn["counts"]["missed"]
    assert errors.of_objects.count("missed") == errors.counts["missed"]
    for kind in KINDS[:-1]:
        assert errors.of_detections.count(kind) == errors.counts[kind]
    assert 100 * errors.ap == pytest.approx(drawn["ap"], abs=1e-9)


#: an object of class 1 at (10, 20, 50, 60); another far from it
BOX, NEXT = (10, 20, 50, 60), (60, 20, 100, 60)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ([(BOX, 1)], None),
        ([((10, 20, 50, 38), 1)], "localisation"),
        ([(BOX, 2)], "classification"),
        ([((10, 20, 50, 38), 2)], "both"),
        ([(BOX, 1), (BOX, 1)], "duplicate"),
        ([((60, 0, 70, 10), 1)], "background"),
    ],
)
def test_one_of_each(found, kind):
    record = make_record(boxes=[BOX, NEXT])
    boxes, classes = zip(*found)
    scores = np.linspace(0.9, 0.5, len(found))
    detections = Detections(np.array(boxes, np.float64), scores, np.array(classes))
    errors = find_errors(make_dataset([record], ("a", "b")), {"a": detections})
    # an object is missed only if mending an error does not find it
    missed = 2 if kind in ("both", "background") else 1
    want = {**dict.fromkeys(KINDS, 0), "missed": missed, **({kind: 1} if kind else {})}
    assert errors.counts == want
    assert sum(errors.by_class["b"].values()) == sum(k == 2 for _, k in found)


def test_nothing_to_count():
    """No images, no objects, no detections."""
    empty = make_dataset([make_record(boxes=[])])
    for dataset in (make_dataset([]), empty):
        errors = find_errors(dataset, {})
        assert (errors.ap, sum(errors.counts.values()), sum(errors.cost.values())) == (0, 0, 0)
    errors = find_errors(empty, {"a": Detections(np.array([BOX]), np.ones(1), np.ones(1, int))})
    assert errors.counts["background"] == 1
    errors = find_errors(make_dataset([make_record()]), {})
    assert (errors.counts["missed"], errors.cost["missed"]) == (1, 0)


def test_the_best_hundred_of_an_image_count():
    rows = np.tile(np.float64([60, 0, 70, 10]), (150, 1))
    detections = Detections(rows, np.linspace(0.1, 0.9, 150), np.ones(150, np.int64))
    assert find_errors(make_dataset([make_record()]), {"a": detections}).counts["background"] == 100


def slow_confusion(dataset, detections, score, least):
    """The matrix by plain loops over sorted pairs."""
    table = np.zeros((dataset.num_classes,) * 2, int)
    for record in dataset.records:
        found = detections[record.image_id]
        found = found[found.scores >= score]
        region = np.asarray(record.crowd) | np.asarray(record.difficult)
        overlap = iou(found.boxes, record.boxes)
        pairs = sorted(np.argwhere(overlap >= least).tolist(), key=lambda p: -overlap[tuple(p)])
        free = [set(range(len(found))), set(np.flatnonzero(~region))]
        for d, g in pairs:
            if d in free[0] and g in free[1]:
                table[record.classes[g], found.classes[d]] += 1
                free[0].remove(d)
                free[1].remove(g)
        for g in free[1]:
            table[record.classes[g], 0] += 1
        for d in free[0]:
            boxes = np.repeat(found.boxes[d : d + 1], len(record), axis=0)
            inside = paired_coverage(boxes, record.boxes) >= least
            if not (inside & region & (record.classes == found.classes[d])).any():
                table[0, found.classes[d]] += 1
    return table


@pytest.mark.parametrize("drawn", TIDE, ids=["no crowds", "crowds"])
@pytest.mark.parametrize(("score", "least"), [(0.0, 0.5), (0.4, 0.3), (1.1, 0.5)])
def test_confusion_equals_plain_loops(drawn, score, least):
    dataset, detections = read(drawn)
    table = confusion(dataset, detections, score, least)
    assert table.tolist() == slow_confusion(dataset, detections, score, least).tolist()
    objects = sum(int((~r.crowd).sum()) for r in dataset.records)
    assert table[1:].sum() == objects
