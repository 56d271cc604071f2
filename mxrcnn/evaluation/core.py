"""The metrics, and the rules that all of them share about which detections count.

Testing, validation during training, mxrcnn quantize and the checks all call `evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import ConfigError
from mxrcnn.data.coco import dataset_to_coco
from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.best_f1 import best_f1_by_class
from mxrcnn.evaluation.coco import detections_to_coco, evaluate_coco, segm_report
from mxrcnn.evaluation.report import Report
from mxrcnn.evaluation.voc import evaluate_voc

AUTO = "auto"


@dataclass(frozen=True)
class Metric:
    """A way to score detections.

    title: the name to print. score: data set and detections -> Report. masks: True if masks are
    scored too, when the detector has them. logged: the report's metrics that validation logs, where
    present. The main number is named by the report's `main`.
    """

    name: str
    title: str
    score: Callable[[Dataset, Mapping[ImageId, Detections]], Report]
    masks: bool
    logged: tuple[str, ...]


def choose_metric(dataset: Dataset, asked: str = AUTO) -> Metric:
    """The metric with that name, or the data set's own for "auto"; ConfigError for other names."""
    name = dataset.metric if asked == AUTO else asked
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}: choose from {', '.join((AUTO, *METRICS))}")
    return METRICS[name]


def evaluate(
    dataset: Dataset, detections: Mapping[ImageId, Detections], metric: str = AUTO
) -> Report:
    """Score detections of a data set by a metric: auto, voc07, voc12 or coco.

    auto is the data set's own metric: COCO's AP@[.50:.95] for COCO files, VOC07 mAP for Pascal VOC.
    All metrics ignore difficult and crowd objects, and detections of classes that the image's file
    does not annotate (`ImageRecord.active_classes`); the notes count the latter. With coco, masks
    are scored too if there are any (`segm_AP` ...), and `segm_AP` is then the main number. The
    report has each class's best F1 as well (`best_f1_by_class`). Raises ConfigError for another
    metric, and ValueError as `in_order` does.
    """
    chosen = choose_metric(dataset, metric)
    counted, left_out = without_unannotated(dataset, detections)
    report = replace(chosen.score(dataset, counted), best_f1=best_f1_by_class(dataset, counted))
    if left_out:
        report.notes.append(
            f"{left_out} detections do not count: their image's file does not annotate their class"
        )
    return report


def without_unannotated(
    dataset: Dataset, detections: Mapping[ImageId, Detections]
) -> tuple[Mapping[ImageId, Detections], int]:
    """Remove detections of classes that their image's file does not annotate, and count them.

    There is no ground truth to tell whether such a detection is right.
    """
    partly = {r.image_id: r.active_classes for r in dataset.records if r.active_classes is not None}
    changed, left_out = {}, 0
    for image_id in partly.keys() & detections.keys():
        found = detections[image_id]
        keep = np.isin(found.classes, partly[image_id])
        changed[image_id] = found[keep]
        left_out += int(len(found) - keep.sum())
    return ({**detections, **changed} if left_out else detections), left_out


def coco_ground_truth(dataset: Dataset) -> dict[str, Any]:
    """The ground truth in COCO format: the annotation file, reduced to what was loaded from it.

    Image sizes come from the records: a file may lack them, and polygons need them.
    """
    if dataset.annotation_file is None:
        return dataset_to_coco(dataset)
    truth = json.loads(Path(dataset.annotation_file).read_text(encoding="utf-8"))
    images = {r.image_id: {"height": r.height, "width": r.width} for r in dataset.records}
    categories = set(dataset.category_ids or ())
    return {
        **truth,
        "images": [{**x, **images[x["id"]]} for x in truth["images"] if x["id"] in images],
        "categories": [x for x in truth["categories"] if x["id"] in categories],
        "annotations": [
            x
            for x in truth["annotations"]
            if x["image_id"] in images and x["category_id"] in categories
        ],
    }


def _score_coco(dataset: Dataset, detections: Mapping[ImageId, Detections]) -> Report:
    """Score boxes, and masks if any detections have them."""
    truth, results = coco_ground_truth(dataset), detections_to_coco(detections, dataset)
    report = evaluate_coco(truth, results)
    if any(found.masks is not None for found in detections.values()):
        masks = segm_report(truth, results)
        report = replace(report.merge(masks), main=masks.main or report.main)
    return report


def _score_voc(name: str, dataset: Dataset, detections: Mapping[ImageId, Detections]) -> Report:
    return evaluate_voc(dataset.records, detections, dataset.class_names, metric=name)


_COCO_LOGGED = ("AP", "AP50", "AP75", "segm_AP", "segm_AP50", "segm_AP75")

#: the metrics by name, as given to --metric and --val-metric
METRICS = {
    metric.name: metric
    for metric in (
        Metric("voc07", "VOC07 mAP", partial(_score_voc, "voc07"), False, ("mAP",)),
        Metric("voc12", "VOC12 mAP (area)", partial(_score_voc, "voc12"), False, ("mAP",)),
        Metric("coco", "COCO's AP@[.50:.95]", _score_coco, True, _COCO_LOGGED),
    )
}
