"""The identity of a data set: hashes of what was read, to find out whether the data changed.

Letters: I images, K objects of all images.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mxrcnn.data.records import Dataset, ImageId, ImageRecord

#: version of what is hashed; a new version cannot be compared with older identities
FORMAT = 1
#: images or classes that a line of `differences` names, at most
NAMED = 5


@dataclass(frozen=True)
class DataIdentity:
    """The class names, and the id and hash of each image, in order.

    The hash of an image (16 hex digits) covers its id, its file's name without folders, its size,
    and its objects in order: box, class name, area, flags, and the mask if masks are loaded. It
    does not cover pixels. It is the same on every machine and with every version of NumPy.
    """

    class_names: tuple[str, ...]
    image_ids: tuple[ImageId, ...]
    hashes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.image_ids) != len(self.hashes):
            raise ValueError(f"{len(self.image_ids)} images but {len(self.hashes)} hashes")

    @classmethod
    def of(cls, dataset: Dataset, masks: bool = False) -> DataIdentity:
        """The identity of a data set; masks: whether masks are hashed, as in `DataConfig.masks`.

        118,000 images with 860,000 objects take one second, and their polygons four more.
        """
        hashes = _hashes(dataset, masks)
        ids = tuple(record.image_id for record in dataset.records)
        return cls(tuple(dataset.class_names), ids, tuple(hashes))

    @cached_property
    def hash(self) -> str:
        """One hash of the whole data set, including the order of images and classes."""
        document = [FORMAT, self.class_names, self.image_ids, self.hashes]
        return hashlib.blake2b(_canonical(document), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON object: format, hash, class_names, images as [id, hash]; 35 bytes per image."""
        return {
            "format": FORMAT,
            "hash": self.hash,
            "class_names": list(self.class_names),
            "images": [list(pair) for pair in zip(self.image_ids, self.hashes)],
        }

    @classmethod
    def from_json(cls, document: Any) -> DataIdentity:
        """The inverse of to_json; ValueError for any other object, or one that was changed."""
        try:
            names, images = document["class_names"], document["images"]
            ids, hashes = (tuple(column) for column in zip(*images)) if images else ((), ())
            found = cls(tuple(names), ids, hashes)
            good = document["format"] == FORMAT and document["hash"] == found.hash
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the identity of a data set: {error!r}"[:300]) from None
        if not good:
            raise ValueError(
                f"not the identity of a data set in format {FORMAT}, or its hash does not fit"
            )
        return found


def differences(before: DataIdentity, now: DataIdentity) -> list[str]:
    """What changed, as sentences: classes, images added, removed and changed, and the order.

    Empty if and only if the hashes are equal.
    """
    if before.hash == now.hash:
        return []
    old, new = (dict(zip(one.image_ids, one.hashes)) for one in (before, now))
    kept = [image for image in now.image_ids if image in old]
    changed = [image for image in kept if old[image] != new[image]]
    images = [
        ("added", [image for image in now.image_ids if image not in old]),
        ("removed", [image for image in before.image_ids if image not in new]),
        ("changed (file name, size, boxes, classes, flags or masks)", changed),
    ]
    lines = _class_lines(before.class_names, now.class_names)
    lines += [f"{_count(some, 'image')} {what}: {_first(some)}" for what, some in images if some]
    was = [image for image in before.image_ids if image in new]
    if kept != was:
        place = next(i for i, (a, b) in enumerate(zip(was, kept)) if a != b)
        lines.append(
            f"{'the' if len(was) == len(old) else 'the other'} images are in another order: of "
            f"those in both, number {place + 1} was {was[place]} and is {kept[place]}"
        )
    return lines


def _class_lines(before: Sequence[str], now: Sequence[str]) -> list[str]:
    added = [name for name in now if name not in before]
    removed = [name for name in before if name not in now]
    changes = (("added", added), ("removed", removed))
    lines = [f"{_count(some, 'class')} {what}: {_first(some)}" for what, some in changes if some]
    if lines or tuple(before) == tuple(now):
        return lines
    return [f"the classes are in another order: {_first(before)} before, {_first(now)} now"]


def _count(some: Sequence[Any], what: str) -> str:
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{len(some)} {what if len(some) == 1 else plural}"


def _first(some: Sequence[Any]) -> str:
    return ", ".join(map(str, some[:NAMED])) + (", ..." if len(some) > NAMED else "")


def _canonical(value: Any) -> bytes:
    """A value as JSON in ASCII: the same bytes on every machine."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _hashes(dataset: Dataset, masks: bool) -> Iterable[str]:
    """The hash of each record, in order."""
    rows = _object_rows(dataset)
    width, view, start = rows.itemsize, memoryview(rows.tobytes()), 0
    names = ("background", *dataset.class_names)
    for record in dataset.records:
        active = record.active_classes
        active = None if active is None else [names[k] for k in active]
        size = int(record.height), int(record.width)
        head = [record.image_id, record.path.name, *size, len(record), active]
        digest = hashlib.blake2b(_canonical(head), digest_size=8)
        end = start + len(record) * width
        digest.update(view[start:end])
        start = end
        if masks:
            _add_masks(digest, record)
        yield digest.hexdigest()


def _object_rows(dataset: Dataset) -> np.ndarray:
    """A row of bytes for each object (K,): box, area, hash of the class name, flags."""
    names = [b"", *(name.encode("utf-8", "surrogatepass") for name in dataset.class_names)]
    digests = [hashlib.blake2b(name, digest_size=8).digest() for name in names]
    of_class = np.frombuffer(b"".join(digests), "<u8")
    flags = ("crowd", "difficult", "truncated")
    layout = [("boxes", "<f4", (4,)), ("areas", "<f4"), ("classes", "<u8")]
    records = [record for record in dataset.records if len(record)]
    rows = np.zeros(sum(map(len, records)), [*layout, *((flag, "?") for flag in flags)])
    for name in rows.dtype.names if records else ():
        column = np.concatenate([getattr(record, name) for record in records])
        if name == "classes":
            column = of_class[column]
        rows[name] = column if name in flags else column + column.dtype.type(0)  # no -0.0
    return rows


def _add_masks(digest: Any, record: ImageRecord) -> None:
    """Hash the segmentations of a record as they are in the files."""
    for mask in record.masks or ():
        if isinstance(mask, dict):
            counts = mask["counts"]
            counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
            digest.update(_canonical(["rle", mask["size"], counts]))
        elif mask is None:
            digest.update(b"none")
        else:
            digest.update(_canonical(["polygons", *map(len, mask)]))
            for polygon in mask:
                digest.update(struct.pack(f"<{len(polygon)}d", *polygon))
