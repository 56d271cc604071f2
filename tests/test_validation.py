"""Validation during training: the run's precision and workers; masks only if they are scored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mxrcnn.config import override
from mxrcnn.data.records import Dataset, Detections
from mxrcnn.training import validation
from mxrcnn.training.validation import Validation
from symnet.machine import mx
from tests.factories import make_record, tiny_config


class FakeDetector:
    """A detector that finds every object, and records how it was created and called."""

    def __init__(self, symbol, args, auxs, config, context, precision):
        self.made = symbol, precision
        self.asked = []

    def set_params(self, args, auxs):
        pass

    def predict_dataset(self, dataset, **options):
        self.asked.append(options)
        return {
            r.image_id: Detections(r.boxes, np.ones(len(r), np.float32), r.classes, [None] * len(r))
            for r in dataset.records
        }


@pytest.mark.parametrize(
    ("asked", "size", "precision", "metric", "expected"),
    [
        ("fp32", (80, 100), "fp32", "voc07", ("stored", "fp32", False)),
        ("fp32", (80, 100), "fp32", "auto", ("stored", "fp32", False)),
        ("bf16", (80, 100), "bf16", "voc12", ("bf16", "bf16", False)),
        ("bf16", (96, 96), "fp32", "voc12", ("stored", "fp32", False)),  # MXNet cannot do it
        ("bf16", (80, 100), "bf16", "coco", ("bf16", "bf16", True)),
    ],
)
def test_how_it_detects(monkeypatch, asked, size, precision, metric, expected):
    def check_shapes(symbol, precision, **shapes):
        assert (symbol, precision) == ("bf16", "bf16")
        if shapes["data"][2] == shapes["data"][3]:
            raise validation.ConfigError("precision bf16 with images of that size")

    monkeypatch.setattr(validation, "Detector", FakeDetector)
    monkeypatch.setattr(validation, "inference_symbol", lambda config, precision: precision)
    monkeypatch.setattr(validation, "check_shapes", check_shapes)
    config = tiny_config(data__short_side=0, data__long_side=0)
    settings = {"train.precision": asked, "train.val_metric": metric}
    config = override(config, settings)
    data = Dataset("small", ("dog",), (make_record(size=size),))
    checked = Validation(config, data, mx.cpu())
    assert checked.precision == precision
    assert ("in fp32: precision bf16 with images" in checked.describe(None)) == (asked != precision)
    run = SimpleNamespace(symbol=lambda name: "stored")
    if metric == "coco":  # the fake's masks are none that can be scored
        monkeypatch.setattr(validation, "evaluate", lambda *_: None)
    for _ in range(2):
        report = checked.score(run, {"arg:x": 1}, 3)
    detector = checked._detector
    options = {"num_workers": 3, "masks": expected[2], "label": "validation"}
    assert (*detector.made, detector.asked[0]["masks"]) == expected
    assert detector.asked == [options, options]
    if metric != "coco":
        assert report.value == 1
