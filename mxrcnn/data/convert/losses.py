"""What a new data set does not hold: it is read back and compared with what was to be written.

Letters: N objects of an image, M of them that are read back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mxrcnn.data.convert.layouts import Layout, Plan
from mxrcnn.data.records import DataError, Dataset, ImageRecord


def compare(plan: Plan, layout: Layout, back: Mapping[str, Dataset]) -> list[str]:
    """What differs in the image sets that were read back, as sentences with counts.

    An image in several image sets is counted once. Raises DataError if an image, an object or a
    class is not there: nothing but names that our readers do not take can be the cause.
    """
    counts: Counter[str] = Counter()
    farthest, seen = 0.0, set()
    for imageset, records in plan.sets.items():
        found = {record.path.name: record for record in back[imageset].records}
        for record in records:
            name = plan.names[imageset][record.path]
            kept = layout.kept(record)
            if not _is_there(record, kept, plan, found.get(name), back[imageset]):
                raise DataError(record.path, f"would not be read back as {name}: rename it")
            if record.path in seen:
                continue
            seen.add(record.path)
            counts[layout.left_out] += int((~kept).sum())
            _flags(record, kept, found[name], counts)
            _masks(record, kept, found[name], counts)
            moved = abs(record.boxes[kept] - found[name].boxes).max(axis=1, initial=0)
            counts["boxes have moved"] += int((moved > 0).sum())
            farthest = max(farthest, float(moved.max(initial=0)))
            counts["images have another file name"] += name != record.path.name
    lines = [f"{count} {what}" for what, count in counts.items() if count]
    lines = [f"{s}, by at most {farthest:.3g} pixels" if "moved" in s else s for s in lines]
    return [*lines, *_classes(plan, back)]


def _is_there(
    record: ImageRecord, kept: np.ndarray, plan: Plan, found: ImageRecord | None, back: Dataset
) -> bool:
    """True if the image was read back with its size and the classes of its M objects."""
    if found is None or (found.height, found.width) != (record.height, record.width):
        return False
    wanted = [plan.class_names[k - 1] for k in record.classes[kept]]
    return wanted == [back.class_names[k - 1] for k in found.classes]


def _flags(record: ImageRecord, kept: np.ndarray, found: ImageRecord, counts: Counter[str]) -> None:
    crowd = record.crowd[kept] & ~found.crowd
    counts["crowd regions became difficult objects"] += int((crowd & found.difficult).sum())
    what = "objects are no longer marked as"
    counts[f"{what} difficult"] += int((record.difficult[kept] & ~found.difficult).sum())
    counts[f"{what} truncated"] += int((record.truncated[kept] & ~found.truncated).sum())


def _masks(record: ImageRecord, kept: np.ndarray, found: ImageRecord, counts: Counter[str]) -> None:
    for i, new in zip(np.flatnonzero(kept), found.masks or [None] * len(found)):
        old = record.masks[i] if record.masks is not None else None
        kind = "polygons" if isinstance(old, list) else "RLE"
        if old is not None and new is None:
            counts[f"masks ({kind}) were left out"] += 1
        elif _parts(old) != _parts(new):
            counts[f"masks ({'none' if old is None else kind}) became their boxes"] += 1


def _parts(mask: Any) -> int:
    """The number of polygons; -1 for RLE, 0 for none."""
    return len(mask) if isinstance(mask, list) else -(mask is not None)


def _classes(plan: Plan, back: Mapping[str, Dataset]) -> list[str]:
    """What becomes of the classes if the form does not hold their list: VOC's labelmap.txt cannot
    hold some names."""
    if all(dataset.class_names == plan.class_names for dataset in back.values()):
        return []
    used = {
        dataset.class_names[k - 1]
        for dataset in back.values()
        for record in dataset.records
        for k in record.classes
    }
    empty = [name for name in plan.class_names if name not in used]
    lines = [f"{len(empty)} classes without objects are lost: {', '.join(empty)}"] if empty else []
    rest = [name for name in plan.class_names if name in used]
    if rest != sorted(rest):
        lines.append(f"the order of classes is lost; it was {', '.join(plan.class_names)}")
    return lines
