"""Pascal VOC's average precision compared with the devkit, gluoncv and a published example."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrcnn.data.records import Detections, ImageRecord
from mxrcnn.evaluation.matching import (
    FALSE_POSITIVE,
    IGNORED,
    TRUE_POSITIVE,
    image_scores,
    match,
)
from mxrcnn.evaluation.voc import average_precision, evaluate_voc
from tests import reference

FAR = (200, 200, 220, 220)


def record(image_id, boxes, classes=None, difficult=None, crowd=None) -> ImageRecord:
    n = len(boxes)
    flags = {"difficult": difficult, "crowd": crowd, "truncated": None}
    return ImageRecord(
        image_id,
        Path(f"{image_id}.jpg"),
        300,
        300,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes if classes is not None else [1] * n, np.int64),
        areas=np.ones(n, np.float32),
        **{k: np.asarray(v if v is not None else [False] * n, bool) for k, v in flags.items()},
    )


def found(boxes, scores, classes=None) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(classes if classes is not None else [1] * len(scores), np.int64),
    )


def random_case(seed, images=12, classes=3, size=14, difficult=0.3):
    """Small integer boxes, so that many overlap, often by exactly 0.5; distinct scores. Most
    detections are objects shifted by up to a pixel."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        corner = rng.integers(0, size, (n, 2))
        return np.concatenate([corner, corner + rng.integers(3, 8, (n, 2))], axis=1)

    counts = rng.integers(0, 9, images)
    scores = (rng.permutation(counts.sum()) + 1) / 128
    records, detections, used = [], {}, 0
    for i, d in enumerate(counts):
        n = rng.integers(0, 6)
        kinds = rng.integers(1, classes + 1, n + d)
        records.append(record(i, boxes(n), kinds[:n], rng.random(n) < difficult))
        guesses = boxes(d)
        if n:
            copied, source = rng.random(d) < 0.7, rng.integers(0, n, d)
            near = records[-1].boxes[source] + rng.integers(-1, 2, (d, 4))
            guesses = np.where(copied[:, None], near, guesses)
            kinds[n:] = np.where(copied, kinds[source], kinds[n:])
        detections[i] = found(guesses, scores[used : used + d], kinds[n:])
        used += d
    return records, detections, [f"class{k}" for k in range(1, classes + 1)]


