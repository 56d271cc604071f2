"""Compares two tested runs: differences with intervals, a verdict, and the images that changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import ConfigError
from mxrcnn.data.records import Dataset, Detections, ImageId
from mxrcnn.evaluation.bootstrap import (
    RESAMPLES,
    SEED,
    Estimate,
    bootstrap,
    images_needed,
    note_missing,
    verdict,
)
from mxrcnn.evaluation.changes import Change, changed_images, changes_table, thresholds
from mxrcnn.evaluation.core import AUTO, choose_metric
from mxrcnn.evaluation.curves import Curves, match_once
from mxrcnn.evaluation.tested import find_tested, open_truth, read_results
from mxrcnn.files import atomic_write, safe_name
from mxrcnn.tables import aligned, plain

#: how messages and tables call the metrics that are not COCO's
TITLES = {"voc07": "VOC07 mAP", "voc12": "VOC12 mAP"}
#: classes in the printed table, at most; compare.json has all
MOST_CLASSES = 100


@dataclass(frozen=True)
class CompareRequest:
    """The options of `mxrcnn compare`; settings: `section.field` -> value."""

    a: str
    b: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    imageset: str | None = None
    metric: str = AUTO
    resamples: int = RESAMPLES
    seed: int = SEED
    pictures: int = 50
    out: str | None = None


@dataclass(frozen=True)
class Row:
    """One metric of A and B, and B minus A; each is NaN if there is nothing to measure."""

    a: float
    b: float
    difference: Estimate

    def to_json(self, images: int) -> dict[str, Any]:
        """a, b, difference, images_needed; images: of the test set."""
        told = self.difference.sign or not self.difference.has_interval
        needed = None if told else images_needed(self.difference, images)
        numbers = {"a": self.a, "b": self.b, "difference": self.difference.to_json()}
        return plain({**numbers, "images_needed": needed})


@dataclass(frozen=True)
class Comparison:
    """Two detectors on the same images.

    rows: by metric. per_class: by class and metric. main: the metric of the verdict. images: how
    many. changes: of every image. least: each side's thresholds by class, see `changes`.
    """

    names: tuple[str, str]
    rows: dict[str, Row]
    per_class: dict[str, dict[str, Row]]
    main: str
    images: int
    changes: list[Change]
    least: tuple[np.ndarray, np.ndarray]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Whether B is better, in one sentence."""
        return verdict(self.rows[self.main].difference, self.images, _title(self.main))

    def table(self) -> str:
        """The comparison as plain text."""
        a, b = self.names
        parts = [f"A: {a}\nB: {b}", _rows_table("metric", self.rows)]
        shown = dict(list(self.per_class.items())[:MOST_CLASSES])
        if len(self.per_class) > 1:
            rows = {name: row[self.main] for name, row in shown.items()}
            parts.append(f"{_title(self.main)} by class:\n\n{_rows_table('class', rows)}")
        parts += ["\n".join(self.notes)] if self.notes else []
        return "\n\n".join([*parts, changes_table(self.changes), self.verdict])

    def to_json(self) -> dict[str, Any]:
        """The content of compare.json."""
        best = {
            side: dict(zip(self.per_class, plain(least.tolist())))
            for side, least in zip("ab", self.least)
        }
        return {
            "a": self.names[0],
            "b": self.names[1],
            "images": self.images,
            "main": self.main,
            "verdict": self.verdict,
            "metrics": {name: row.to_json(self.images) for name, row in self.rows.items()},
            "per_class": {
                name: {metric: row.to_json(self.images) for metric, row in rows.items()}
                for name, rows in self.per_class.items()
            },
            "thresholds": best,
            "changes": [change.to_json() for change in self.changes],
            "notes": self.notes,
        }


