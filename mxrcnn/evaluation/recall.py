"""The recall of proposals: an upper bound of a two-stage detector's recall.

Letters: N objects of one image, P proposals of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mxrcnn.data.records import ImageId, ImageRecord
from mxrcnn.evaluation.matching import check_images, ignored
from symnet.geometry.boxes import iou


def proposal_recall(
    records: Sequence[ImageRecord],
    proposals: Mapping[ImageId, np.ndarray],
    iou_threshs: Sequence[float] = (0.5, 0.7),
    top_n: Sequence[int] = (300,),
) -> dict[str, float]:
    """The fraction of objects that some proposal overlaps by at least the IoU threshold.

    Difficult and crowd objects do not count. proposals: image id -> (P, 4) xyxy in stored pixels,
    by descending score; an image without an entry has none. Returns {"recall@0.5/300": ...} for
    each IoU threshold and number of top proposals; NaN without objects. A proposal may cover
    several objects. Raises ValueError for duplicate or unknown image ids and for a top_n below 1.
    """
    if min(top_n) < 1:
        raise ValueError(f"top_n {min(top_n)} is less than 1")
    check_images(records, proposals)
    best: dict[int, list[np.ndarray]] = {n: [np.zeros(0)] for n in top_n}
    for record in records:
        boxes = np.asarray(record.boxes[~ignored(record)], np.float64)
        found = np.asarray(proposals.get(record.image_id, ()), np.float64).reshape(-1, 4)
        overlap = iou(boxes, found[: max(top_n)])  # (N, P)
        for n in top_n:
            best[n].append(overlap[:, :n].max(axis=1, initial=0.0))
    overlaps = {n: np.concatenate(parts) for n, parts in best.items()}
    return {
        f"recall@{t:g}/{n}": float(np.mean(overlaps[n] >= t)) if len(overlaps[n]) else float("nan")
        for t in iou_threshs
        for n in top_n
    }
