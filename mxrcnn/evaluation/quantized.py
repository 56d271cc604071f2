"""Quantizes a run, and compares accuracy and speed with the original: see mxrcnn quantize."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import Config, ConfigError, override
from mxrcnn.data import open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.records import Dataset
from mxrcnn.data.validation import training_images
from mxrcnn.evaluation.core import AUTO, choose_metric, evaluate
from mxrcnn.evaluation.run import detect_all, measured, open_tested
from mxrcnn.files import atomic_write
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.quantize import quantize_run
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.tables import aligned, is_measured

#: the metrics that the table shows, where present
_MAIN_NUMBERS = ("mAP", "AP", "segm_AP")


@dataclass(frozen=True)
class QuantizeRequest:
    """The options of `mxrcnn quantize`; settings: `section.field` -> value."""

    run: str
    out: str
    precision: str = "int8"
    settings: Mapping[str, Any] = field(default_factory=dict)
    calibration_imageset: str | None = None
    images: int = 32
    imageset: str | None = None
    metric: str = AUTO
    checkpoint: str | None = None
    test: bool = True


def quantize_and_test(request: QuantizeRequest) -> str:
    """Write the quantized run; returns a table of both runs' accuracy and speed.

    The same numbers are written to quantized.json. Raises ConfigError for invalid settings and
    CheckpointError for runs that cannot be quantized.
    """
    if request.images < 1:
        raise ConfigError(f"--images {request.images}: at least 1 image is needed")
    config = override(RunFolder(Path(request.run)).config(), request.settings)
    # invalid names are reported before the long work begins
    _, dataset = open_tested(config, request.settings, request.imageset, Path(request.run))
    choose_metric(dataset, request.metric)
    calibration, noted = None, {}
    if request.precision == "int8":
        calibration, noted = _calibration(config, request)
    out = quantize_run(
        request.run, request.out, request.precision, calibration, request.checkpoint, noted
    )
    if not request.test:
        return f"{request.run} in {request.precision}"
    return _compare(request, out, config, dataset)


def _calibration(config: Config, request: QuantizeRequest) -> tuple[Dataset, dict[str, Any]]:
    """Images spread evenly over the calibration set, and a description for quantized.json."""
    imageset, run = request.calibration_imageset, Path(request.run)
    if imageset:
        dataset = open_dataset(config.data, imageset, run / DECODED)
    else:
        dataset = training_images(config.data, run)
        imageset = dataset.name if config.data.val_share else config.data.imageset
    count = min(request.images, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int) if count else []
    records = tuple(dataset.records[index] for index in chosen)
    return replace(dataset, records=records), {"imageset": imageset, "images": count}


def _compare(request: QuantizeRequest, out: Path, config: Config, dataset: Dataset) -> str:
    """Test both runs on the same images; returns a table."""
    found: dict[str, dict[str, float | None]] = {}
    for name, run in (("fp32", request.run), (request.precision, str(out))):
        detector = Detector.load(run, request.checkpoint if run == request.run else None)
        detector.config = config
        masks = choose_metric(dataset, request.metric).masks
        answers = detect_all(detector, dataset, masks=masks)
        report = evaluate(dataset, answers.detections, request.metric)
        report = report.merge(measured(dataset, answers))
        shown = [key for key in (*_MAIN_NUMBERS, "images_per_second") if key in report.metrics]
        values = {key: report.metrics[key] for key in shown}
        found[name] = {k: v if is_measured(v) else None for k, v in values.items()}
    path = out / "quantized.json"
    note = {**json.loads(path.read_text()), "metric": report.metric, "measured": found}
    note["best_f1_threshold"] = report.to_json()["best_f1_threshold"]  # of the quantized run
    with atomic_write(path) as handle:
        handle.write(json.dumps(note, indent=2))
    heads = [f"{report.metric} {key}" if key in _MAIN_NUMBERS else "images/s" for key in shown]
    rows = [
        [name, *("-" if v is None else f"{v:.4g}" for v in values.values())]
        for name, values in found.items()
    ]
    return aligned([["", *heads], *rows])
