"""Tests a run: detects, scores, and writes the report, results files and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from mxrcnn import viz
from mxrcnn.config import Config, ConfigError, override, to_dict
from mxrcnn.data import open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.images import decoder, read_image
from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.data.transforms import count_reduced
from mxrcnn.data.validation import FILE_NAME as SPLIT
from mxrcnn.data.validation import has_validation, validation_images, validation_name
from mxrcnn.evaluation.confusion import confusion_entry
from mxrcnn.evaluation.core import AUTO, choose_metric, evaluate, without_unannotated
from mxrcnn.evaluation.errors import find_errors
from mxrcnn.evaluation.intervals import with_intervals
from mxrcnn.evaluation.matching import image_scores
from mxrcnn.evaluation.page.content import Shown, content, run_commands
from mxrcnn.evaluation.page.write import FILE_NAME, write_page
from mxrcnn.evaluation.recall import proposal_recall
from mxrcnn.evaluation.report import Report, write_report
from mxrcnn.evaluation.submission import (
    voc_name,
    write_coco_results,
    write_identity,
    write_voc_submission,
)
from mxrcnn.files import safe_name
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.tiles import is_cut
from mxrcnn.runs.checkpoint import RunFolder
from symnet.machine import mx

T = TypeVar("T")


@dataclass(frozen=True)
class TestRequest:
    """The options of `mxrcnn test`; settings: `section.field` -> value."""

    __test__ = False  # tell pytest that this is not a test class

    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    imageset: str | None = None
    metric: str = AUTO
    checkpoint: str | None = None
    params: str | None = None
    precision: str | None = None
    batch_size: int = 1
    num_workers: int = 0
    pictures: int = 4
    out: str | None = None
    ci: bool = False


def choose_imageset(config: Config, imageset: str | None) -> str:
    """The image set to test on: the given one, else the validation set; ConfigError if none."""
    if imageset or has_validation(config.data):
        return imageset or validation_name(config.data)
    if config.data.dataset == "synthetic":
        return "2007_test"
    raise ConfigError("the run has no validation set: choose the images with --imageset")


def open_tested(
    config: Config, settings: Mapping[str, Any], imageset: str | None, run: Path
) -> tuple[str, Dataset]:
    """The (name, data set) to test on: the given image set, else the run's validation images.

    settings: those given for this test. Raises ConfigError if there are none, and as
    `open_dataset` and `validation_images` do.
    """
    name, data = choose_imageset(config, imageset), config.data
    if imageset or not (data.val_share or data.val_dataset):
        return name, open_dataset(data, name, run / DECODED)
    moved = "data.root" in settings and "data.val_root" not in settings
    if data.val_dataset and moved:
        raise ConfigError(
            f"the run validates on another data set ({data.val_root}) than --data-root: "
            "choose the images with --imageset, or with --data PATH"
        )
    return name, validation_images(data, run)


def draw_extremes(
    dataset: Dataset,
    detections: Mapping[ImageId, Detections],
    config: Config,
    out: Path,
    count: int,
) -> list[Path]:
    """Draw objects and detections of the `count` best and worst images, by F1 at score 0.5."""
    counted, _ = without_unannotated(dataset, detections)
    ranked = sorted(image_scores(dataset.records, counted).items(), key=lambda item: -item[1])
    records = {record.image_id: record for record in dataset.records}
    count = min(count, (len(ranked) + 1) // 2)
    chosen = [("best", item) for item in ranked[:count]]
    chosen += [("worst", item) for item in ranked[::-1][:count]]
    paths = []
    for place, (kind, (image_id, f1)) in enumerate(tqdm(chosen, "pictures", disable=None)):
        record, data = records[image_id], config.data
        pixels = read_image(record.path, data.exif_orientation, data.max_image_pixels)
        picture = viz.draw_comparison(
            pixels, records[image_id], detections[image_id], dataset.class_names
        )
        name = f"{kind}{place % max(1, count) + 1}_f1_{f1:.2f}_{safe_name(str(image_id))}.jpg"
        paths.append(out / "pictures" / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        picture.save(paths[-1], quality=90)
    return paths


@dataclass(frozen=True)
class Found:
    """Detections and proposals (P, 4) of a data set by image id, and the speed.

    The speed covers everything from reading files to boxes.
    """

    detections: dict[ImageId, Detections]
    proposals: dict[ImageId, np.ndarray]
    images_per_second: float


def detect_all(
    detector: Detector,
    dataset: Dataset,
    batch_size: int = 1,
    num_workers: int = 0,
    masks: bool = True,
) -> Found:
    """Run the detector on all images; the options are those of `Predictor.detect`."""
    detections, proposals = {}, {}
    start = time.perf_counter()
    for record, found, boxes in detector.detect(dataset, batch_size, num_workers, masks=masks):
        detections[record.image_id] = found
        if boxes is not None:
            proposals[record.image_id] = boxes
    return Found(detections, proposals, len(dataset) / (time.perf_counter() - start))


def measured(dataset: Dataset, found: Found) -> Report:
    """A report of the speed, and of the proposals' recall if there are any."""
    recall = proposal_recall(dataset.records, found.proposals) if found.proposals else {}
    return Report({**recall, "images_per_second": found.images_per_second})


@dataclass(frozen=True)
class TestOutcome:
    """The result of a test.

    out: the folder. written: what was written there. pictures: files worth looking at. failures:
    one line for each step that failed after detection.
    """

    __test__ = False

    report: Report
    out: Path
    written: tuple[str, ...]
    pictures: tuple[Path, ...]
    failures: tuple[str, ...]


