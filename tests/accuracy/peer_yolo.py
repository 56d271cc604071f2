"""A trial of ultralytics' YOLO, by its command line and in an environment of its own.

Its predictions are scored by our code. ultralytics comes under the AGPL: nothing here imports it,
nothing here is part of the wheel. How to make the environment: docs/reproduce.md.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.core import evaluate
from mxrcnn.tables import plain
from tests.accuracy import processes
from tests.accuracy.data import SHARED
from tests.accuracy.results import Trial
from tests.accuracy.runs import Place, Progress, task_of

#: prints versions from the packages' metadata, without importing them
VERSIONS = (
    "import json, platform; from importlib.metadata import version; print(json.dumps({'python': "
    "platform.python_version(), **{p: version(p) for p in ('torch', 'ultralytics')}}))"
)


def environment(config: Path) -> dict[str, str]:
    """Ours, with ultralytics' settings in a folder of the trial, and nothing fetched or sent.

    ultralytics computes with one thread unless told otherwise; it gets all cores, as we take them.
    """
    offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    offline["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(processes.cores()))
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**ours, **offline, "YOLO_CONFIG_DIR": str(config)}


def cells() -> Dataset:
    """The images that both sides are tested on."""
    where = {"data.dataset": "voc", "data.root": str(SHARED / "bccd")}
    return open_dataset(override(make_config(), where).data, "2007_test")


def detections(rows: Sequence[dict[str, Any]], dataset: Dataset) -> dict[ImageId, Detections]:
    """Detections by image from COCO results whose image ids are file names without ending.

    Categories count from 1 in the order of the data set's classes, and so do ours.
    """
    found: dict[ImageId, list[dict[str, Any]]] = {r.image_id: [] for r in dataset.records}
    for row in rows:
        found[str(row["image_id"])].append(row)
    return {image_id: _of_image(answers) for image_id, answers in found.items()}


def _of_image(rows: list[dict[str, Any]]) -> Detections:
    rows = sorted(rows, key=lambda row: -row["score"])
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in rows], np.float32)
    return Detections(boxes, scores, np.array([row["category_id"] for row in rows], np.int64))


def measure(trial: Trial, place: Place) -> dict[str, Any]:
    """Train and test; returns what is stored. A training that was killed starts anew."""
    progress = Progress(place.work / trial.name, task_of(trial))
    yolo, folder = Path(place.peer).with_name("yolo"), progress.folder
    env = environment(folder / "settings")
    if not progress.state["trained"]:
        progress.state.update(begun=0, costs=[], commits=[])
        progress.begin(processes.commit())
        words = place.words(trial.what.train, trial)
        print(f"{trial.name}: yolo detect train {' '.join(words)}", flush=True)
        words += [f"seed={trial.seed}", f"project={folder}", "name=run", "exist_ok=True"]
        command = [str(yolo), "detect", "train", *words]
        progress.end(processes.run(command, folder / "train.log", env))
    best = folder / "run" / "weights" / "best.pt"
    words = [f"model={best}", *place.words(trial.what.test, trial), f"project={folder}"]
    command = [str(yolo), "detect", "val", *words, "name=test", "exist_ok=True"]
    processes.run(command, folder / "test.log", env)
    dataset = cells()
    rows = json.loads((folder / "test" / "predictions.json").read_text("utf-8"))
    report = evaluate(dataset, detections(rows, dataset), "coco")
    with (folder / "run" / "results.csv").open(newline="", encoding="utf-8") as file:
        epochs = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file)]
    return {
        "metric": report.metric,
        "metrics": plain(report.metrics),
        "per_class": plain(report.per_class),
        "epochs": len(epochs),
        "seconds": float(epochs[-1]["time"]),
        **progress.numbers(),
        "versions": json.loads(processes.output([place.peer, "-c", VERSIONS])),
        **processes.machine(),
    }
