"""Score thresholds with the best F1: in reports, and for `mxrcnn predict --threshold best-f1`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mxrcnn.config import ConfigError
from mxrcnn.data.records import Dataset
from mxrcnn.evaluation.best_f1 import BestF1, best_f1_by_class
from mxrcnn.evaluation.core import METRICS, evaluate
from mxrcnn.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, match_all
from mxrcnn.evaluation.report import write_report
from mxrcnn.inference.thresholds import parse_thresholds, stored_best_f1
from tests.test_evaluation_voc import FAR, found, random_case, record

BOX = (10, 10, 50, 50)
NOWHERE = (100, 100, 120, 120)


def of_one_class(boxes, scores, objects=(BOX,), **flags) -> BestF1 | None:
    dataset = Dataset("small", ("cat",), (record("a", objects, **flags),))
    return best_f1_by_class(dataset, {"a": found(boxes, scores)})["cat"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [1, 3])  # 1: many equal scores
def test_no_threshold_is_better(seed, digits):
    """Against trying each score, with detections below it removed before matching."""
    records, detections, names = random_case(seed)
    detections = {i: replace(d, scores=np.round(d.scores, digits)) for i, d in detections.items()}
    best = best_f1_by_class(Dataset("random", tuple(names), tuple(records)), detections)

    def counts(threshold):
        kept = {i: d[d.scores >= np.float32(threshold)] for i, d in detections.items()}
        return [
            ((c.verdicts == TRUE_POSITIVE).sum(), (c.verdicts == FALSE_POSITIVE).sum())
            for c in match_all(records, kept, len(names) + 1, 0.5)
        ]

    scores = sorted({s for d in detections.values() for s in d.scores.tolist()}, reverse=True)
    tried = np.array([counts(score) for score in scores])  # (scores, classes, 2)
    for k, name in enumerate(names):
        objects = sum(int((~r.difficult[r.classes == k + 1]).sum()) for r in records)
        hits, wrong = tried[:, k].T
        f1 = 2 * hits / np.maximum(hits + wrong + objects, 1)
        assert best[name].f1 == pytest.approx(f1.max())
        assert best[name].threshold <= scores[int(np.argmax(f1))]  # the highest of the best
        hit, wrong = counts(best[name].threshold)[k]
        assert (hit, wrong) == tuple(tried[int(np.argmax(f1)), k])
        assert best[name].precision == pytest.approx(hit / (hit + wrong))
        assert best[name].recall == pytest.approx(hit / objects)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((([BOX, NOWHERE], [0.9, 0.5])), BestF1(pytest.approx(0.7), 1, 1, 1)),  # halfway
        ((([BOX], [0.75])), BestF1(0.75, 1, 1, 1)),  # nothing is known below
        ((([BOX, NOWHERE], [0.5, 0.5])), BestF1(0.5, pytest.approx(2 / 3), 0.5, 1)),
        (([], []), None),
        (([NOWHERE], [0.9]), None),
        (([BOX], [0.9], ()), None),  # nothing to find
        (([BOX, FAR], [0.75, 0.9], (BOX, FAR), {"difficult": [0, 1]}), BestF1(0.75, 1, 1, 1)),
        (([BOX, FAR], [0.75, 0.9], (BOX, FAR), {"crowd": [0, 1]}), BestF1(0.75, 1, 1, 1)),
        (([FAR], [0.9], (FAR,), {"difficult": [1]}), None),
    ],
)
def test_special_cases(given, expected):
    *values, flags = given if isinstance(given[-1], dict) else (*given, {})
    assert of_one_class(*values, **flags) == expected


def test_neighbouring_scores_have_a_threshold_between_or_on_them():
    above = np.nextafter(np.float32(0.5), np.float32(1))
    assert of_one_class([BOX, NOWHERE], [above, 0.5]).threshold == above


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_reports_it(tmp_path, metric):
    dataset = Dataset("small", ("cat", "dog"), (record("a", [BOX], [1]),))
    report = evaluate(dataset, {"a": found([BOX, NOWHERE], [0.75, 0.25])}, metric)
    told = json.loads(write_report(report, tmp_path).read_text())["best_f1_threshold"]
    expected = {"threshold": 0.5, "f1": 1, "precision": 1, "recall": 1}
    assert told == {"cat": expected, "dog": None}
    head, _, cat, dog, *_ = report.table().splitlines()[2:]
    assert head.endswith("best F1  at score")
    assert cat.split()[-2:] == ["1.0000", "0.5000"]
    assert dog.split()[-2:] == ["-", "-"]


# --- as thresholds ------------------------------------------------------------------------------


@pytest.fixture
def predictor(tmp_path):
    """What thresholds need of a predictor of a run's step 7."""
    names = ("cat", "dog", "bird")
    source = tmp_path / "run" / "checkpoints" / "step-00000007" / "model.params"
    numbers = lambda name: (names.index(name) + 1,)  # noqa: E731
    return SimpleNamespace(source=str(source), class_names=names, class_numbers=numbers)


