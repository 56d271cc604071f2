"""What is wrong with a data set, and what is in it: for people as a table, for programs as JSON.

Annotations are read by the loaders themselves, as with --skip-bad: what they leave out, drop, cut
or find amiss is what is reported. Each image is decoded once.

Letters: K objects of all images, I images, N objects of one image.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from mxrcnn.config import Config
from mxrcnn.data import read_annotations
from mxrcnn.data.check_anchors import (
    THRESHOLDS,
    Objects,
    PointReach,
    Suggestion,
    best_overlaps,
    coverage,
    point_reach,
    suggest,
)
from mxrcnn.data.images import orientation
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.transforms import padded_size, read_pixels, resized_size, trainable_objects
from symnet import get_detector
from symnet.boxes import areas, iou

#: kind of fault -> (level, what it is). An error stops a training, unless --skip-bad leaves it out
KINDS = {
    "unreadable": ("error", "entries that cannot be read"),
    "broken image": ("error", "images that cannot be decoded, or are of another size"),
    "size mismatch": ("warning", "annotations with another image size than the file, which counts"),
    "dropped": ("warning", "boxes that are empty, inverted or outside the image: dropped"),
    "clipped": ("warning", "boxes that reach outside the image: cut to it"),
    "same box twice": ("warning", "pairs of boxes of one class at the same place"),
    "two classes": ("warning", "pairs of boxes of different classes at the same place"),
    "turned": ("warning", "images that EXIF says to turn, and exif_orientation=false does not"),
    "same image": ("warning", "pairs of images of one split that look the same"),
    "leak": ("warning", "pairs of images of two splits that look the same"),
    "class without objects": ("warning", "classes that a split has no object of"),
}
#: IoU from which two boxes are at the same place
SAME_PLACE = 0.9
#: the shorter side of a tiny box, in network pixels; the share of the image that a huge one covers;
#: the longer side of a long one over its shorter side
TINY, HUGE, LONG = 8, 0.9, 8
#: bits of a picture's fingerprint a side, and how many of them may differ in the same picture
BITS, ALIKE = 16, 24
#: faults of a kind that the table shows; the JSON has all
SHOWN = 5
_BLOCK = 2048  # images whose fingerprints are compared at once


class Fault(NamedTuple):
    """One fault; box is xyxy in the image's pixels, other the second image of a pair."""

    kind: str
    split: str
    file: str
    detail: str
    box: tuple[float, ...] | None = None
    other: str = ""

    @property
    def level(self) -> str:
        """error or warning."""
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class Split:
    """An image set: its data, and of each image the fingerprint (BITS * BITS,) or None."""

    dataset: Dataset
    prints: list[np.ndarray | None]
    objects: Objects

    @property
    def name(self) -> str:
        """As in --imageset."""
        return self.dataset.name


@dataclass(frozen=True)
class Reach:
    """Of one network: how many objects its anchors reach, and what would reach more."""

    network: str
    overlaps: np.ndarray
    suggestion: Suggestion | None
    points: PointReach | None


@dataclass(frozen=True)
class DataCheck:
    """All that was found."""

    config: Config
    splits: list[Split]
    faults: list[Fault]
    class_names: tuple[str, ...]
    objects: Objects
    reach: Reach
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def passed(self, strict: bool = False) -> bool:
        """Whether a training can start as it is; strict: whether there is not even a warning."""
        return not any(strict or fault.level == "error" for fault in self.faults)


def check_data(config: Config, imagesets: Sequence[str], progress: bool = True) -> DataCheck:
    """Look at every annotation and image of some image sets, as a config would use them.

    Raises DataError for what cannot be read at all (no such image set, broken JSON, no usable
    image), ConfigError for an unknown kind of data set.
    """
    data = replace(config.data, skip_bad=True)
    datasets = [read_annotations(data, name) for name in imagesets]
    class_names = tuple(dict.fromkeys(n for dataset in datasets for n in dataset.class_names))
    splits, faults = [], []
    for name, dataset in zip(imagesets, datasets):
        dataset = replace(dataset, name=name)
        prints, broken = _look(dataset, config, progress)
        objects = network_objects(dataset.records, class_names, dataset.class_names, config)
        splits.append(Split(dataset, prints, objects))
        faults += [*_notes(dataset), *broken, *_same_places(dataset)]
    faults += [*_empty_classes(splits, class_names), *_twins(splits)]
    every = _joined([split.objects for split in splits])
    order = list(KINDS)
    faults.sort(key=lambda fault: order.index(fault.kind))
    counts = {split.name: _counts(split) for split in splits}
    reach = _reach(config, every, splits[0].objects)
    return DataCheck(config, splits, faults, class_names, every, reach, counts)


