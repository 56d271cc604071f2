"""`mxrcnn compare` and `mxrcnn test --ci`: weights, intervals, verdicts, inputs and the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mxrcnn.cli import main
from mxrcnn.config import ConfigError, make_config, override
from mxrcnn.data import load_coco, open_dataset
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.records import DataError, Dataset, Detections
from mxrcnn.evaluation.bootstrap import (
    Estimate,
    bias_corrected,
    bootstrap,
    draws,
    images_needed,
    student_t,
    verdict,
)
from mxrcnn.evaluation.compare import compare
from mxrcnn.evaluation.core import evaluate
from mxrcnn.evaluation.curves import match_once
from mxrcnn.evaluation.intervals import with_intervals
from mxrcnn.evaluation.submission import write_coco_results, write_identity
from mxrcnn.evaluation.tested import Tested, open_truth, read_results
from mxrcnn.runs.checkpoint import RunFolder
from tests.bootstrap import simulate
from tests.factories import Picture, make_voc, tiny_config, truncate
from tests.test_evaluation_voc import found, random_case, record

NONE = Detections.empty()


def drawn(seed: int = 0, images: int = 30) -> tuple[Dataset, dict]:
    """Images with difficult objects and crowds, sizes of all ranges, and detections, some equal."""
    records, detections, names = random_case(seed, images)
    rng = np.random.default_rng(seed)
    out = []
    for r in records:
        areas = rng.choice([100, 3000, 50_000], len(r)).astype(np.float32)
        out.append(replace(r, areas=areas, crowd=rng.random(len(r)) < 0.1))
    return Dataset("drawn", tuple(names), tuple(out)), detections


def published(shared_data, kind: str) -> tuple[Dataset, dict]:
    folder = shared_data / "eval_coco"
    dataset = load_coco(folder / "instances_val2014_100.json", require_images=False)
    results = folder / f"instances_val2014_fake{kind}100_results.json"
    if kind == "segm":
        rows = json.loads(results.read_text())
        return dataset, rows
    return dataset, read_results(results, dataset)


def expected(dataset: Dataset, detections, metric: str) -> tuple[dict, dict]:
    """The numbers of pycocotools and `evaluate_voc`, by our names; NaN: nothing to measure."""
    report = evaluate(dataset, detections, metric)
    clean = {k: math.nan if v == -1 else v for k, v in report.metrics.items()}
    if metric != "coco":
        rows = {name: {metric: row["AP"]} for name, row in report.per_class.items()}
        return {metric: clean["mAP"]}, rows
    return clean, {
        name: {k: math.nan if v == -1 else v for k, v in row.items()}
        for name, row in report.per_class.items()
    }


def check_equal(dataset: Dataset, detections, values: np.ndarray, metrics) -> None:
    """values (1 + K, M) equal what the evaluation says of the data set."""
    place = {name: i for i, name in enumerate(metrics)}
    for metric in ("coco", "voc07", "voc12"):
        overall, classes = expected(dataset, detections, metric)
        rows = [overall, *(classes[name] for name in dataset.class_names)]
        for ours, row in zip(values, rows):
            for name in row.keys() & place.keys():
                assert ours[place[name]] == pytest.approx(row[name], abs=1e-9, nan_ok=True), name


def test_weights_of_one_give_pycocotools_numbers(shared_data):
    dataset, detections = published(shared_data, "bbox")
    curves = match_once(dataset, detections)
    values = curves.values(np.ones((len(dataset), 1), int))[..., 0]
    assert values[0][:2] == pytest.approx([0.504581, 0.696973], abs=1e-6)
    check_equal(dataset, detections, values, curves.metrics)


def test_masks_give_pycocotools_numbers(shared_data):
    dataset, rows = published(shared_data, "segm")
    category = {c: k for k, c in enumerate(dataset.category_ids, 1)}
    detections = {}
    for image_id in {row["image_id"] for row in rows}:
        mine = [row for row in rows if row["image_id"] == image_id]
        answers = found(
            [(0, 0, 1, 1)] * len(mine),
            [row["score"] for row in mine],
            [category[row["category_id"]] for row in mine],
        )
        detections[image_id] = replace(answers, masks=[row["segmentation"] for row in mine])
    curves = match_once(dataset, detections, ("coco",))
    values = dict(zip(curves.metrics, curves.values(np.ones((len(dataset), 1), int))[0, :, 0]))
    want = {"segm_AP": 0.319545, "segm_AP50": 0.562288, "segm_APs": 0.387374, "segm_APl": 0.326934}
    assert {k: values[k] for k in want} == pytest.approx(want, abs=2e-5)  # scores are float32


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_repeated_images(seed):
    """Any resample's numbers are those of a data set that holds each image as often."""
    dataset, detections = drawn(seed)
    weights = next(draws(len(dataset), 3, seed, 10))
    curves = match_once(dataset, detections)
    values = curves.values(np.column_stack([np.ones(len(dataset), int), weights]))
    check_equal(dataset, detections, values[..., 0], curves.metrics)
    for column in range(3):
        records, answers = [], {}
        for r, times in zip(dataset.records, weights[:, column]):
            for copy in range(times):
                records.append(replace(r, image_id=100 * r.image_id + copy))
                answers[records[-1].image_id] = detections[r.image_id]
        again = replace(dataset, records=tuple(records))
        check_equal(again, answers, values[..., 1 + column], curves.metrics)