class _Steps:
    """Runs independent steps: a failure is recorded, and the next steps still run."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.failures: list[str] = []

    def run(self, what: str, action: Callable[[], T], otherwise: T) -> T:
        """The action's result, or `otherwise` if it fails."""
        try:
            answer = action()
        except Exception as error:
            kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
            self.failures.append(f"{what} failed: {kind}{error}")
            return otherwise
        self.written.append(what)
        return answer


def run_test(request: TestRequest, context: mx.Context | None = None) -> TestOutcome:
    """Run the test.

    Detections are written first. If a later step fails, say because the disk is full or a metric
    cannot be computed, the others still run; the failure is listed in the outcome's failures and
    the report's notes.
    """
    if request.batch_size < 1 or request.num_workers < 0:
        raise ConfigError("--batch-size must be at least 1, and --num-workers at least 0")
    detector = Detector.load(
        request.run, request.checkpoint, request.params, context, request.precision
    )
    config = override(detector.config, request.settings)
    if config.data.class_names != detector.config.data.class_names:
        raise ConfigError("class names are part of the run and cannot be changed")
    detector.config = config
    run = Path(request.run)
    imageset, dataset = open_tested(config, request.settings, request.imageset, run)
    # an invalid metric or folder is reported before the long work begins
    choose_metric(dataset, request.metric)
    out = Path(request.out or run / f"test_{safe_name(imageset)}")
    out.mkdir(parents=True, exist_ok=True)

    cut = [is_cut(record, config.data) for record in dataset.records]
    whole = [record for record, tiled in zip(dataset.records, cut) if not tiled]
    reduced = count_reduced(whole, config.data)
    found = detect_all(detector, dataset, request.batch_size, request.num_workers)
    tested = {
        "checkpoint": detector.source,
        "precision": detector.precision,
        "imageset": imageset,
        "decoder": decoder(),
    }
    source = f"{imageset}: {len(dataset)} images, {detector.source}"
    if not request.imageset and config.data.val_share:
        source += f"; {run / SPLIT} kept them from training"
    elif not request.imageset and config.data.val_dataset:
        source += f"; they are {config.data.val_imageset} of {config.data.val_root}"
    notes = [source, *dataset.notes.lines()]
    if any(cut):
        data = config.data
        notes.append(
            f"{sum(cut)} images were predicted in tiles of {data.tile} x {data.tile} pixels that "
            f"overlap by at least {data.overlap:.0%}, and whole"
        )
    if reduced:
        notes.append(
            f"{reduced} images are large JPEGs, which were decoded at 1/2, 1/4 or 1/8 of their size"
        )
    about = Report({}, notes=notes, tested=tested)
    return write_all(request, config, dataset, found, out, about)


def write_all(
    request: TestRequest,
    config: Config,
    dataset: Dataset,
    found: Found,
    out: Path,
    about: Report,
) -> TestOutcome:
    """Write detections, score them, write the report, curves and pictures; see `run_test`.

    about: what was tested, and notes on it; it becomes part of the report.
    """
    detections, steps = found.detections, _Steps()
    steps.run("coco_results.json", lambda: write_coco_results(detections, dataset, out), None)
    steps.run("data.json", lambda: write_identity(dataset, out), None)
    steps.run("results/", lambda: write_voc_submission(detections, dataset, out), None)
    none = Report({})
    report = steps.run("metric", lambda: evaluate(dataset, detections, request.metric), none)
    if request.ci:
        added = steps.run(
            "intervals", lambda: with_intervals(dataset, detections, request.metric), none
        )
        report = report.merge(added)
    report = report.merge(steps.run("errors", lambda: _wrong(dataset, detections), none))
    report = report.merge(steps.run("recall", lambda: measured(dataset, found), none))
    report = report.merge(about)
    report = report.merge(Report({}, notes=[*_name_notes(dataset), *steps.failures]))
    steps.run("report.json", lambda: write_report(report, out), None)
    steps.run(FILE_NAME, lambda: _write_page(request, config, dataset, found, report, out), None)
    curves = out / "precision_recall"
    pictures = steps.run(
        "precision_recall/", lambda: viz.plot_precision_recall(report, curves)[:1], []
    )
    pictures += steps.run(
        "pictures/", lambda: draw_extremes(dataset, detections, config, out, request.pictures), []
    )
    written = tuple(what for what in steps.written if (out / what).exists())
    return TestOutcome(report, out, written, tuple(pictures), tuple(steps.failures))


def _wrong(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> Report:
    """The errors and the confusion matrix."""
    counted, _ = without_unannotated(dataset, detections)
    table = confusion_entry(dataset, counted)
    return Report({}, errors=find_errors(dataset, counted), confusion=table)


def _write_page(
    request: TestRequest, config: Config, dataset: Dataset, found: Found, report: Report, out: Path
) -> None:
    run = RunFolder(request.run)
    shown = Shown(
        request.run,
        dataset,
        found.detections,
        report.to_json(),
        config.data,
        run.read_log(),
        run_commands(request.run, request.imageset or ""),
        to_dict(config),
    )
    write_page(content(shown, out), out / FILE_NAME)


def _name_notes(dataset: Dataset) -> list[str]:
    changed = sum(voc_name(r.image_id) != str(r.image_id) for r in dataset.records)
    note = "image names have white space or %: in results/ they are percent-encoded, as in URLs"
    return [f"{changed} {note}"] if changed else []
