"""COCO's metrics, through pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mxrcnn.data.records import DataError, Dataset, Detections, ImageId
from mxrcnn.evaluation.matching import in_order
from mxrcnn.evaluation.report import Report

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)
_FIELD = {"bbox": "bbox", "segm": "segmentation"}


def evaluate_coco(
    ground_truth: Mapping[str, Any] | str | Path,
    results: Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
) -> Report:
    """COCO's twelve numbers and the AP and AP50 of each category.

    ground_truth: the annotation file or its content; results: COCO result dictionaries, as
    `detections_to_coco` makes them; iou_type "bbox" or "segm". What has no ground truth is -1, as
    pycocotools has it. The curves are those at IoU 0.5 over 101 recalls. Arguments are left
    unchanged. Raises ValueError for another iou_type, results of unknown images or without the
    needed field, and DataError for a file that is not COCO annotations.
    """
    if iou_type not in _FIELD:
        raise ValueError(f"iou_type {iou_type!r} is neither 'bbox' nor 'segm'")
    truth = _load(ground_truth)
    found = _own_results(truth, results, _FIELD[iou_type])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, _results_api(coco, found), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(METRICS, (float(value) for value in evaluation.stats)))
    per_class, curves = _per_class(evaluation, truth, found)
    notes = [f"COCO {iou_type} metrics, pycocotools"]
    return Report(metrics, per_class, curves, notes, "coco", "AP")


def segm_report(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Report:
    """COCO's metrics by masks, to be merged with those by boxes: segm_AP, segm_AP50 ...

    per_class has segm_AP and segm_AP50. If not every object has a mask, there is a note and nothing
    else. Raises as `evaluate_coco` does.
    """
    objects = ground_truth["annotations"]
    without = sum(not entry.get("segmentation") for entry in objects)
    if without:
        told = f"no segm metrics: {without} of the {len(objects)} objects have no mask"
        return Report({}, notes=[told])
    report = evaluate_coco(ground_truth, results, "segm")
    per_class = {
        name: {f"segm_{column}": row[column] for column in ("AP", "AP50")}
        for name, row in report.per_class.items()
    }
    metrics = {f"segm_{name}": value for name, value in report.metrics.items()}
    return Report(metrics, per_class, {}, report.notes, report.metric, "segm_AP")


def detections_to_coco(
    detections: Mapping[ImageId, Detections], dataset: Dataset
) -> list[dict[str, Any]]:
    """Detections as COCO results, in the data set's order: xywh boxes, category ids, RLE masks.

    Without `dataset.category_ids` the ids are the class numbers 1..C-1. Raises ValueError
    as `in_order` does.
    """
    ids = dataset.category_ids or tuple(range(1, dataset.num_classes))
    out: list[dict[str, Any]] = []
    for record, found in in_order(dataset.records, detections, dataset.num_classes):
        boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        for i, box in enumerate(xywh.tolist()):
            result = {
                "image_id": record.image_id,
                "category_id": ids[int(found.classes[i]) - 1],
                "bbox": box,
                "score": float(found.scores[i]),
            }
            if found.masks is not None:
                result["segmentation"] = _text_rle(found.masks[i])
            out.append(result)
    return out


def _text_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    """A compressed RLE whose counts are text, which JSON can hold."""
    height, width = (int(n) for n in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, (list, tuple)):
        counts = mask_utils.frPyObjects(dict(rle), height, width)["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text}


def _load(ground_truth: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A copy of the ground truth that pycocotools may write into.

    Annotations are numbered anew from 1, because pycocotools takes an id of 0 for "unmatched".
    """
    name = "ground truth"
    if isinstance(ground_truth, (str, Path)):
        name = str(ground_truth)
        try:
            ground_truth = json.loads(Path(ground_truth).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(name, f"not JSON: {error}") from error
    missing = {"images", "annotations", "categories"} - set(ground_truth)
    if missing:
        raise DataError(name, f"has no {', '.join(sorted(missing))}")
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], 1):
        copy = {"iscrowd": 0, **annotation, "id": number}
        if "area" not in copy:
            copy["area"] = copy["bbox"][2] * copy["bbox"][3]
        annotations.append(copy)
    return {**ground_truth, "annotations": annotations}


def _own_results(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], wanted: str
) -> list[dict[str, Any]]:
    """Copies with the fields for this IoU type alone: given both, pycocotools would take a mask's
    area from its box."""
    known = {image["id"] for image in truth["images"]}
    out = []
    for index, result in enumerate(results):
        if result["image_id"] not in known:
            raise ValueError(f"result {index}: image {result['image_id']!r} is not annotated")
        if wanted not in result:
            raise ValueError(f"result {index}: no {wanted!r}")
        out.append({k: result[k] for k in ("image_id", "category_id", "score", wanted)})
    return out


def _results_api(coco: COCO, results: list[dict[str, Any]]) -> COCO:
    if results:
        return coco.loadRes(results)
    empty = COCO()  # loadRes looks at the first result
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _per_class(
    evaluation: COCOeval, truth: Mapping[str, Any], found: list[dict[str, Any]]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, np.ndarray]]]:
    """Rows and curves by category name; AP over all areas with at most 100 detections an image."""
    precision = evaluation.eval["precision"][..., 0, -1]  # (IoU thresholds, recalls, categories)
    names = _category_names(truth)
    per_class, curves = {}, {}
    for k, category_id in enumerate(evaluation.params.catIds):
        objects = [a for a in truth["annotations"] if a["category_id"] == category_id]
        wanted = sum(not a["iscrowd"] for a in objects)
        name = names[category_id]
        per_class[name] = {
            "AP": _mean(precision[:, :, k]),
            "AP50": _mean(precision[0, :, k]),
            "objects": wanted,
            "crowd_objects": len(objects) - wanted,
            "detections": sum(r["category_id"] == category_id for r in found),
        }
        if wanted:
            curves[name] = {"recall": evaluation.params.recThrs, "precision": precision[0, :, k]}
    return per_class, curves


def _category_names(truth: Mapping[str, Any]) -> dict[int, str]:
    """Names by category id; a name used twice is told apart by its id."""
    names = [category["name"] for category in truth["categories"]]
    return {
        c["id"]: c["name"] if names.count(c["name"]) == 1 else f"{c['name']} ({c['id']})"
        for c in truth["categories"]
    }


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else -1.0
