"""Statistics of data sets: counts of images, objects, classes and sizes, for `mxrcnn data stats`.

Letters: K objects of all images, C classes without background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mxrcnn.config import DataConfig
from mxrcnn.data import read_annotations
from mxrcnn.data.records import DataError, Dataset
from mxrcnn.tables import aligned

#: COCO's sizes: small objects have an area below the first, large ones above the second
AREAS = (32**2, 96**2)
SIZES = ("small", "medium", "large")
#: image sizes that the table shows; the JSON lists all
SHOWN = 5


def read_stats(
    data: DataConfig, imagesets: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(image set -> its `count`, why others could not be read). No image is decoded.

    Raises DataError if none can be read.
    """
    stats, failures = {}, []
    for name in imagesets:
        try:
            stats[name] = count(read_annotations(data, name))
        except DataError as error:
            if len(imagesets) == 1:
                raise
            failures.append(f"{name}: {error}")
    if not stats:
        raise DataError(data.root, f"no image set can be read; first: {failures[0]}")
    return stats, failures


def count(dataset: Dataset) -> dict[str, Any]:
    """The numbers of a data set, by name, for JSON; milliseconds for 100,000 objects."""
    records = dataset.records
    per_image = np.array([len(record) for record in records], np.int64)
    flags = {
        name: int(sum(getattr(record, name).sum() for record in records))
        for name in ("difficult", "crowd", "truncated")
    }
    shapes = Counter((record.width, record.height) for record in records)
    sides = np.array([(record.width, record.height) for record in records])
    limits = (("smallest", np.min), ("median", np.median), ("largest", np.max))
    return {
        "images": len(records),
        "images without objects": int((per_image == 0).sum()),
        "objects": int(per_image.sum()),
        **flags,
        "with masks": sum(mask is not None for record in records for mask in record.masks or ()),
        **_sizes(np.concatenate([record.areas for record in records])),
        "objects an image": {
            "mean": round(float(per_image.mean()), 2),
            "median": float(np.median(per_image)),
            "most": int(per_image.max()),
        },
        "image width": {name: float(of(sides[:, 0])) for name, of in limits},
        "image height": {name: float(of(sides[:, 1])) for name, of in limits},
        "image sizes": {f"{w} x {h}": n for (w, h), n in shapes.most_common()},
        "classes": _classes(dataset),
        "notes": dataset.notes.lines(),
    }


def _sizes(areas: np.ndarray) -> dict[str, int]:
    """Objects by size, from their areas (K,)."""
    small, large = int((areas < AREAS[0]).sum()), int((areas > AREAS[1]).sum())
    return dict(zip(SIZES, (small, len(areas) - small - large, large)))


def _classes(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Class name -> its objects, the images that have one, and its objects by size."""
    kinds = np.concatenate([record.classes for record in dataset.records])
    areas = np.concatenate([record.areas for record in dataset.records])
    images = Counter(k for record in dataset.records for k in set(record.classes.tolist()))
    out = {}
    for k, name in enumerate(dataset.class_names, start=1):
        ours = areas[kinds == k]
        out[name] = {"objects": len(ours), "images": images[k], **_sizes(ours)}
    return out


def table(stats: Mapping[str, Mapping[str, Any]]) -> str:
    """The statistics of image sets for people: a column for each, then its classes and notes."""
    first = next(iter(stats.values()))
    rows = [["", *stats]]
    for key, value in first.items():
        if isinstance(value, int):
            rows.append([key, *(str(one[key]) for one in stats.values())])
        elif key not in ("image sizes", "classes", "notes"):
            each = (" / ".join(f"{v:g}" for v in one[key].values()) for one in stats.values())
            rows.append([f"{key} ({' / '.join(value)})", *each])
    return "\n\n".join([aligned(rows), *(_page(name, one) for name, one in stats.items())])


def _page(name: str, one: Mapping[str, Any]) -> str:
    """The classes, image sizes and notes of an image set."""
    columns = ("objects", "images", *SIZES)
    total = max(1, one["objects"])
    rows = [(name, *columns, "share")]
    for kind, numbers in one["classes"].items():
        share = f"{numbers['objects'] / total:.1%}"
        rows.append((kind, *(str(numbers[column]) for column in columns), share))
    shapes = list(one["image sizes"].items())
    shown = ", ".join(f"{size} ({count})" for size, count in shapes[:SHOWN])
    more = f", and {len(shapes) - SHOWN} other sizes" if len(shapes) > SHOWN else ""
    return "\n".join([aligned(rows, rule=True), f"image sizes: {shown}{more}", *one["notes"]])
