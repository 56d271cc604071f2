"""Reports of a check: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxrcnn.data.check.anchors import THRESHOLDS, coverage
from mxrcnn.data.check.faults import KINDS
from mxrcnn.data.check.objects import HUGE, LONG, TINY
from mxrcnn.data.check.run import DataCheck
from mxrcnn.tables import aligned, plain

#: faults of a kind that the table shows; the JSON lists all
SHOWN = 5


def table(check: DataCheck) -> str:
    """The report for people: counts, classes, what anchors reach, and the first faults."""
    parts = [_counts_table(check), _class_table(check), _reach_lines(check), _fault_lines(check)]
    return "\n\n".join(parts)


def _counts_table(check: DataCheck) -> str:
    names = [split.name for split in check.splits]
    keys = [key for key in check.counts[names[0]] if key != "per class"]
    explained = {
        "tiny": f"tiny (side < {TINY} network pixels)",
        "huge": f"huge (> {HUGE:.0%} of the image)",
        "long": f"long (sides over 1 : {LONG})",
    }
    rows = [["", *names]]
    rows += [[explained.get(key, key), *(str(check.counts[n][key]) for n in names)] for key in keys]
    return aligned(rows)


def _class_table(check: DataCheck) -> str:
    """For each class: objects of each split, share of all, median side, what anchors reach."""
    names = [split.name for split in check.splits]
    anchors = check.reach.points is None
    head = ["class", *names, "share", "median side"]
    rows = [head + ([f"IoU {at:g}" for at in THRESHOLDS] if anchors else [])]
    total = max(1, sum(check.counts[name]["objects"] for name in names))
    roots = np.sqrt(np.prod(check.objects.sides, axis=1))
    for k, name in enumerate(check.class_names):
        counts = [check.counts[split]["per class"].get(name, 0) for split in names]
        if not sum(counts) and len(check.class_names) > 40:
            continue
        ours = check.objects.classes == k
        median = f"{np.median(roots[ours]):.0f}" if ours.any() else "-"
        row = [name, *map(str, counts), f"{sum(counts) / total:.1%}", median]
        shares = coverage(check.reach.overlaps[ours]).values() if anchors else ()
        rows.append(row + [_percent(share) for share in shares])
    return aligned(rows)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.1%}"


def _reach_lines(check: DataCheck) -> str:
    reach, model = check.reach, check.config.model
    if reach.points is not None:
        shares = ", ".join(f"{_percent(s)} {name}" for name, s in reach.points.levels.items())
        return (
            f"{reach.network} has points instead of anchors. Objects by the level of their size: "
            f"{shares}\nobjects that have a point, in {reach.points.images} images: "
            f"{_percent(reach.points.matched)}"
        )
    fields = ("anchor_sizes", "anchor_scales", "anchor_ratios")
    own = {name: getattr(model, name) for name in fields if hasattr(model, name)}
    line = _reach_line(f"anchors of {reach.network}", own, reach.overlaps)
    best = reach.suggestion
    if best is None:
        return f"{line}\nno other anchors of the same number were found that reach more"
    better = _reach_line("suggested", best.settings, best.overlaps)
    return f"{line}\n{better}\n  by {best.how}: --set {best.words()}"


def _reach_line(what: str, settings: Mapping[str, Sequence[float]], overlaps: np.ndarray) -> str:
    words = ", ".join(f"{n} {' '.join(f'{v:g}' for v in values)}" for n, values in settings.items())
    shares = [f"{_percent(s)} of objects at IoU {at}" for at, s in coverage(overlaps).items()]
    return f"{what} ({words}): reach {', '.join(shares)}"


def _fault_lines(check: DataCheck) -> str:
    if not check.faults:
        return "no faults"
    lines = []
    for kind, (level, what) in KINDS.items():
        found = [fault for fault in check.faults if fault.kind == kind]
        if not found:
            continue
        lines.append(f"{level}: {len(found)} {what}")
        for fault in found[:SHOWN]:
            file = f"{fault.file}: " if fault.file else ""
            lines.append(f"  {fault.split}: {file}{fault.detail}")
        if len(found) > SHOWN:
            lines.append(f"  and {len(found) - SHOWN} more")
    return "\n".join(lines)


def to_json(check: DataCheck) -> str:
    """The report for programs, with all faults."""
    reach = check.reach
    anchors: dict[str, Any] = {"network": reach.network}
    if reach.points is not None:
        anchors.update({"levels": reach.points.levels, "matched": reach.points.matched})
    else:
        classes = enumerate(check.class_names)
        by_class = {n: coverage(reach.overlaps[check.objects.classes == k]) for k, n in classes}
        anchors.update({"coverage": coverage(reach.overlaps), "coverage_by_class": by_class})
    best = reach.suggestion
    if best is not None:
        reached = coverage(best.overlaps)
        anchors["suggested"] = {"settings": best.settings, "how": best.how, "coverage": reached}
    report = {
        "passed": check.passed(),
        "splits": check.counts,
        "anchors": anchors,
        "images_without_objects": {
            split.name: [str(record.path) for record in split.dataset.records if not len(record)]
            for split in check.splits
        },
        "fault_counts": dict(Counter(fault.kind for fault in check.faults)),
        "faults": [{**fault._asdict(), "level": fault.level} for fault in check.faults],
    }
    return json.dumps(plain(report), indent=2, allow_nan=False) + "\n"
