"""Detections as the files that Pascal VOC's and COCO's own tools read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.coco import detections_to_coco
from mxrcnn.evaluation.matching import in_order
from mxrcnn.files import atomic_write, safe_name


def write_voc_submission(
    detections: Mapping[ImageId, Detections], dataset: Dataset, out_dir: str | Path
) -> list[Path]:
    """Write results/det_test_{class}.txt for every class, also for one without detections.

    Lines are `image_id score x1 y1 x2 y2`, pixels 1-based and inclusive as the devkit has them: a
    continuous box's minimum moves by 1, its maximum stays. Raises ValueError as
    `in_order` does, and for an image id with white space, which the format cannot hold.
    """
    lines: list[list[str]] = [[] for _ in dataset.class_names]
    for record, found in in_order(dataset.records, detections, dataset.num_classes):
        name = str(record.image_id)
        if len(name.split()) != 1:
            raise ValueError(f"image id {name!r}: white space does not fit a VOC results file")
        boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4) + (1, 1, 0, 0)
        for k, score, box in zip(found.classes, found.scores, boxes):
            place = " ".join(f"{v:.3f}" for v in box)
            lines[int(k) - 1].append(f"{name} {float(score):.9g} {place}\n")
    paths = []
    for class_name, rows in zip(dataset.class_names, lines):
        path = Path(out_dir) / "results" / f"det_test_{safe_name(class_name)}.txt"
        with atomic_write(path) as handle:
            handle.writelines(rows)
        paths.append(path)
    return paths


def write_coco_results(
    detections: Mapping[ImageId, Detections], dataset: Dataset, out_dir: str | Path
) -> Path:
    """Write coco_results.json, see `detections_to_coco`; returns its path."""
    path = Path(out_dir) / "coco_results.json"
    with atomic_write(path) as handle:
        json.dump(detections_to_coco(detections, dataset), handle, allow_nan=False)
    return path
