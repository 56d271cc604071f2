"""Splits of a data set into sides such as train and val, and the file that stores one.

A split depends on the images' names, pixels and classes, the shares and the seed; not on folders,
the order of files, or the machine. Images of a group (see `groups`) are on one side, and each side
has about its share of the images of each class (see `stratify`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data.groups import ALIKE, Groups, find_groups, fingerprints, places_of
from mxrcnn.data.records import DataError, DataNotes, Dataset, ImageRecord
from mxrcnn.data.stratify import Item, draw, stratify
from mxrcnn.files import atomic_write
from mxrcnn.tables import aligned

TRAIN, VAL, TEST = "train", "val", "test"
#: version of the stored form
FORMAT = 1
#: groups and names that a line for people shows
SHOWN = 3


@dataclass(frozen=True)
class Split:
    """Which images are on which side.

    sides: side -> sorted names, see `names_of`. shares: side -> the share asked for, as text.
    groups: why images were kept together, and their names. apart: sequences that were not.
    """

    imageset: str
    seed: int
    shares: Mapping[str, str]
    sides: Mapping[str, tuple[str, ...]]
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    apart: tuple[str, ...] = ()

    def take(self, dataset: Dataset, side: str) -> Dataset:
        """The images of a side, in the data set's order.

        Repairs are noted with their image's side, other notes of the whole set with the first side.
        Raises DataError if an image is on no side. Images that are not there any more are noted.
        """
        names = names_of(dataset.records)
        sides = {name: side for side, some in self.sides.items() for name in some}
        strange = [name for name in names if name not in sides]
        if strange:
            raise DataError(
                dataset.records[names.index(strange[0])].path,
                f"{len(strange)} images of {dataset.name} are on no side of the stored split: "
                f"{_few(strange)}. They were added, renamed or moved since: restore the data, or "
                "split them in a new run (--pretrained RUN goes on from a run's parameters)",
            )
        records = tuple(r for r, name in zip(dataset.records, names) if sides[name] == side)
        if not records:
            raise DataError(dataset.name, f"no image of the stored split's side {side} is left")
        notes = dataset.notes if side == next(iter(self.sides)) else DataNotes()
        here, there = {record.path for record in records}, set(names)
        notes = replace(notes, mended=[m for m in dataset.notes.mended if m.image in here])
        gone = [name for name in self.sides[side] if name not in there]
        if gone:
            what = f"images of the stored split are not there: {_few(gone)}"
            notes = replace(notes, counted=notes.counted + Counter({what: len(gone)}))
        name = f"{dataset.name} ({side})"
        return replace(dataset, name=name, records=records, notes=notes, annotation_file=None)

    def to_json(self, dataset: Dataset) -> dict[str, Any]:
        """A JSON object, with counts for its readers. dataset: what was split."""
        counts = {side: count_side(self.take(dataset, side)) for side in self.sides}
        return {
            "format": FORMAT,
            "imageset": self.imageset,
            "seed": self.seed,
            "shares": dict(self.shares),
            "counts": counts,
            "sides": {side: list(names) for side, names in self.sides.items()},
            "groups": [{"why": why, "names": list(names)} for why, names in self.groups],
            "not kept together": list(self.apart),
        }

    @classmethod
    def from_json(cls, document: Any) -> Split:
        """The inverse of to_json; ValueError for any other object."""
        try:
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r}, not {FORMAT}")
            sides = {str(side): tuple(map(str, some)) for side, some in document["sides"].items()}
            if not {TRAIN, VAL} <= sides.keys():
                raise ValueError(f"its sides are not {TRAIN} and {VAL}: {', '.join(sides)}")
            names = [name for some in sides.values() for name in some]
            if len(set(names)) < len(names):
                raise ValueError("an image is listed twice")
            groups = tuple((str(g["why"]), tuple(g["names"])) for g in document["groups"])
            shares, apart = dict(document["shares"]), tuple(document["not kept together"])
            return cls(document["imageset"], document["seed"], shares, sides, groups, apart)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored split: {error!r}"[:300]) from None

    def lines(self) -> list[str]:
        """What was kept together and what was not, as sentences."""
        alike = [names for why, names in self.groups if why == ALIKE]
        named = [(why, names) for why, names in self.groups if why != ALIKE]
        out = []
        if alike:
            out.append(
                f"on one side: {sum(map(len, alike))} images that look the same as another, in "
                f"{len(alike)} groups"
            )
        if named:
            images = sum(len(names) for _, names in named)
            patterns = _few([why for why, _ in named])
            out.append(f"on one side: {images} images in {len(named)} groups by name ({patterns})")
        if not self.groups:
            out.append("no images look the same, and no names are those of a video's frames")
        if self.apart:
            out.append(
                f"not kept together, as that would leave too little for a side: {_few(self.apart)}"
            )
        return out


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def names_of(records: Sequence[ImageRecord]) -> list[str]:
    """A name for each image, the same in any folder: file names without ending if these differ.

    Otherwise paths inside the images' common folder; with ids, if a file occurs twice.
    """
    stems = [record.path.stem for record in records]
    if len(set(stems)) == len(stems):
        return stems
    ways = [f"{p}{r.path.suffix}" for p, r in zip(places_of(records), records)]
    twice = {way for way, times in Counter(ways).items() if times > 1}
    return [f"{w} ({r.image_id})" if w in twice else w for w, r in zip(ways, records)]


def shares_of(val: float, test: float = 0.0) -> dict[str, Fraction]:
    """The share of each side, as exact fractions of what the numbers say in decimals.

    Raises ConfigError for shares that are not between 0 and 1, or leave nothing to train on.
    """
    parts = {VAL: Fraction(repr(float(val)))} if val == val else {}  # not NaN
    if test:
        parts[TEST] = Fraction(repr(float(test)))
    if not parts or not all(0 < part < 1 for part in parts.values()) or sum(parts.values()) >= 1:
        given = f"{val:g}" + (f" and {test:g}" if test else "")
        raise ConfigError(f"shares of the images are above 0 and together below 1, not {given}")
    return {TRAIN: 1 - sum(parts.values()), **parts}


def make_split(
    dataset: Dataset,
    data: DataConfig,
    shares: Mapping[str, Fraction],
    seed: int,
    progress: bool = True,
) -> Split:
    """Split a data set. shares: side -> its share, from `shares_of`.

    Decodes all images, see `fingerprints`. Raises DataError for an image that cannot be decoded,
    ConfigError if a side would be empty.
    """
    prints = fingerprints(dataset.records, data, progress)
    groups = find_groups(dataset, prints, min(shares.values()), progress)
    names = names_of(dataset.records)
    members = groups.members()
    chosen = stratify(_items(dataset, names, members, seed), shares, seed)
    sides: dict[str, list[str]] = {side: [] for side in shares}
    for group, side in zip(members, chosen):
        sides[side] += [names[i] for i in group]
    _check_sides(dataset, sides, shares, groups)
    return Split(
        dataset.name,
        seed,
        {side: str(float(share)) for side, share in shares.items()},
        {side: tuple(sorted(some)) for side, some in sides.items()},
        tuple((g.pattern, tuple(sorted(names[i] for i in g.members))) for g in groups.reasons),
        groups.apart,
    )


def _items(
    dataset: Dataset, names: Sequence[str], groups: Sequence[Sequence[int]], seed: int
) -> list[Item]:
    """The groups for `stratify`; the label of images without objects is empty."""
    items = []
    for group in groups:
        labels: Counter[str] = Counter()
        for i in group:
            kinds = set(dataset.records[i].classes.tolist())
            labels.update([dataset.class_names[k - 1] for k in kinds] or [""])
        name = min((names[i] for i in group), key=lambda name: draw(seed, name))
        items.append(Item(name, len(group), labels))
    return items


def _check_sides(
    dataset: Dataset,
    sides: Mapping[str, Sequence[str]],
    shares: Mapping[str, Fraction],
    groups: Groups,
) -> None:
    empty = next((side for side, names in sides.items() if not names), None)
    if empty is None:
        return
    count = len(set(groups.of))
    why = f"{len(dataset)} images" if len(dataset) > 1 else "one image"
    if count < len(dataset):
        why += f", of which some belong together, which leaves {count} to divide,"
    elif len(dataset) > 2:
        why += " (a class with few images keeps them for training)"
    given = ", ".join(f"{side} {float(share):g}" for side, share in shares.items())
    raise ConfigError(
        f"{dataset.name}: {why} and the shares {given} leave no image for the side {empty}: "
        "choose others, or other images to validate on (--val PATH)"
    )


def count_side(dataset: Dataset) -> dict[str, Any]:
    """Images, objects, and for each class its images and objects."""
    objects = Counter(k for r in dataset.records for k in r.classes.tolist())
    images = Counter(k for r in dataset.records for k in set(r.classes.tolist()))
    return {
        "images": len(dataset),
        "images without objects": sum(not len(record) for record in dataset.records),
        "objects": sum(objects.values()),
        "classes": {
            name: {"images": images[k], "objects": objects[k]}
            for k, name in enumerate(dataset.class_names, start=1)
        },
    }


def table(split: Split, dataset: Dataset) -> str:
    """The split for people: images and objects a class on each side, and what was kept together."""
    counts = [count_side(split.take(dataset, side)) for side in split.sides]
    rows = [["", *(f"{side}: {what}" for side in split.sides for what in ("images", "objects"))]]
    rows.append(["all", *(str(c[what]) for c in counts for what in ("images", "objects"))])
    for name in dataset.class_names:
        each = [c["classes"][name] for c in counts]
        rows.append([name, *(str(c[what]) for c in each for what in ("images", "objects"))])
    empty = [str(c["images without objects"]) for c in counts]
    if any(c != "0" for c in empty):
        rows.append(["without objects", *(cell for c in empty for cell in (c, ""))])
    lines = [
        f"{split.imageset} split by seed {split.seed}",
        aligned(rows, rule=True),
        *split.lines(),
    ]
    for side, c in zip(split.sides, counts):
        none = [name for name in dataset.class_names if not c["classes"][name]["images"]]
        if none:
            lines.append(f"{side} has no object of {len(none)} classes: {_few(none)}")
    return "\n".join(lines)


def write_split(split: Split, dataset: Dataset, path: Path) -> None:
    """Write a split's file."""
    with atomic_write(path) as handle:
        json.dump(split.to_json(dataset), handle, indent=1)


def read_split(path: Path) -> Split:
    """Read a split's file; DataError if it is missing or broken."""
    try:
        return Split.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(path, f"unreadable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(path, str(error)) from error
