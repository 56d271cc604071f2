"""Hundreds of broken inputs: each gives an error that names it, or is counted. None crashes, hangs,
exhausts memory or reads files outside the data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mxrcnn.data.coco import load_coco
from mxrcnn.data.records import Detections, ImageRecord
from mxrcnn.evaluation.core import evaluate
from tests.broken import changed, coco_folder
from tests.broken_formats import WRITERS
from tests.conftest import REPO

#: the largest growth of the process's memory over all inputs, in MB
GROWTH = 700


def _spawn(folder: Path, first: int) -> tuple[list[dict[str, Any]], str]:
    """A worker's output on the inputs from `first` on, until it dies or ends; and its stderr."""
    command = [sys.executable, "-m", "tests.bad_input_worker", str(folder), str(first)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, errors="replace")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return rows, f"exit code {done.returncode}: {done.stderr[-1500:]}"


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> list[dict[str, Any]]:
    """Each input's name and result; a worker that dies is restarted."""
    verdicts: list[dict[str, Any]] = []
    first, ended = 0, False
    while not ended:
        rows, how = _spawn(tmp_path_factory.mktemp("broken"), first)
        names = {row["begin"]: row["name"] for row in rows if "begin" in row}
        told = {row["number"]: row for row in rows if "number" in row}
        ended = bool(rows) and "end" in rows[-1]
        assert names or ended, how
        for number, name in names.items():
            verdicts.append({"name": name, **told.get(number, {"died": how})})
        first = max(names, default=first) + 1
        assert sum("died" in verdict for verdict in verdicts) < 40, verdicts[-1]
    return verdicts


def faults(verdict: dict[str, Any]) -> list[str]:
    """What was wrong with the handling of an input."""
    if "died" in verdict:
        return [f"the process died: {verdict['died']}"]
    out = [f"opened {name}" for name in verdict["strangers"]]
    for outcome, skip in zip(verdict["outcomes"], (False, True)):
        how = " with skip_bad" * skip
        if outcome["what"] == "crash":
            out.append(f"crash{how}: {outcome['message'][-1200:]}")
        elif outcome["what"] == "read" and verdict["certain"]:
            out.append(f"read without a word{how}")
        elif outcome["what"] == "error" and not skip and verdict["file"] not in outcome["message"]:
            out.append(f"the message does not name {verdict['file']}: {outcome['message'][:300]}")
        if len(outcome["message"]) > 4000 and outcome["what"] != "crash":
            out.append(f"a message of {len(outcome['message'])} letters{how}")
    return out


def test_every_broken_input_is_named_or_counted(verdicts):
    wrong = {v["name"]: found for v in verdicts if (found := faults(v))}
    report = "\n".join(f"{name}: {'; '.join(found)}" for name, found in wrong.items())
    assert not wrong, f"{len(wrong)} of {len(verdicts)} inputs:\n{report}"


def test_there_are_hundreds_of_them(verdicts, capsys):
    names = [verdict["name"] for verdict in verdicts]
    assert len(set(names)) == len(names), [n for n, times in Counter(names).items() if times > 1]
    groups = Counter(name.partition(":")[0] for name in names)
    with capsys.disabled():
        print(f"\n{len(names)} broken inputs: {dict(groups)}")
    assert len(names) >= 300
    assert min(groups[group] for group in ("image", "voc", "coco", "run", "weights")) >= 50
    assert min(groups[kind] for kind in WRITERS) >= 60


def test_memory_stays_where_it_was(verdicts):
    sizes = [verdict["rss"] for verdict in verdicts if "rss" in verdict]
    assert max(sizes) - sizes[0] < GROWTH, f"from {sizes[0]} to {max(sizes)} MB"


def test_bad_entries_are_skipped_and_good_ones_stay(verdicts):
    """With skip_bad most bad entries are left out and reported; damage to a whole list or file is
    still an error."""
    outcomes = Counter(
        (verdict["name"].partition(":")[0], verdict["outcomes"][1]["what"])
        for verdict in verdicts
        if len(verdict.get("outcomes", ())) == 2
    )
    assert outcomes["image", "counted"] > 100
    assert outcomes["voc", "counted"] > 100
    assert outcomes["coco", "counted"] > 60


def test_what_was_skipped_is_not_scored(tmp_path):
    """COCO's own tools read the annotation file again, including what skip_bad left out."""
    broken = changed("annotations 1 bbox", "x")
    broken["annotations"].append({"id": 9})
    broken["images"].append({"file_name": 5})
    path = coco_folder(tmp_path, json.dumps(broken).encode())
    dataset = load_coco(path, path.parent / "train", skip_bad=True)
    assert len(dataset.notes.skipped) == 3
    report = evaluate(
        dataset, {record.image_id: perfect(record) for record in dataset.records}, "coco"
    )
    assert report.metrics["AP"] == pytest.approx(1)


def perfect(record: ImageRecord) -> Detections:
    return Detections(record.boxes, np.ones(len(record), np.float32), record.classes)
