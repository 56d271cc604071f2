"""Writes detections in the file formats of Pascal VOC's and COCO's own tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.coco import detections_to_coco
from mxrcnn.evaluation.matching import in_order
from mxrcnn.files import atomic_write, safe_name

#: files in a test's folder: detections, and the identity of the data that were tested
RESULTS, DATA = "coco_results.json", "data.json"


def voc_name(image_id: ImageId) -> str:
    """An image id as one word, because VOC's results files separate fields by white space.

    White space, "%" and unprintable characters become %XX (UTF-8 bytes); the empty name becomes
    "%". `urllib.parse.unquote(word, errors="surrogatepass")` restores the name.
    """
    return (
        "".join(
            quote(c, safe="", errors="surrogatepass") if c in " %" or not c.isprintable() else c
            for c in str(image_id)
        )
        or "%"
    )


def write_voc_submission(
    detections: Mapping[ImageId, Detections], dataset: Dataset, out_dir: str | Path
) -> list[Path]:
    """Write results/det_test_{class}.txt for every class, even without detections.

    Lines are `image_id score x1 y1 x2 y2`. The id is encoded by `voc_name`. Pixels are 1-based and
    inclusive, as in the devkit: 1 is added to a box's minimum, its maximum is unchanged. Raises
    ValueError as `in_order` does, and if two ids are written alike, such as 1 and "1".
    """
    names = {voc_name(record.image_id) for record in dataset.records}
    if len(names) < len(dataset):
        raise ValueError(f"{len(dataset) - len(names)} image ids differ only in type, as 1 and '1'")
    lines: list[list[str]] = [[] for _ in dataset.class_names]
    for record, found in in_order(dataset.records, detections, dataset.num_classes):
        name = voc_name(record.image_id)
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
    """Write coco_results.json (see `detections_to_coco`); returns its path."""
    path = Path(out_dir) / RESULTS
    with atomic_write(path) as handle:
        json.dump(detections_to_coco(detections, dataset), handle, allow_nan=False)
    return path


def write_identity(dataset: Dataset, out_dir: str | Path) -> Path:
    """Write data.json, the `DataIdentity` of what was tested, without masks; returns its path."""
    path = Path(out_dir) / DATA
    with atomic_write(path) as handle:
        json.dump(DataIdentity.of(dataset).to_json(), handle)
    return path