def compare(
    dataset: Dataset,
    a: Mapping[ImageId, Detections],
    b: Mapping[ImageId, Detections],
    names: tuple[str, str] = ("A", "B"),
    metric: str = AUTO,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare the detections of two detectors on a data set, by all metrics.

    metric: which one the verdict is about, as in `evaluate`; for COCO's it is AP of masks if both
    have masks. Raises ConfigError for another metric and for fewer than 2 resamples, and ValueError
    as `in_order` does.
    """
    if resamples < 2:
        raise ConfigError(f"--resamples {resamples}: an interval needs at least 2, say {RESAMPLES}")
    asked = choose_metric(dataset, metric).name
    sides = [match_once(dataset, found) for found in (a, b)]
    notes, sides = _shared_metrics(sides)
    main = asked if asked != "coco" else ("segm_AP" if "segm_AP" in sides[0].metrics else "AP")
    differences = bootstrap(sides, resamples, seed)
    values = [side.values(np.ones((len(dataset), 1), np.int32))[..., 0].tolist() for side in sides]
    table = [
        {name: Row(*cell) for name, *cell in zip(sides[0].metrics, *row)}
        for row in zip(*values, differences)
    ]
    least = thresholds(dataset, a), thresholds(dataset, b)
    notes += _notes(table, resamples, dataset, (a, b))
    return Comparison(
        names,
        table[0],
        dict(zip(dataset.class_names, table[1:])),
        main,
        len(dataset),
        changed_images(dataset, sides, least),
        least,
        notes,
    )


def _shared_metrics(sides: Sequence[Curves]) -> tuple[list[str], list[Curves]]:
    """Both sides with the metrics that both have: one may have masks and the other none."""
    both = tuple(name for name in sides[0].metrics if name in sides[1].metrics)
    left = sorted({*sides[0].metrics, *sides[1].metrics} - {*both})
    notes = [f"only one of the two has masks: {', '.join(left)} are not compared"] if left else []
    return notes, [side.only(both) for side in sides]


def _notes(
    table: Sequence[Mapping[str, Row]],
    resamples: int,
    dataset: Dataset,
    sides: Sequence[Mapping[ImageId, Detections]],
) -> list[str]:
    notes = [
        f"intervals: 95 %, bias-corrected, {resamples} resamples of {len(dataset)} images, the "
        "same for both"
    ]
    for name, found in zip("AB", sides):
        if not any(map(len, found.values())):
            notes.append(f"{name} has no detections")
    differences = [row.difference for rows in table for row in rows.values()]
    notes += note_missing(differences, "numbers")
    told = sum(difference.has_interval for difference in differences)
    if told > 1:
        notes.append(
            f"by chance, about 1 in 20 of {told} intervals leaves out 0: choose the metric to "
            "decide by beforehand"
        )
    if len(dataset.class_names) > MOST_CLASSES:
        notes.append(
            f"the table has the first {MOST_CLASSES} of {len(dataset.class_names)} classes"
        )
    return notes


def _title(metric: str) -> str:
    return TITLES.get(metric, metric)


def _rows_table(kind: str, rows: Mapping[str, Row]) -> str:
    head = [kind, "A", "B", "B - A", "95 % interval", "better"]
    body = [
        [
            _title(name)[:40],
            *(_points(x) for x in (row.a, row.b)),
            _points(row.difference.value, "+"),
            interval_text(row.difference) or "-",
            {1: "B", -1: "A", 0: ""}[row.difference.sign],
        ]
        for name, row in rows.items()
    ]
    return aligned([head, *body], rule=True)


def _points(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{100 * value:{sign}.1f}"


def interval_text(estimate: Estimate) -> str:
    """[low, high] in points of 0.01; empty if there is no interval."""
    if not estimate.has_interval:
        return ""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def run_compare(request: CompareRequest) -> tuple[Comparison, list[Path]]:
    """Compare two tests and write compare.json and compare.html; returns the files too.

    Raises ConfigError and DataError as `find_tested`, `open_truth` and `read_results` do.
    """
    from mxrcnn.evaluation.compare_page import write_page

    if request.pictures < 0:
        raise ConfigError("--pictures must be at least 0")
    sides = [find_tested(p, request.imageset, request.settings) for p in (request.a, request.b)]
    dataset, data, notes = open_truth(sides, request.settings, request.imageset)
    a, b = (read_results(side.file, dataset) for side in sides)
    names = request.a, request.b
    how = request.metric, request.resamples, request.seed
    comparison = compare(dataset, a, b, names, *how)
    comparison.notes[:0] = [f"{dataset.name}: {len(dataset)} images", *notes]
    comparison.notes.extend(dataset.notes.lines())
    out = Path(request.out or _folder_name(names))
    path = out / "compare.json"
    with atomic_write(path) as handle:
        json.dump(comparison.to_json(), handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")
    page = out / "compare.html"
    write_page(comparison, dataset, (a, b), page, request.pictures, data)
    return comparison, [path, page]


def _folder_name(names: Sequence[str]) -> str:
    """compare_A_B by the last parts of their paths; by two parts if these are equal."""
    paths = [Path(name).resolve() for name in names]
    parts = 1 + (paths[0].name == paths[1].name)
    return "_".join(["compare", *(safe_name("-".join(path.parts[-parts:])) for path in paths)])