def devkit_ap(records, detections, k, iou_thresh, use_07_metric) -> float:
    """The reference on VOC files' inclusive boxes, whose minimum is one more."""

    def inclusive(box):
        return box[0] + 1, box[1] + 1, box[2], box[3]

    truth = [
        [
            (inclusive(b), bool(hard))
            for b, c, hard in zip(r.boxes.tolist(), r.classes, r.difficult)
            if c == k
        ]
        for r in records
    ]
    rows = [
        (float(d.scores[j]), i, inclusive(d.boxes[j].tolist()))
        for i, d in enumerate(detections[r.image_id] for r in records)
        for j in range(len(d))
        if d.classes[j] == k
    ]
    return reference.voc_devkit_ap(truth, rows, iou_thresh, use_07_metric)


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
@pytest.mark.parametrize("iou_thresh", [0.3, 0.5, 0.75])
def test_equals_the_devkit(metric, iou_thresh):
    compared = 0
    for seed in range(25):
        records, detections, names = random_case(seed)
        report = evaluate_voc(records, detections, names, iou_thresh, metric)
        for k, name in enumerate(names, 1):
            expected = devkit_ap(records, detections, k, iou_thresh, metric == "voc07")
            assert report.per_class[name]["AP"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
            compared += not math.isnan(expected) and expected > 0
    assert compared > 20


@pytest.mark.parametrize("metric", ["voc07", "voc12"])
def test_equals_gluoncv(metric):
    metrics = pytest.importorskip("gluoncv.utils.metrics.voc_detection")
    kind = {"voc07": metrics.VOC07MApMetric, "voc12": metrics.VOCMApMetric}[metric]
    for seed in range(10):
        records, detections, names = random_case(seed)
        theirs = kind(0.5, names)
        for r in records:
            d = detections[r.image_id]
            # gluoncv adds 1 to the maximum of either box: it takes 0-based inclusive ones
            less = np.array([0, 0, 1, 1], np.float64)
            theirs.update(
                [d.boxes[None] - less],
                [d.classes[None] - 1],
                [d.scores[None]],
                [r.boxes[None] - less],
                [r.classes[None] - 1],
                [r.difficult[None].astype(np.float64)],
            )
        ours = evaluate_voc(records, detections, names, 0.5, metric)
        values = dict(zip(*theirs.get()))
        assert ours.metrics["mAP"] == pytest.approx(values["mAP"], abs=1e-9)
        for name in names:
            assert ours.per_class[name]["AP"] == pytest.approx(values[name], abs=1e-9, nan_ok=True)


def read_toy(folder: Path) -> dict[str, np.ndarray]:
    """Rows [score] x y w h per image; that tool includes pixel x + w in the box."""
    out = {}
    for path in sorted(folder.glob("*.txt")):
        rows = np.array([line.split()[1:] for line in path.read_text().splitlines()], float)
        rows[:, -2:] += rows[:, -4:-2] + 1
        out[path.stem] = rows
    return out


@pytest.mark.parametrize(
    ("iou_thresh", "area", "eleven"),
    [(0.3, 0.2456866804, 0.2683982683), (0.5, 0.0222222222, 0.0303030303)],
)
def test_published_toy(shared_data, iou_thresh, area, eleven):
    folder = shared_data / "eval_voc_toy"
    records = [record(i, rows) for i, rows in read_toy(folder / "groundtruths").items()]
    detections = {i: found(r[:, 1:], r[:, 0]) for i, r in read_toy(folder / "detections").items()}
    assert sum(map(len, records)) == 15
    assert sum(map(len, detections.values())) == 24
    for metric, expected in (("voc12", area), ("voc07", eleven)):
        report = evaluate_voc(records, detections, ["person"], iou_thresh, metric)
        assert report.metrics["mAP"] == pytest.approx(expected, abs=1e-9)


def test_greedy_matching_rules():
    gt = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60]], float)
    boxes = np.array(
        [
            [0, 0, 10, 10],  # the first object
            [0, 0, 10, 10],  # again: the free second object overlaps too, but less
            [50, 50, 60, 60],  # ignored
            [50, 50, 60, 60],  # ignored once more
            [50, 50, 60, 55],  # overlap of exactly 0.5
            [50, 50, 60, 54.9],  # just less
        ]
    )
    images = np.array([4] * 6)
    none = np.zeros(3, bool)
    verdicts = match(boxes, images, gt, images[:3], np.array([False, False, True]), none, 0.5)
    expected = [TRUE_POSITIVE, FALSE_POSITIVE, IGNORED, IGNORED, IGNORED, FALSE_POSITIVE]
    assert verdicts.tolist() == expected
    elsewhere = match(boxes, images, gt, images[:3] + 1, none, none, 0.5)
    assert elsewhere.tolist() == [FALSE_POSITIVE] * 6


@pytest.mark.parametrize("first_is_ignored", [False, True])
def test_of_equal_overlaps_the_first_object_is_taken(first_is_ignored):
    gt = np.array([FAR, FAR], float)
    flags = np.array([first_is_ignored, not first_is_ignored])
    verdicts = match(gt[:1], np.zeros(1), gt, np.zeros(2), flags, np.zeros(2, bool), 0.5)
    assert verdicts.tolist() == [IGNORED if first_is_ignored else TRUE_POSITIVE]


def test_blocks_of_detections_change_nothing(monkeypatch):
    records, detections, names = random_case(3, images=40)
    whole = evaluate_voc(records, detections, names)
    monkeypatch.setattr("mxrcnn.evaluation.matching._BLOCK", 7)
    assert evaluate_voc(records, detections, names).to_json() == whole.to_json()


def test_difficult_and_crowd_objects_do_not_count():
    box = (10, 10, 50, 50)
    records = [
        record("a", [box, FAR], difficult=[False, True]),
        record("b", [box, FAR], crowd=[False, True]),
    ]
    detections = {i: found([FAR, box], [0.9, 0.8]) for i in "ab"}
    report = evaluate_voc(records, detections, ["x"], metric="voc12")
    row = report.per_class["x"]
    assert (row["AP"], row["objects"], row["ignored_objects"], row["detections"]) == (1, 2, 2, 4)
    assert report.curves["x"]["recall"].tolist() == [0.5, 1.0]
    assert report.curves["x"]["scores"].tolist() == pytest.approx([0.8, 0.8])


def test_classes_without_objects_leave_the_mean():
    records = [record(1, [FAR, FAR], [1, 2], difficult=[False, True])]
    detections = {1: found([FAR, FAR, FAR], [0.9, 0.9, 0.9], [1, 2, 3])}
    report = evaluate_voc(records, detections, ["seen", "hard", "absent"])
    assert report.metrics["mAP"] == 1
    assert any("hard, absent" in note for note in report.notes)
    assert report.to_json()["per_class"]["absent"]["AP"] is None
    line = next(line for line in report.table().splitlines() if line.startswith("absent"))
    assert line.split() == ["absent", "-", "0", "0", "1", "-"]