def network_objects(
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    own_names: Sequence[str],
    config: Config,
) -> Objects:
    """The objects that a detector learns from, in the pixels of its network.

    own_names: the classes of these records; class_names: those of all image sets.
    """
    data = config.data
    multiple = int(np.lcm(data.pad_multiple, get_detector(config.network).stride))
    index = np.array([class_names.index(name) for name in own_names], np.int64)
    boxes, images, sizes, padded, classes = [], [], [], [], []
    for place, record in enumerate(records):
        keep = trainable_objects(record, data)
        height, width, _ = resized_size(record.height, record.width, data)
        count = int(keep.sum())
        boxes.append(record.boxes[keep] * ([width / record.width, height / record.height] * 2))
        images.append(np.full(count, place))
        sizes.append(np.tile((height, width), (count, 1)))
        outer = padded_size([(height, width)], multiple, data.least_padded_side)
        padded.append(np.tile(outer, (count, 1)))
        classes.append(index[record.classes[keep] - 1])
    parts = (boxes, images, sizes, padded, classes)
    found = [np.concatenate(part) if part else np.zeros(0) for part in parts]
    return Objects(found[0].astype(np.float32), *(part.astype(np.int64) for part in found[1:]))


def _joined(parts: Sequence[Objects]) -> Objects:
    """The objects of all splits; image numbers count on."""
    first, shifted = 0, []
    for part in parts:
        shifted.append(replace(part, image=part.image + first))
        first += int(part.image.max(initial=-1)) + 1
    names = Objects.__dataclass_fields__
    return Objects(*(np.concatenate([getattr(p, name) for p in shifted]) for name in names))


def _reach(config: Config, objects: Objects, training: Objects) -> Reach:
    """What a config's anchors reach of all objects; suggestions are made from those of training."""
    model = config.model
    if hasattr(model, "points"):
        return Reach(config.network, np.zeros(0), None, point_reach(model, objects))
    inside_only = getattr(model, "rpn_inside_only", False)
    overlaps = best_overlaps(model.anchors, objects, inside_only)
    best = suggest(model, training)
    if best is not None and training is not objects:
        anchors = replace(model, **best.settings).anchors
        best = replace(best, overlaps=best_overlaps(anchors, objects, inside_only))
    return Reach(config.network, overlaps, best, None)


# Faults


def _notes(dataset: Dataset) -> Iterator[Fault]:
    """What the loader noted."""
    for reason in dataset.notes.skipped:
        yield Fault("unreadable", dataset.name, "", reason)
    for item in dataset.notes.mended:
        yield Fault(item.kind, dataset.name, str(item.image), item.detail, item.box)


def _look(
    dataset: Dataset, config: Config, progress: bool
) -> tuple[list[np.ndarray | None], list[Fault]]:
    """Decode every image: fingerprints, and what is wrong with the files."""
    upright = config.data.exif_orientation

    def look(record: ImageRecord) -> tuple[np.ndarray | None, Fault | None]:
        try:
            pixels = read_pixels(record, config.data)
            turn = 1 if upright else orientation(record.path)
        except DataError as error:
            return None, Fault("broken image", dataset.name, str(record.path), error.problem)
        fault = None
        if turn != 1:
            detail = f"orientation {turn}: --set exif_orientation=true, if the boxes are of it so"
            fault = Fault("turned", dataset.name, str(record.path), detail)
        return fingerprint(pixels), fault

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(look, dataset.records),
            f"looking at {dataset.name}",
            len(dataset),
            disable=None if progress else True,
        )
        prints, faults = zip(*bar)
    return list(prints), [fault for fault in faults if fault is not None]


def fingerprint(pixels: np.ndarray) -> np.ndarray | None:
    """Bits (BITS * BITS,) of pixels (H, W, 3): where the small grey picture gets darker rightwards.

    The difference hash of N. Krawetz (2013). It hardly changes with size and compression. None for
    a picture of one colour, which would be like every other.
    """
    grey = Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((BITS + 1, BITS), Image.Resampling.BOX), np.int64)
    return None if np.ptp(small) < BITS // 2 else (small[:, 1:] > small[:, :-1]).ravel()


def _twins(splits: Sequence[Split]) -> Iterator[Fault]:
    """Pairs of images whose fingerprints are alike: two by two, as a product of matrices."""
    owners = [
        (split.name, record)
        for split in splits
        for record, bits in zip(split.dataset.records, split.prints)
        if bits is not None
    ]
    bits = [bits for split in splits for bits in split.prints if bits is not None]
    if not bits:
        return
    signs = np.where(np.array(bits), np.float32(1), np.float32(-1))
    for start in range(0, len(signs), _BLOCK):
        # of n bits, those that agree less those that do not: n - 2 d
        away = (BITS * BITS - signs[start : start + _BLOCK] @ signs[start:].T) / 2
        for i, j in np.argwhere(np.triu(away <= ALIKE, k=1)):
            (name, record), (other_name, other) = owners[start + i], owners[start + j]
            kind = "same image" if name == other_name else "leak"
            where = "" if name == other_name else f" of {other_name}"
            detail = f"like {other.path}{where} ({away[i, j]:.0f} of {BITS * BITS} bits differ)"
            yield Fault(kind, name, str(record.path), detail, other=str(other.path))


