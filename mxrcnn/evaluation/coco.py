"""COCO's metrics, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from mxrcnn.data.coco.write import coco_results
from mxrcnn.data.records import DataError, Dataset, Detections, ImageId
from mxrcnn.evaluation.matching import in_order
from mxrcnn.evaluation.report import Report

METRICS = tuple("AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split())
_FIELD = {"bbox": "bbox", "segm": "segmentation"}
#: the key under which `_load` stores the new number of each image id
_NUMBER = "number of an image id"


def evaluate_coco(
    ground_truth: Mapping[str, Any] | str | Path,
    results: Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
) -> Report:
    """COCO's twelve metrics, and the AP and AP50 of each category.

    ground_truth: the annotation file or its content. results: COCO result dictionaries, as made by
    `detections_to_coco`. iou_type: "bbox" or "segm". The arguments are not modified.
    A metric without ground truth is -1, as in pycocotools. Crowds are ignored as in pycocotools,
    objects with `ignore` as described in `_Evaluation`. The curves are at IoU 0.5, over 101 recall
    values. Time and memory grow with the number of objects and detections, not with images times
    categories. Raises ValueError for another iou_type and for results of unknown images or without
    the required field, and DataError for a file that is not COCO annotations.
    """
    inputs = CocoInputs(ground_truth, results, iou_type)
    objects, answers, names = inputs.objects, inputs.answers, inputs.names
    evaluation = _Evaluation(iouType=iou_type)
    params = evaluation.params
    shape = (len(params.iouThrs), len(params.recThrs), len(params.areaRng), len(params.maxDets))
    precision = np.full((len(names), *shape), -1.0)
    recall = np.full((len(names), shape[0], *shape[2:]), -1.0)
    with contextlib.redirect_stdout(io.StringIO()):
        for k, category in enumerate(tqdm(names, "scoring", leave=False, disable=None)):
            if objects[category]:
                one = inputs.matched(category)
                one.accumulate()
                precision[k], recall[k] = one.eval["precision"][:, :, 0], one.eval["recall"][:, 0]
        evaluation.eval = {"precision": np.moveaxis(precision, 0, 2)}
        evaluation.eval["recall"] = np.moveaxis(recall, 0, 1)
        evaluation.summarize()
    metrics = dict(zip(METRICS, (float(value) for value in evaluation.stats)))
    per_class, curves = {}, {}
    for category, name, values in zip(names, names.values(), precision[..., 0, -1]):
        wanted = sum(not _is_ignored(entry) for entry in objects[category])
        per_class[name] = {
            "AP": _mean(values),
            "AP50": _mean(values[0]),
            "objects": wanted,
            "ignored_objects": len(objects[category]) - wanted,
            "detections": len(answers[category]),
        }
        if wanted:
            curves[name] = {"recall": params.recThrs, "precision": values[0]}
    notes = [f"COCO {iou_type} metrics, pycocotools"]
    return Report(metrics, per_class, curves, notes, "coco", "AP")


class _Evaluation(COCOeval):
    """pycocotools' evaluation, extended to ignore objects with `ignore`.

    pycocotools overwrites `ignore` with `iscrowd`, so a difficult object would count as missed.
    Marking it as a crowd would be wrong: crowds are matched by intersection over the detection's
    area. Here an ignored object is matched by IoU, and like any object it matches one detection.
    That detection does not count; a second one is a false positive. COCO treats objects outside the
    area range the same way.
    """

    def _prepare(self) -> None:
        ignored = [entry for entry in self.cocoGt.anns.values() if _is_ignored(entry)]
        super()._prepare()
        for entry in ignored:
            entry["ignore"] = 1


def _is_ignored(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation["iscrowd"] or annotation.get("ignore"))


class CocoInputs:
    """Ground truth and results of one IoU type, checked and grouped by category.

    names: of the categories, by id in the order of ids. objects, answers: annotations and results
    by category id. numbers: the number of each image id, 0 to I-1; matches name images by it.
    Raises as `evaluate_coco` does.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any] | str | Path,
        results: Sequence[Mapping[str, Any]],
        iou_type: str = "bbox",
    ) -> None:
        if iou_type not in _FIELD:
            raise ValueError(f"iou_type {iou_type!r} is neither 'bbox' nor 'segm'")
        truth = _load(ground_truth)
        found = _own_results(truth, results, _FIELD[iou_type])
        self.iou_type = iou_type
        self.objects, self.answers = _by_category(truth["annotations"]), _by_category(found)
        self.names = _category_names(truth)
        self.numbers: dict[Any, int] = truth[_NUMBER]
        self._images = {image["id"]: image for image in truth["images"]}

    def matched(self, category: int) -> COCOeval:
        """Match the detections of one category, only on the images where there are any or objects.

        The category must have objects. COCO's metric treats categories independently. pycocotools
        would visit every image for each of them, which for LVIS takes most of the time and
        gigabytes of empty lists.
        """
        objects, results = self.objects[category], self.answers[category]
        there = {entry["image_id"] for entry in objects} | {entry["image_id"] for entry in results}
        truth = COCO()
        truth.dataset = {
            "images": [self._images[image_id] for image_id in there],
            "categories": [{"id": category}],
            "annotations": objects,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            evaluation = _Evaluation(truth, _results_api(truth, results), self.iou_type)
            evaluation.evaluate()
        return evaluation


def _by_category(entries: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[entry["category_id"]].append(entry)
    return groups


def segm_report(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Report:
    """COCO's mask metrics (segm_AP, segm_AP50 ...), to be merged with the box metrics.

    per_class has segm_AP and segm_AP50. If any object has no mask, the report only has a note that
    says so. Raises what `evaluate_coco` raises.
    """
    objects = ground_truth["annotations"]
    without = sum(not entry.get("segmentation") for entry in objects)
    if without:
        note = f"no segm metrics: {without} of the {len(objects)} objects have no mask"
        return Report({}, notes=[note])
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
    """Convert detections to COCO results, in the data set's order.

    Boxes are xywh, classes are category ids, masks are RLE. Without `dataset.category_ids` the ids
    are the class numbers 1..C-1. Raises ValueError as `in_order` does.
    """
    ids = dataset.category_ids or tuple(range(1, dataset.num_classes))
    out: list[dict[str, Any]] = []
    for record, found in in_order(dataset.records, detections, dataset.num_classes):
        out += coco_results(found, record.image_id, ids)
    return out


def _load(ground_truth: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A copy of the ground truth that pycocotools may modify.

    Annotations are renumbered from 1, because pycocotools uses the id 0 for "unmatched". Images are
    renumbered in the order of their ids, because it fails if ids mix numbers and strings.
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
    ids = {image["id"] for image in ground_truth["images"]}
    number = {i: n for n, i in enumerate(sorted(ids, key=lambda i: (isinstance(i, str), i)))}
    annotations = []
    for count, annotation in enumerate(ground_truth["annotations"], 1):
        if annotation["image_id"] not in number:
            image_id = annotation["image_id"]
            raise DataError(
                name, f"annotation {count} refers to image {image_id!r}, which is not in the file"
            )
        copy = {"iscrowd": 0, **annotation, "id": count, "image_id": number[annotation["image_id"]]}
        if "area" not in copy:
            copy["area"] = copy["bbox"][2] * copy["bbox"][3]
        annotations.append(copy)
    images = [{**image, "id": number[image["id"]]} for image in ground_truth["images"]]
    return {**ground_truth, "images": images, "annotations": annotations, _NUMBER: number}


def _own_results(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], wanted: str
) -> list[dict[str, Any]]:
    """Copies of the results with only the fields for this IoU type.

    If a result has both, pycocotools takes a mask's area from its box.
    """
    out = []
    for index, result in enumerate(results):
        if result["image_id"] not in truth[_NUMBER]:
            raise ValueError(f"result {index}: image {result['image_id']!r} is not annotated")
        if wanted not in result:
            raise ValueError(f"result {index}: no {wanted!r}")
        own = {k: result[k] for k in ("category_id", "score", wanted)}
        out.append({**own, "image_id": truth[_NUMBER][result["image_id"]]})
    return out


def _results_api(coco: COCO, results: list[dict[str, Any]]) -> COCO:
    if results:
        return coco.loadRes(results)
    empty = COCO()  # loadRes looks at the first result
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _category_names(truth: Mapping[str, Any]) -> dict[int, str]:
    """Category names by id, in id order; the id is appended to a name that is used twice."""
    times = Counter(category["name"] for category in truth["categories"])
    return {
        c["id"]: c["name"] if times[c["name"]] == 1 else f"{c['name']} ({c['id']})"
        for c in sorted(truth["categories"], key=lambda c: c["id"])
    }


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else -1.0
