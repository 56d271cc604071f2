"""The one place that scores: which metric, its main number, and what counts in all metrics."""

from __future__ import annotations

import runpy
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.config import ConfigError, TrainConfig, override
from mxrcnn.data import open_dataset
from mxrcnn.data.records import Dataset, Detections
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.evaluation.core import AUTO, METRICS, choose_metric, evaluate
from tests.factories import tiny_config

TOOLS = Path(__file__).parents[1] / "tools"
BOX = (10, 10, 50, 50)


def one_class(*records, **fields) -> Dataset:
    return Dataset("small", ("cat",), records, **fields)


@pytest.mark.parametrize(
    ("kind", "masks", "imageset", "metric"),
    [
        ("voc", False, "2007_train", "voc07"),
        ("synthetic", False, "2007_train", "voc07"),
        ("synthetic", True, "2007_train", "coco"),
        ("coco", False, "train", "coco"),
        ("coco", False, "train+test", "coco"),
    ],
)
def test_the_metric_follows_the_data_set(tmp_path, monkeypatch, kind, masks, imageset, metric):
    root = ensure_synthetic(tmp_path / "data", 2, 2, (64, 64))
    monkeypatch.setattr("mxrcnn.data.ensure_synthetic", Path)  # it would want more images
    settings = {"data.dataset": kind, "data.root": str(root), "data.masks": masks}
    dataset = open_dataset(override(tiny_config(), settings).data, imageset)
    truth = {r.image_id: Detections(r.boxes, np.ones(len(r)), r.classes) for r in dataset.records}
    report = evaluate(dataset, truth)
    assert (report.metric, report.value) == (metric, pytest.approx(1))
    assert report.label == {"coco": "coco AP", "voc07": "voc07 mAP"}[metric]
    assert evaluate(dataset, truth, "voc12").label == "voc12 mAP"
    assert report.table().splitlines()[0] == f"metric: {metric}, main number: {report.main}"
    assert (report.to_json()["metric"], report.to_json()["main"]) == (metric, report.main)


def test_metrics_are_the_same_everywhere(monkeypatch, capsys):
    names = (AUTO, *METRICS)
    assert typing.get_args(typing.get_type_hints(TrainConfig)["val_metric"]) == names
    monkeypatch.syspath_prepend(str(TOOLS))
    for tool in ("train", "test", "quantize"):
        monkeypatch.setattr(sys, "argv", [tool, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(TOOLS / f"{tool}.py"), run_name="__main__")
        assert "{" + ",".join(names) + "}" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"voc2007.*auto, voc07, voc12, coco"):
        choose_metric(one_class(), "voc2007")