def write(path, step=7, **best):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: value and {"threshold": value} for name, value in best.items()}
    tested = {"checkpoint": f"elsewhere/checkpoints/step-{step:08d}/model.params"}
    path.write_text(json.dumps({"best_f1_threshold": rows, "tested": tested}))
    return path


def test_the_last_report_gives_the_thresholds(predictor, tmp_path):
    write(tmp_path / "run/test_later/report.json", cat=0.25, dog=None, bird=0.75)
    os.utime(write(tmp_path / "run/test_a/report.json", cat=0.9), (1, 1))
    best = parse_thresholds("best-f1", predictor)
    assert best.scores == (0.25, 0.5, 0.75)
    where, lacking = best.notes
    assert where.endswith("test_later/report.json: cat 0.250, bird 0.750")
    assert lacking == "0.5 for dog: there is no best F1 of them"
    assert parse_thresholds("0.3,best-f1,cat=0.1", predictor).scores == (0.1, 0.3, 0.75)
    assert stored_best_f1(predictor) == {"best_f1_threshold": '{"cat": 0.25, "bird": 0.75}'}


def test_a_report_of_another_checkpoint_or_place(predictor, tmp_path):
    path = write(tmp_path / "report.json", step=3, cat=0.25)
    best = parse_thresholds(f"best-f1={path}", predictor)
    assert best.scores == (0.25, 0.5, 0.5)
    assert (
        "is of elsewhere/checkpoints/step-00000003/model.params, not of step-00000007"
        in (best.notes[1])
    )
    write(tmp_path / "run/test_a/report.json", step=3, cat=0.25)
    assert stored_best_f1(predictor) == {}


def test_what_a_quantized_run_and_a_file_know_of_themselves(predictor, tmp_path):
    write(tmp_path / "run/quantized.json", cat=0.25)
    assert parse_thresholds("best-f1", predictor).scores[0] == 0.25
    write(tmp_path / "run/test_a/report.json", cat=0.75)
    assert parse_thresholds("best-f1", predictor).scores[0] == 0.75
    predictor.source = "model.onnx"
    predictor.engine = SimpleNamespace(metadata={"best_f1_threshold": '{"cat": 0.125}'})
    assert parse_thresholds("best-f1", predictor).scores[0] == 0.125
    predictor.engine.metadata.clear()
    with pytest.raises(ConfigError, match=r"model.onnx holds no best F1.*mxrcnn export RUN --to"):
        parse_thresholds("best-f1", predictor)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"run mxrcnn test \S*/run first"),
        ("{", "not a readable report"),
        ("[]", "not a report of mxrcnn test"),
        ("{}", "has no best_f1_threshold: mxrcnn test RUN writes one"),
        ('{"best_f1_threshold": {"cat": {"threshold": 7}}}', "the best F1 threshold 7 is no score"),
        ('{"best_f1_threshold": {"cat": {"threshold": "x"}}}', "threshold x is no score"),
    ],
)
def test_reports_that_cannot_be_used(predictor, tmp_path, text, message):
    if text is not None:
        path = tmp_path / "run" / "test_a" / "report.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse_thresholds("best-f1", predictor)
    predictor.source = ""
    with pytest.raises(ConfigError, match="not a checkpoint of a run"):
        parse_thresholds("best-f1", predictor)
