"""A Dataset, and the detections of an image, in COCO's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from mxrcnn.data.records import Dataset, Detections, ImageId, ImageRecord


def dataset_to_coco(dataset: Dataset) -> dict[str, Any]:
    """Any Dataset as a COCO dictionary that `json.dump` takes, to score it with COCO's metrics.

    Annotation ids count from 1; category ids are `dataset.category_ids`, or 1..C-1.
    A difficult object has `"ignore": 1` and `"iscrowd": 0`. Beware: pycocotools' own COCOeval
    overwrites `ignore` by `iscrowd`, so it counts difficult objects like any other;
    `mxrcnn.evaluation.coco.evaluate_coco` ignores them.
    """
    ids = dataset.category_ids or tuple(range(1, dataset.num_classes))
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        for i in range(len(record)):
            entry = _annotation(record, i, ids[record.classes[i] - 1])
            annotations.append({"id": len(annotations) + 1, **entry})
    images = [
        {"id": r.image_id, "file_name": r.path.name, "height": r.height, "width": r.width}
        for r in dataset.records
    ]
    named = zip(ids, dataset.class_names)
    kinds = [{"id": k, "name": name, "supercategory": "none"} for k, name in named]
    parts = {"images": images, "categories": kinds, "annotations": annotations}
    return {"info": {"description": dataset.name}, "licenses": [], **parts}


def _annotation(record: ImageRecord, i: int, category_id: int) -> dict[str, Any]:
    """Object i of a record as a COCO annotation without its id."""
    x1, y1, x2, y2 = record.boxes[i].tolist()
    entry = {
        "image_id": record.image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(record.areas[i]),
        "iscrowd": int(record.crowd[i]),
        "ignore": int(record.difficult[i]),
    }
    mask = record.masks[i] if record.masks is not None else None
    if isinstance(mask, dict) and isinstance(mask["counts"], bytes):  # as pycocotools encodes RLE
        mask = {**mask, "counts": mask["counts"].decode("ascii")}
    return entry if mask is None else {**entry, "segmentation": mask}


def coco_results(
    found: Detections, image_id: ImageId, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The detections of an image in COCO's results form.

    Boxes are xywh, masks are RLE. category_ids: of classes 1, 2, ...
    """
    boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    rows: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": category_ids[int(k) - 1],
            "bbox": box,
            "score": float(score),
        }
        for k, box, score in zip(found.classes, xywh.tolist(), found.scores)
    ]
    for row, mask in zip(rows, found.masks or ()):
        row["segmentation"] = _text_rle(mask)
    return rows


def _text_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    """A compressed RLE with counts as text, so that it can be written as JSON."""
    height, width = (int(n) for n in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, (list, tuple)):
        counts = mask_utils.frPyObjects(dict(rle), height, width)["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text}
