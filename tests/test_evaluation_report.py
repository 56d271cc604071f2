"""Reports, proposal recall, result files, and atomic writes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrcnn.config import override
from mxrcnn.data import open_dataset
from mxrcnn.data.records import Dataset, Detections
from mxrcnn.evaluation.recall import proposal_recall
from mxrcnn.evaluation.report import Report, write_report
from mxrcnn.evaluation.run import Found, TestRequest, write_all
from mxrcnn.evaluation.submission import voc_name, write_voc_submission
from mxrcnn.evaluation.voc import evaluate_voc
from mxrcnn.files import atomic_folder, atomic_write, safe_name
from tests import reference
from tests.factories import Picture, make_voc, tiny_config
from tests.test_evaluation_voc import FAR, found, random_case, record

REPORT = Report(
    {"mAP": 0.5, "speed": 123.456},
    {"a": {"AP": 0.5, "objects": 12}, "longer name": {"AP": math.nan, "objects": 0}},
    {"a": {"recall": np.array([1.0]), "precision": np.array([0.5])}},
    ["a note"],
)


def test_table_is_aligned():
    assert REPORT.table().splitlines() == [
        "class            AP  objects",
        "-----------  ------  -------",
        "a            0.5000       12",
        "longer name       -        0",
        "",
        "mAP    0.5000",
        "speed   123.5",
        "",
        "a note",
    ]
    assert Report({}).table() == ""


def test_report_file(tmp_path):
    report = REPORT.merge(Report({"numpy": np.float32(0.25), "bad": np.float64("inf")}))
    path = write_report(report, tmp_path / "new" / "folder")
    assert path.name == "report.json"
    assert json.loads(path.read_text()) == {
        "metric": None,
        "main": None,
        "metrics": {"mAP": 0.5, "speed": 123.456, "numpy": 0.25, "bad": None},
        "per_class": {
            "a": {"AP": 0.5, "objects": 12},
            "longer name": {"AP": None, "objects": 0},
        },
        "best_f1_threshold": {},
        "tested": {},
        "notes": ["a note"],
    }
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_merge():
    other = Report({"recall@0.5/300": 0.9}, {"a": {"recall": 1.0}, "b": {"recall": 0.0}}, {}, ["b"])
    both = REPORT.merge(other)
    assert list(both.metrics) == ["mAP", "speed", "recall@0.5/300"]
    assert both.per_class["a"] == {"AP": 0.5, "objects": 12, "recall": 1.0}
    assert both.notes == ["a note", "b"]
    assert both.curves.keys() == {"a"}
    assert both.table().splitlines()[4].split() == ["b", "-", "-", "0.0000"]
    with pytest.raises(ValueError, match="both have the metrics mAP"):
        REPORT.merge(Report({"mAP": 0.4}))


def test_proposal_recall_against_loops():
    records, detections, _ = random_case(7, images=30)
    proposals = {i: d.boxes for i, d in detections.items() if i != 3}
    answer = proposal_recall(records, proposals, (0.3, 0.5), (2, 100))
    assert list(answer) == ["recall@0.3/2", "recall@0.3/100", "recall@0.5/2", "recall@0.5/100"]
    for key, share in answer.items():
        thresh, n = (float(part) for part in key.split("@")[1].split("/"))
        covered = [
            any(
                reference.inclusive_iou((*(b[:2] + 1), *b[2:]), (*(p[:2] + 1), *p[2:])) >= thresh
                for p in proposals.get(r.image_id, [])[: int(n)]
            )
            for r in records
            for b, hard in zip(r.boxes, r.difficult)
            if not hard
        ]
        assert 0 < share < 1
        assert share == pytest.approx(np.mean(covered))


def test_proposal_recall_of_nothing():
    assert proposal_recall([record(1, [FAR])], {}) == {"recall@0.5/300": 0, "recall@0.7/300": 0}
    assert math.isnan(proposal_recall([record(1, [])], {})["recall@0.5/300"])
    crowd = record(1, [FAR], crowd=[True])
    assert math.isnan(proposal_recall([crowd], {1: [FAR]})["recall@0.5/300"])
    with pytest.raises(ValueError, match="2"):
        proposal_recall([record(1, [FAR])], {2: [FAR]})
    with pytest.raises(ValueError, match="top_n 0"):
        proposal_recall([record(1, [FAR])], {}, top_n=(0, 5))


def test_voc_files_read_back_give_the_same_ap(tmp_path):
    records, detections, names = random_case(5)
    names[1] = "a/b"
    dataset = Dataset("random", tuple(names), tuple(records))
    paths = write_voc_submission(detections, dataset, tmp_path)
    assert [p.name for p in paths] == [
        f"det_test_{name}.txt" for name in ("class1", "a%2Fb", "class3")
    ]
    assert all(p.parent == tmp_path / "results" for p in paths)
    rows = {record.image_id: [] for record in records}
    for k, path in enumerate(paths, 1):
        for line in path.read_text().splitlines():
            name, *numbers = line.split()
            rows[int(name)].append([k, *map(float, numbers)])
    read = {}
    for image_id, lines in rows.items():
        table = np.array(lines).reshape(-1, 6)
        read[image_id] = found(table[:, 2:] - (1, 1, 0, 0), table[:, 1], table[:, 0].astype(int))
    expected = evaluate_voc(records, detections, names)
    assert evaluate_voc(records, read, names).to_json() == expected.to_json()


def test_voc_file_format(tmp_path):
    dataset = Dataset("one", ("cat", "dog"), (record("000001", []),))
    detections = {"000001": found([(0, 1.5, 30, 40)], [0.7654321], [2])}
    cat, dog = write_voc_submission(detections, dataset, tmp_path)
    assert cat.read_text() == ""
    assert dog.read_text() == "000001 0.765432119 1.000 2.500 30.000 40.000\n"
    alike = Dataset("two", ("cat",), (record(1, []), record("1", [])))
    with pytest.raises(ValueError, match="1 image ids differ only in type"):
        write_voc_submission({}, alike, tmp_path)
    with pytest.raises(ValueError, match="class"):
        write_voc_submission({"000001": found([FAR], [1], [0])}, dataset, tmp_path)
    with pytest.raises(ValueError, match="other"):
        write_voc_submission({"other": Detections.empty()}, dataset, tmp_path)


NAMES = ("IMG 1", "photo -1", "50%", "50%25", "a\tb\n", "a\xa0b", "\u3000", "", "%", "\udcff", "né")


def test_any_name_is_one_word_in_voc_files(tmp_path):
    words = [voc_name(name) for name in NAMES]
    assert words[:4] == ["IMG%201", "photo%20-1", "50%25", "50%2525"]
    assert words[-1] == "né"
    assert len(set(words)) == len(NAMES)
    for name, word in zip(NAMES, words):
        assert word.split() == [word]
        assert unquote("" if word == "%" else word, errors="surrogatepass") == name
    dataset = Dataset("names", ("cat",), tuple(record(name, []) for name in NAMES))
    detections = {name: found([FAR], [0.5]) for name in NAMES}
    (path,) = write_voc_submission(detections, dataset, tmp_path)
    assert [line.split()[0] for line in path.read_text("utf-8").splitlines()] == words


@pytest.fixture
def tested(tmp_path):
    """Write and score perfect detections for a VOC set with names that have spaces."""
    names = ("IMG 1", "photo -1")
    root = make_voc(tmp_path / "data", {name: Picture() for name in names})
    config = override(tiny_config(), {"data.dataset": "voc", "data.root": str(root)})
    dataset = open_dataset(config.data, "2007_train")
    truth = {r.image_id: found(r.boxes, [0.9] * len(r), r.classes) for r in dataset.records}

    def write(metric="voc07", **options):
        out = tmp_path / "out"
        answers = Found(truth, {}, 2.5)
        about = Report({}, notes=["note"])
        return write_all(
            TestRequest("run", metric=metric, **options), config, dataset, answers, out, about
        )

    return write


def test_intervals_are_written_if_asked_for(tested):
    outcome = tested(ci=True)
    assert not outcome.failures
    assert (
        "2 of 2 AP have no interval: fewer than 5 images have such objects" in outcome.report.notes
    )
    assert not any("interval" in note for note in tested().report.notes)


def test_names_that_training_takes_can_be_tested(tested):
    outcome = tested()
    assert (outcome.failures, outcome.report.value) == ((), 1)
    lines = (outcome.out / "results" / "det_test_dog.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["IMG%201", "photo%20-1"]
    told = "2 image names have white space or %: in results/ they are percent-encoded, as in URLs"
    assert outcome.report.notes[-2:] == ["note", told]
    ids = {row["image_id"] for row in json.loads((outcome.out / "coco_results.json").read_text())}
    assert ids == {"IMG 1", "photo -1"}


@pytest.mark.parametrize(
    ("broken", "lost"),
    [
        ("write_coco_results", "coco_results.json"),
        ("write_identity", "data.json"),
        ("write_voc_submission", "results/"),
        ("evaluate", "metric"),
        ("find_errors", "errors"),
        ("write_page", "report.html"),
        ("measured", "recall"),
        ("write_report", "report.json"),
        ("viz.plot_precision_recall", "precision_recall/"),
        ("draw_extremes", "pictures/"),
    ],
)
@pytest.mark.parametrize("error", [OSError("disk full"), KeyError("odd")])
def test_what_fails_after_the_detections_loses_nothing_else(
    tested, tmp_path, monkeypatch, broken, lost, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(f"mxrcnn.evaluation.run.{broken}", fail)
    outcome = tested()
    (failure,) = outcome.failures
    assert failure.startswith(f"{lost} failed: ")
    assert "disk full" in failure or "KeyError: 'odd'" in failure
    files = {"coco_results.json", "data.json", "results/", "report.json"}
    files |= {"report.html", "precision_recall/", "pictures/"}
    assert set(outcome.written) == files - {lost}
    assert {path.name for path in outcome.out.iterdir()} == {f.strip("/") for f in outcome.written}
    if broken in ("evaluate", "measured", "write_voc_submission"):
        assert failure in json.loads((outcome.out / "report.json").read_text())["notes"]


def test_atomic_write(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_write(path) as handle:
        handle.write("één\n")
        assert not path.exists()
    assert path.read_bytes() == "één\n".encode()

    def fail():
        with atomic_write(path, "wb") as handle:
            handle.write(b"half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == "één\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    with pytest.raises(ValueError, match="'a'"), atomic_write(path, "a"):
        pass


def test_atomic_write_follows_links_and_leaves_pipes_and_devices(tmp_path):
    """A device replaced by a file, such as /dev/null, is a broken machine."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for text in ("first", "second"):
        with atomic_write(tmp_path / "link") as handle:
            handle.write(text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == text
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as readers:
        read = readers.submit((tmp_path / "pipe").read_text)
        with atomic_write(tmp_path / "pipe") as handle:
            handle.write("through")
        assert read.result(timeout=10) == "through"
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_atomic_folder(tmp_path):
    whole = tmp_path / "deep" / "folder"
    with atomic_folder(whole) as partial:
        (partial / "file").write_text("text")
        assert not whole.exists()
    assert [p.name for p in whole.parent.iterdir()] == ["folder"]
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "half") as partial:
        (partial / "file").symlink_to(partial.mkdir())
    with pytest.raises(OSError, match="not empty"), atomic_folder(whole):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert (whole / "file").read_text() == "text"


def test_atomic_write_keeps_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@given(st.text(max_size=300), st.text(max_size=300))
def test_safe_names(a, b):
    name = safe_name(a)
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert len(name.encode()) <= 140
    assert (name == safe_name(b)) == (a == b)


def test_safe_names_stay_legible():
    assert safe_name("traffic light") == "traffic light"
    assert safe_name("a/b") == "a%2Fb"
    assert safe_name("x" * 500) != safe_name("x" * 501)


def test_evaluation_does_not_import_mxnet():
    code = (
        "import sys; import mxrcnn.evaluation.core,"
        " mxrcnn.evaluation.recall, mxrcnn.evaluation.submission, mxrcnn.viz;"
        " print([m for m in ('mxnet', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
