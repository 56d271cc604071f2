"""Testing a run: detect, score, write the report, the results files and the pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mxrcnn import viz
from mxrcnn.compat import mx
from mxrcnn.config import Config, ConfigError, override
from mxrcnn.data import open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.images import read_image
from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.core import AUTO, choose_metric, evaluate
from mxrcnn.evaluation.matching import image_scores
from mxrcnn.evaluation.recall import proposal_recall
from mxrcnn.evaluation.report import Report, write_report
from mxrcnn.evaluation.submission import write_coco_results, write_voc_submission
from mxrcnn.files import safe_name
from mxrcnn.inference.detector import Detector


@dataclass(frozen=True)
class TestRequest:
    """What `tools/test.py` was asked; settings are `section.field` and values."""

    __test__ = False  # not a test class, whatever pytest may think of its name

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


def choose_imageset(config: Config, imageset: str | None) -> str:
    """The images to test on: as asked, else the validation set; ConfigError if there is none."""
    if imageset or config.data.val_imageset:
        return imageset or config.data.val_imageset
    if config.data.dataset == "synthetic":
        return "2007_test"
    raise ConfigError("which images? The run has no validation images; give --imageset")


def draw_extremes(
    dataset: Dataset,
    detections: Mapping[ImageId, Detections],
    config: Config,
    out: Path,
    count: int,
) -> list[Path]:
    """Pictures of the `count` best and worst images, by F1 at score 0.5: objects and detections."""
    ranked = sorted(image_scores(dataset.records, detections).items(), key=lambda item: -item[1])
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


def measure(
    detector: Detector, dataset: Dataset, metric: str, batch_size: int = 1, num_workers: int = 0
) -> tuple[Report, dict[ImageId, Detections]]:
    """Detect in all images: the metric's report with the recall of proposals and images_per_second,
    and the detections."""
    detections, proposals = {}, {}
    start = time.perf_counter()
    for record, found, boxes in detector.detect(dataset, batch_size, num_workers):
        detections[record.image_id] = found
        if boxes is not None:
            proposals[record.image_id] = boxes
    rate = len(dataset) / (time.perf_counter() - start)
    recall = proposal_recall(dataset.records, proposals) if proposals else {}
    report = evaluate(dataset, detections, metric)
    return report.merge(Report({**recall, "images_per_second": rate})), detections


def run_test(
    request: TestRequest, context: mx.Context | None = None
) -> tuple[Report, Path, list[Path]]:
    """Test as asked; returns the report, the folder with everything, and the pictures drawn."""
    if request.batch_size < 1 or request.num_workers < 0:
        raise ConfigError("--batch-size must be at least 1, and --num-workers at least 0")
    detector = Detector.load(
        request.run, request.checkpoint, request.params, context, request.precision
    )
    config = override(detector.config, request.settings)
    if config.data.class_names != detector.config.data.class_names:
        raise ConfigError("the classes are the run's own and cannot be changed")
    detector.config = config
    imageset = choose_imageset(config, request.imageset)
    dataset = open_dataset(config.data, imageset, Path(request.run) / DECODED)
    choose_metric(dataset, request.metric)  # an unknown one is known before the work begins

    report, detections = measure(
        detector, dataset, request.metric, request.batch_size, request.num_workers
    )
    notes = [f"{imageset}: {len(dataset)} images, {detector.source}", *dataset.notes.lines()]
    report = report.merge(Report({}, notes=notes))
    out = Path(request.out or Path(request.run) / f"test_{safe_name(imageset)}")
    write_report(report, out)
    write_voc_submission(detections, dataset, out)
    write_coco_results(detections, dataset, out)
    pictures = viz.plot_precision_recall(report, out / "precision_recall")[:1]
    pictures += draw_extremes(dataset, detections, config, out, request.pictures)
    return report, out, pictures
