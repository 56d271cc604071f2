"""COCO's metrics, through pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

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
#: the key of the numbers that image ids got, in what `_load` returns
_NUMBER = "number of an image id"


def evaluate_coco(
    ground_truth: Mapping[str, Any] | str | Path,
    results: Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
) -> Report:
    """COCO's twelve numbers and the AP and AP50 of each category.

    ground_truth: the annotation file or its content; results: COCO result dictionaries, as
    `detections_to_coco` makes them; iou_type "bbox" or "segm". What has no ground truth is -1, as
    pycocotools has it. Crowds are ignored as in pycocotools, and objects with `ignore` as in
    `_Evaluation`. The curves are those at IoU 0.5 over 101 recalls. Arguments are left unchanged.
    Time and memory grow with the objects and detections, not with images times categories. Raises
    ValueError for another iou_type, results of unknown images or without the needed field, and
    DataError for a file that is not COCO annotations.
    """
    if iou_type not in _FIELD:
        raise ValueError(f"iou_type {iou_type!r} is neither 'bbox' nor 'segm'")
    truth = _load(ground_truth)
    found = _own_results(truth, results, _FIELD[iou_type])
    objects, answers = _by_category(truth["annotations"]), _by_category(found)
    evaluation = _Evaluation(iouType=iou_type)
    params = evaluation.params
    shape = (len(params.iouThrs), len(params.recThrs), len(params.areaRng), len(params.maxDets))
    names = _category_names(truth)
    precision = np.full((len(names), *shape), -1.0)
    recall = np.full((len(names), shape[0], *shape[2:]), -1.0)
    images = {image["id"]: image for image in truth["images"]}
    with contextlib.redirect_stdout(io.StringIO()):
        for k, category in enumerate(tqdm(names, "scoring", leave=False, disable=None)):
            if objects[category]:
                one = _evaluate_category(images, objects[category], answers[category], iou_type)
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
    """pycocotools' evaluation, in which objects with `ignore` are ignored too.

    pycocotools overwrites `ignore` by `iscrowd`, so that a difficult object would count as missed.
    A crowd would be the wrong stand-in, as it is matched by intersection over the detection's area.
    An ignored object is matched by IoU, and like any object it takes one detection: that one does
    not count, a second one is a false positive. So COCO treats objects outside the area range.
    """

    def _prepare(self) -> None:
        ignored = [entry for entry in self.cocoGt.anns.values() if _is_ignored(entry)]
        super()._prepare()
        for entry in ignored:
            entry["ignore"] = 1


def _is_ignored(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation["iscrowd"] or annotation.get("ignore"))


def _evaluate_category(
    images: Mapping[int, Mapping[str, Any]],
    objects: list[dict[str, Any]],
    results: list[dict[str, Any]],
    iou_type: str,
) -> _Evaluation:
    """One category on the images where it is annotated or detected, accumulated.

    COCO's metric never looks at two categories at once. pycocotools would look at every image for
    each of them: for LVIS that is most of the time and gigabytes of empty lists.
    """
    there = {entry["image_id"] for entry in objects} | {entry["image_id"] for entry in results}
    truth = COCO()
    truth.dataset = {
        "images": [images[image_id] for image_id in there],
        "categories": [{"id": objects[0]["category_id"]}],
        "annotations": objects,
    }
    truth.createIndex()
    evaluation = _Evaluation(truth, _results_api(truth, results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _by_category(entries: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[entry["category_id"]].append(entry)
    return groups


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

    Annotations are numbered anew from 1, because pycocotools takes an id of 0 for "unmatched", and
    images in the order of their ids, as it fails on ids of which some are texts.
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
                name, f"annotation {count} is of image {image_id!r}, which is not there"
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
    """Copies with the fields for this IoU type alone: given both, pycocotools would take a mask's
    area from its box."""
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
    """Names by category id, in order of the ids; a name used twice is told apart by its id."""
    times = Counter(category["name"] for category in truth["categories"])
    return {
        c["id"]: c["name"] if times[c["name"]] == 1 else f"{c['name']} ({c['id']})"
        for c in sorted(truth["categories"], key=lambda c: c["id"])
    }


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else -1.0