def test_draws_and_chunks_do_not_matter():
    whole, parts = (np.hstack(list(draws(7, 20, 3, size))) for size in (20, 3))
    assert np.array_equal(whole, parts)
    assert (whole.sum(axis=0) == 7).all()
    assert whole.shape == (7, 20)


def test_memory_in_chunks_gives_the_same(monkeypatch):
    dataset, detections = drawn()
    curves = match_once(dataset, detections, ("voc12",))
    whole = bootstrap([curves], 50)
    monkeypatch.setattr("mxrcnn.evaluation.bootstrap._CELLS", 7 * curves.longest)
    assert bootstrap([curves], 50) == whole


def test_bias_corrected_interval():
    z = np.linspace(0.00001, 0.99999, 20_000)
    samples = np.array([NormalDist().inv_cdf(x) for x in z])
    assert bias_corrected(samples, 0.0, 10**6) == pytest.approx((-1.96, 1.96), abs=0.03)
    # samples that lie 0.5 too high: the percentiles move down twice as far
    assert bias_corrected(samples, -0.5, 10**6) == pytest.approx((-2.96, 0.96), abs=0.15)
    # few images: Student's t of 9 degrees and n / (n - 1)
    assert bias_corrected(samples, 0.0, 10)[1] == pytest.approx(2.262 * (10 / 9) ** 0.5, abs=0.05)
    assert [student_t(0.975, n) for n in (4, 9, 71)] == pytest.approx(
        [2.776, 2.262, 1.994], abs=0.01
    )
    assert bias_corrected(np.zeros(50), 0.0, 9) == (0, 0)


@pytest.mark.parametrize(
    ("estimate", "sentence"),
    [
        (Estimate(0.018, 0.006, 0.031, 0.006), "B is better by 1.8 [0.6, 3.1] AP points"),
        (Estimate(-0.018, -0.031, -0.006, 0.006), "A is better by 1.8 [0.6, 3.1] AP points"),
        (
            Estimate(0.01, -0.01, 0.03, 0.01),
            "no difference can be told from 72 images (+1.0 [-1.0, 3.0] AP points); about 570 "
            "would do if the difference is as large as it looks",
        ),
        (Estimate(0.0, 0.0, 0.0, 0.0), "no difference: both have the same AP in 72 images"),
        (Estimate(0.01), "no interval can be given: fewer than 5 of 72 images have objects"),
        (Estimate(math.nan), "no AP can be compared: there are no objects to find in 72 images"),
    ],
)
def test_verdict(estimate, sentence):
    assert verdict(estimate, 72, "AP").startswith(sentence)