def _same_places(dataset: Dataset) -> Iterator[Fault]:
    """Pairs of boxes of an image that lie on one another. A crowd may hold objects of its class."""
    for record in dataset.records:
        single = np.flatnonzero(~record.crowd)
        boxes, classes = record.boxes[single], record.classes[single]
        for i, j in np.argwhere(np.triu(iou(boxes, boxes) >= SAME_PLACE, k=1)):
            names = [dataset.class_names[classes[k] - 1] for k in (i, j)]
            kind = "same box twice" if classes[i] == classes[j] else "two classes"
            box = tuple(boxes[i].tolist())
            detail = f"{' and '.join(dict.fromkeys(names))} at {' '.join(f'{v:g}' for v in box)}"
            yield Fault(kind, dataset.name, str(record.path), detail, box)


def _empty_classes(splits: Sequence[Split], class_names: Sequence[str]) -> Iterator[Fault]:
    total = Counter(k for split in splits for k in split.objects.classes.tolist())
    for split in splits:
        here = set(split.objects.classes.tolist())
        for k, name in enumerate(class_names):
            # (the 20 names of VOC stand for any data set that has some of them)
            if k not in here and (total[k] or split.dataset.category_ids):
                yield Fault("class without objects", split.name, "", name)


# Counts


def _counts(split: Split) -> dict[str, Any]:
    """Numbers of a split."""
    records, objects = split.dataset.records, split.objects
    sides, image = objects.sides, np.prod(objects.size, axis=1)
    shorter, longer = sides.min(axis=1, initial=np.inf), sides.max(axis=1, initial=0)
    names = split.dataset.class_names
    per_class = Counter(names[k - 1] for record in records for k in record.classes.tolist())
    return {
        "images": len(records),
        "images without objects": sum(not len(record) for record in records),
        "objects": sum(len(record) for record in records),
        "difficult": sum(int(record.difficult.sum()) for record in records),
        "crowds": sum(int(record.crowd.sum()) for record in records),
        "truncated": sum(int(record.truncated.sum()) for record in records),
        "tiny": int((shorter < TINY).sum()),
        "huge": int((areas(objects.boxes) > HUGE * image).sum()),
        "long": int((longer > LONG * shorter).sum()),
        "per class": dict(per_class.most_common()),
    }


# Telling


def table(check: DataCheck) -> str:
    """The whole report for people."""
    parts = [_counts_table(check), _class_table(check), _reach_lines(check), _fault_lines(check)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]


def _counts_table(check: DataCheck) -> list[str]:
    names = [split.name for split in check.splits]
    keys = [key for key in check.counts[names[0]] if key != "per class"]
    explained = {
        "tiny": f"tiny (side < {TINY} network pixels)",
        "huge": f"huge (> {HUGE:.0%} of the image)",
        "long": f"long (sides over 1 : {LONG})",
    }
    rows = [["", *names]]
    rows += [[explained.get(key, key), *(str(check.counts[n][key]) for n in names)] for key in keys]
    return _rows(rows)


def _class_table(check: DataCheck) -> list[str]:
    """By class: objects of each split, their share of all, the median side, what anchors reach."""
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
    return _rows(rows)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.1%}"


def _reach_lines(check: DataCheck) -> list[str]:
    reach, model = check.reach, check.config.model
    if reach.points is not None:
        shares = ", ".join(f"{_percent(s)} {name}" for name, s in reach.points.levels.items())
        return [
            f"{reach.network} has points instead of anchors. Objects by the level of their size: "
            f"{shares}",
            f"objects that a point stands for, in {reach.points.images} images: "
            f"{_percent(reach.points.matched)}",
        ]
    fields = ("anchor_sizes", "anchor_scales", "anchor_ratios")
    own = {name: getattr(model, name) for name in fields if hasattr(model, name)}
    lines = [_reach_line(f"anchors of {reach.network}", own, reach.overlaps)]
    best = reach.suggestion
    if best is None:
        return [*lines, "no other anchors of the same number were found that reach more"]
    lines.append(_reach_line("suggested", best.settings, best.overlaps))
    return [*lines, f"  by {best.how}: --set {best.words()}"]


def _reach_line(what: str, settings: Mapping[str, Sequence[float]], overlaps: np.ndarray) -> str:
    words = ", ".join(f"{n} {' '.join(f'{v:g}' for v in values)}" for n, values in settings.items())
    shares = [f"{_percent(s)} of objects at IoU {at}" for at, s in coverage(overlaps).items()]
    return f"{what} ({words}): reach {', '.join(shares)}"


def _fault_lines(check: DataCheck) -> list[str]:
    if not check.faults:
        return ["no faults"]
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
    return lines


def to_json(check: DataCheck) -> str:
    """The whole report for programs, every fault included."""
    reach = check.reach
    anchors: dict[str, Any] = {"network": reach.network}
    if reach.points is not None:
        anchors["levels"] = reach.points.levels
        anchors["matched"] = reach.points.matched
    else:
        anchors["coverage"] = coverage(reach.overlaps)
        anchors["coverage_by_class"] = {
            name: coverage(reach.overlaps[check.objects.classes == k])
            for k, name in enumerate(check.class_names)
        }
    if reach.suggestion is not None:
        best = reach.suggestion
        anchors["suggested"] = {
            "settings": best.settings,
            "how": best.how,
            "coverage": coverage(best.overlaps),
        }
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
    return json.dumps(_plain(report), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Without what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
