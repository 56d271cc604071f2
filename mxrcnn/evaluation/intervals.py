"""The intervals of a test's metrics: `mxrcnn test --ci`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.bootstrap import RESAMPLES, SEED, bootstrap, note_missing
from mxrcnn.evaluation.core import AUTO, choose_metric
from mxrcnn.evaluation.curves import match_once
from mxrcnn.evaluation.report import Report


def with_intervals(
    dataset: Dataset,
    detections: Mapping[ImageId, Detections],
    metric: str = AUTO,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Report:
    """A report of intervals alone, to be merged with that of `evaluate` by the same metric.

    Bias-corrected 95 % intervals by `bootstrap`, of AP over all classes, of each size, and of each
    class. A note counts the numbers without one. Raises as `evaluate` does.
    """
    name = choose_metric(dataset, metric).name
    curves = match_once(dataset, detections, (name,))
    table = bootstrap([curves], resamples, seed)
    called = [m if name == "coco" else "AP" for m in curves.metrics]
    rows = [
        {m: (cell.low, cell.high) for m, cell in zip(called, row) if cell.has_interval}
        for row in table
    ]
    overall = {"mAP" if name != "coco" else m: ends for m, ends in rows[0].items()}
    shown = ("AP", "AP50", "segm_AP", "segm_AP50")
    classes = {
        class_name: {m: ends for m, ends in row.items() if m in shown}
        for class_name, row in zip(dataset.class_names, rows[1:])
    }
    notes = [
        f"intervals: 95 %, bias-corrected, {resamples} resamples of {len(dataset)} images; "
        "of AP, not of AR, recall and speed"
    ]
    notes += note_missing(itertools.chain(*table), "AP")
    return Report({}, notes=notes, intervals=overall, class_intervals=classes)