def test_images_needed():
    # 72 * (2.802 * 0.01 / 0.01)^2 = 565.1
    assert images_needed(Estimate(0.01, -0.01, 0.03, 0.01), 72) == 570
    assert images_needed(Estimate(0.02, -0.001, 0.03, 0.001), 72) == 73
    assert images_needed(Estimate(0.0, -0.1, 0.1, 0.1), 72) is None
    assert images_needed(Estimate(0.1), 72) is None


def test_a_better_detector_is_found_better():
    dataset, worse = drawn(1, 60)
    better = {r.image_id: found(r.boxes, np.full(len(r), 0.9), r.classes) for r in dataset.records}
    comparison = compare(dataset, worse, better, metric="voc12", resamples=200)
    assert comparison.verdict.startswith("B is better by ")
    back = compare(dataset, better, worse, metric="voc12", resamples=200)
    assert back.verdict == comparison.verdict.replace("B is", "A is")
    same = compare(dataset, worse, worse, metric="coco", resamples=200)
    assert same.verdict.startswith("no difference: both have the same AP in 60 images")
    assert "no image changed: both find the same objects in all 60" in same.table()
    assert max(map(len, comparison.table().partition("images changed")[0].splitlines())) <= 100
    assert json.loads(json.dumps(comparison.to_json(), allow_nan=False))["images"] == 60


def test_what_changed_on_an_image():
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(4)]
    dataset = Dataset("d", ("dog",), (record(0, boxes[:1]), record(1, boxes), record(2, [])))
    wrong = (200, 200, 210, 210)
    a = {0: found(boxes[:1], [0.9]), 1: found(boxes[:2], [0.9, 0.8])}
    b = {0: found(boxes[:1], [0.9]), 1: found([*boxes[1:], wrong], [0.9, 0.9, 0.9, 0.9])}
    first, *rest = compare(dataset, a, b, resamples=10).changes
    assert first.to_json() == {
        "image_id": 1,
        "objects": 4,
        "both": 1,
        "only_a": 1,
        "only_b": 2,
        "false_a": 0,
        "false_b": 1,
        "size": 4,
        "gain": 0,
    }
    assert [change.size for change in rest] == [0, 0]


@pytest.mark.parametrize("metric", ["coco", "voc07"])
def test_empty_is_normal(metric):
    one = Dataset("one", ("dog", "cat"), (record(0, [(0, 0, 9, 9)]),))
    comparison = compare(one, {}, {0: found([(0, 0, 9, 9)], [0.5])}, metric=metric, resamples=10)
    assert comparison.verdict.startswith("no interval can be given: fewer than 5 of 1 image have")
    assert "A has no detections" in comparison.table()
    nothing = Dataset("nothing", ("dog",), (record(0, []), record(1, [])))
    for dataset in (nothing, replace(nothing, records=())):
        comparison = compare(dataset, {}, {}, metric=metric, resamples=10)
        assert "there are no objects to find" in comparison.verdict
        json.dumps(comparison.to_json(), allow_nan=False)
    with pytest.raises(ConfigError, match="--resamples 1"):
        compare(one, {}, {}, resamples=1)