def test_nothing_at_all():
    assert math.isnan(evaluate_voc([], {}, ["x"]).metrics["mAP"])
    report = evaluate_voc([record(1, [FAR]), record(2, [])], {2: Detections.empty()}, ["x"])
    assert report.metrics["mAP"] == 0
    assert any("1 of 2 images have no entry" in note for note in report.notes)


def test_equal_scores_keep_the_order_of_the_data():
    records = [record(i, [FAR]) for i in "ab"]
    right, wrong = found([FAR], [0.5]), found([(0, 0, 9, 9)], [0.5])
    first = evaluate_voc(records, {"b": wrong, "a": right}, ["x"], metric="voc12")
    last = evaluate_voc(records, {"b": right, "a": wrong}, ["x"], metric="voc12")
    assert (first.metrics["mAP"], last.metrics["mAP"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("detections", "problem"),
    [
        ({"zebra": found([FAR], [0.5])}, "zebra"),
        ({1: found([FAR], [math.nan])}, "image 1.*not finite"),
        ({1: found([(0, 0, math.inf, 1)], [0.5])}, "image 1.*not finite"),
        ({1: found([FAR], [0.5], [2])}, r"image 1.*outside 1\.\.1"),
        ({1: found([FAR], [0.5], [0])}, r"image 1.*outside 1\.\.1"),
    ],
)
def test_bad_detections_are_named(detections, problem):
    with pytest.raises(ValueError, match=problem):
        evaluate_voc([record(1, [FAR])], detections, ["x"])


def test_bad_arguments_are_named():
    records = [record(1, [FAR])]
    with pytest.raises(ValueError, match="voc2007"):
        evaluate_voc(records, {}, ["x"], metric="voc2007")
    with pytest.raises(ValueError, match="iou_thresh 50"):
        evaluate_voc(records, {}, ["x"], iou_thresh=50)
    with pytest.raises(ValueError, match="more than once"):
        evaluate_voc(records * 2, {}, ["x"])


@settings(max_examples=60)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 45))
def test_average_precision_properties(hits, objects):
    tp = np.cumsum(hits, dtype=int)
    objects = max(objects, int(tp[-1]) if len(tp) else 0)
    recall, precision = tp / objects, tp / np.arange(1, len(tp) + 1)
    for old in (True, False):
        ap = average_precision(recall, precision, old)
        assert 0 <= ap <= 1 + 1e-12
        worse = np.append(recall, recall[-1:]), np.append(precision, precision[-1:] / 2)
        assert average_precision(*worse, old) == pytest.approx(ap)  # a late miss changes nothing
        assert (ap > 0.999999) == (all(hits[:objects]) and len(hits) >= objects)


def test_image_scores_are_f1_per_image():
    box = (10, 10, 50, 50)
    records = [
        record("perfect", [box]),
        record("empty", []),
        record("missed", [box, FAR]),
        record("false", [box]),
        record("class", [box], [2]),
        record("hard", [box, FAR], difficult=[False, True]),
    ]
    detections = {
        "perfect": found([box, FAR], [0.9, 0.4]),
        "missed": found([box], [0.9]),
        "false": found([box, FAR], [0.9, 0.9]),
        "class": found([box], [0.9], [1]),
        "hard": found([box, FAR], [0.9, 0.9]),
    }
    scores = image_scores(records, detections, 0.5, 0.5)
    two_thirds = pytest.approx(2 / 3)
    assert list(scores) == [r.image_id for r in records]
    assert list(scores.values()) == [1, 1, two_thirds, two_thirds, 0, 1]
    assert image_scores([], {}) == {}


@pytest.mark.alone
def test_many_images_are_quick():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 400, (200_000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 150, corner.shape)], axis=1)
    classes, scores = rng.integers(1, 21, len(boxes)), rng.random(len(boxes))
    records = [record(i, boxes[i : i + 3], classes[i : i + 3]) for i in range(10_000)]
    pieces = [slice(20 * i, 20 * i + 20) for i in range(10_000)]
    detections = {i: found(boxes[p], scores[p], classes[p]) for i, p in enumerate(pieces)}
    start = time.perf_counter()
    evaluate_voc(records, detections, [str(k) for k in range(20)])
    assert time.perf_counter() - start < 5  # measured: 0.3 s
