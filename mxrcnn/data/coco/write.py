"""A Dataset in COCO's form."""

from __future__ import annotations

from typing import Any

from mxrcnn.data.records import Dataset, ImageRecord


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