def test_intervals_beside_a_test():
    dataset, detections = drawn(2)
    for metric in ("voc12", "coco"):
        report = evaluate(dataset, detections, metric)
        both = report.merge(with_intervals(dataset, detections, metric, 100))
        low, high = both.intervals[report.main]
        assert low < report.value < high
        stored = both.to_json()["intervals"]
        assert set(stored["per_class"]["class1"]) == (
            {"AP"} if metric == "voc12" else {"AP", "AP50"}
        )
        assert stored["metrics"][report.main] == [low, high]
        assert f"[{low:.4f}, {high:.4f}]" in both.table()
    assert "intervals" not in report.to_json()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two tests of a VOC set, in folders a and b, whose names are not safe as HTML."""
    monkeypatch.chdir(tmp_path)
    size, box = (80, 100), ("&lt;b&gt;dog", 10, 20, 50, 60)
    root = make_voc(
        tmp_path / "data", {f"i{n}<i>&": Picture(size, [box]) for n in range(8)}, "test"
    )
    dataset = replace(_open(root), name="2007_test")
    answers = {r.image_id: found(r.boxes, [0.9], [1]) for r in dataset.records}
    for name, count in (("a", 4), ("b", 8)):
        kept = dict(list(answers.items())[:count])
        write_coco_results(kept, dataset, tmp_path / name)
        write_identity(dataset, tmp_path / name)
    return tmp_path, dataset


def _open(root) -> Dataset:
    config = override(make_config(), {"data.dataset": "voc", "data.root": str(root)})
    return open_dataset(config.data, "2007_test")


def test_the_command(folders, capsys):
    folder, _ = folders
    words = ["a", "b", "--data", "data", "--resamples", "200", "--pictures", "3"]
    assert main(["compare", *words]) == 0
    printed = capsys.readouterr().out
    assert "B is better by 45.5" in printed
    assert "4 of 8 images changed" in printed
    stored = json.loads((folder / "compare_a_b" / "compare.json").read_text())
    assert stored["metrics"]["voc07"]["difference"]["value"] == pytest.approx(5 / 11)
    page = (folder / "compare_a_b" / "compare.html").read_text()
    assert "1 with smaller changes are left out" in page
    assert page.count("data:image/jpeg;base64,") == 9
    for part in ("<i>", "<b>", "<script", "http://", "https://"):
        assert part not in page
    assert "i7&lt;i&gt;&amp;" in page or "i4&lt;i&gt;&amp;" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'; img-src data:" in page


def test_pictures_that_cannot_be_read(folders, capsys):
    folder, dataset = folders
    for r in dataset.records[4:]:
        truncate(r.path)  # opening the data reads no pixels
    main(["compare", "a", "b", "--data", "data", "--resamples", "20", "--out", "out"])
    assert (folder / "out" / "compare.html").read_text().count("No picture: ") == 4


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        ("", ["a", "b"], "give the data with --data PATH"),
        ("", ["a", "c", "--data", "data"], "c is not a run, a folder that"),
        ("fewer", ["a", "b", "--data", "data"], "a and b were not tested on the same data"),
        ("fewer", ["a", "b", "--data", "data"], "1 image removed: i7"),
        ("classes", ["a", "b", "--data", "data"], "1 class added: wolf"),
        ("both", ["a", "b", "--data", "data"], "was tested on other data than 2007_test is now"),
        ("image", ["a", "b", "--data", "data"], "result 0: image 'x' is not in 2007_test"),
    ],
)
def test_what_cannot_be_compared(folders, capsys, spoil, words, message):
    folder, dataset = folders
    if spoil in ("fewer", "both"):
        fewer = replace(dataset, records=dataset.records[:-1])
        for name in ("a", "b") if spoil == "both" else ("b",):
            write_identity(fewer, folder / name)
    if spoil == "classes":
        write_identity(replace(dataset, class_names=("<b>dog", "wolf")), folder / "b")
    if spoil == "image":
        row = {"image_id": "x", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
        (folder / "a" / "coco_results.json").write_text(json.dumps([row]))
    with pytest.raises(SystemExit):
        main(["compare", *words])
    assert message in capsys.readouterr().err


def test_a_run_that_was_not_tested(folders, capsys):
    folder, _ = folders
    config = tiny_config(data__dataset="voc", data__root=str(folder / "data"))
    RunFolder(folder / "run").write_config(config)
    with pytest.raises(SystemExit):
        main(["compare", "run", "b", "--imageset", "2007_test"])
    assert "test it: mxrcnn test run --imageset 2007_test" in capsys.readouterr().err


def test_two_runs(folders, capsys):
    """Runs bring their own data; on other data they are not compared."""
    folder, dataset = folders
    fewer = make_voc(folder / "fewer", {"i0": Picture((80, 100), [("wolf", 1, 2, 30, 40)])}, "test")
    for name, root in (("r1", folder / "data"), ("r2", folder / "data"), ("r3", fewer)):
        config = tiny_config(data__dataset="voc", data__root=str(root))
        RunFolder(folder / name).write_config(config)
        write_coco_results({}, dataset, folder / name / "test_2007_test")
    words = ["--imageset", "2007_test", "--resamples", "10"]
    assert main(["compare", "r1", "r2", *words]) == 0
    assert "no difference: both have the same VOC07 mAP in 8 images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["compare", "r1", "r3", *words])
    message = capsys.readouterr().err
    assert "r1 and r3 were not tested on the same data" in message
    assert "1 class removed: <b>dog" in message
    assert "1 image added: i0" in message


def test_masks_of_one_side_alone_are_not_compared():
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    first = replace(record(0, [(2, 2, 12, 12)]), masks=(square,))
    dataset = Dataset("d", ("dog",), (first,), metric="coco")
    boxes = found([(2, 2, 12, 12)], [0.9])
    rle = mask_utils.frPyObjects(square, 300, 300)[0]
    masks = replace(boxes, masks=[rle])
    one = compare(dataset, {0: masks}, {0: boxes}, resamples=10)
    assert "only one of the two has masks: segm_AP, segm_AP50" in one.notes[0]
    assert (one.main, one.rows["AP"].a) == ("AP", 1)
    both = compare(dataset, {0: masks}, {0: masks}, resamples=10)
    assert (both.main, both.rows["segm_AP"].a) == ("segm_AP", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("{}", "not a list of COCO results but dict"),
        ("[3]", "result 0 is not a COCO result"),
        ('[{"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1]}]', "KeyError.'score'"),
        ('[{"image_id": 0, "category_id": 9, "bbox": [0,0,1,1], "score": 1}]', "category 9 is not"),
        ('[{"image_id": 0, "category_id": 1, "bbox": [0,0,1,NaN], "score": 1}]', "not finite"),
    ],
)
def test_results_that_are_not_valid(tmp_path, text, problem):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        read_results(path, Dataset("d", ("dog",), (record(0, []),)))


def test_results_read_back_as_written(tmp_path):
    dataset, detections = drawn(5)
    path = write_coco_results(detections, dataset, tmp_path)
    again = read_results(path, dataset)
    for image_id, answers in detections.items():
        order = np.argsort(-answers.scores, kind="stable")
        back = again.get(image_id, NONE)
        assert np.array_equal(back.boxes, answers.boxes[order])
        assert np.array_equal(back.classes, answers.classes[order])


def test_bare_results_say_that_the_data_are_unknown(folders):
    folder, dataset = folders
    sides = [Tested(n, None, folder / n / "coco_results.json", "", None) for n in "ab"]
    settings = {"data.dataset": "voc", "data.root": str(folder / "data")}
    opened, _, notes = open_truth(sides, settings, "2007_test")
    assert DataIdentity.of(opened) == DataIdentity.of(dataset)
    assert [note.partition(":")[0] for note in notes] == [
        f"{n} does not say which objects it was tested on" for n in "ab"
    ]


def test_simulated_intervals_hold():
    """A small run of `python -m tests.bootstrap`; docs/evaluation.md has the numbers of a large."""
    shares = simulate(sets=25, images=72, resamples=100, size=1500, seed=1)
    assert shares["intervals that cover AP50"] >= 0.8
    assert shares["intervals that cover B - A"] >= 0.8
    assert shares["twins that come out as different"] <= 0.25
