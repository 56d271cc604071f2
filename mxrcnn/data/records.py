"""The core types of data: what a data set holds, and what a detector finds.

Letters: N objects of an image, D detections of an image, C classes with the background as class 0.
Boxes are xyxy float32 in stored pixels, continuous: a box that covers pixel 0 alone is
(0, 0, 1, 1), and its width is x2 - x1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from mxrcnn.data.pictures import Picture

ImageId = Union[int, str]

#: characters of an error message, at most: values in broken files can be of any length
LONGEST_MESSAGE = 2000


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the field or value."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(path, problem)  # both, so that it can be pickled between processes
        self.path = str(path)
        self.problem = problem

    def __str__(self) -> str:
        text = f"{self.path}: {self.problem}"
        return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "..."


def _check_lengths(owner: str, fields: ImageRecord | Detections, names: str) -> None:
    """ValueError for a field, among those named, that does not have one element a box."""
    for name in names.split():
        value = getattr(fields, name)
        if value is not None and len(value) != len(fields):
            raise ValueError(f"{owner}: {len(fields)} boxes but {len(value)} {name}")


class Window(NamedTuple):
    """The part of an image file that a record shows.

    frame: xyxy in whole pixels. size: (height, width) of the whole image. store: a folder for
    decoded images, see `mxrcnn.data.store`, or None.
    """

    frame: tuple[int, int, int, int]
    size: tuple[int, int]
    store: Path | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set and its objects.

    boxes (N, 4) xyxy; classes (N,) int64 in 1..C-1; crowd, difficult, truncated (N,) bool;
    areas (N,) float32 in square pixels; masks: None, or N COCO segmentations (polygons or RLE).
    height and width are those of the image as the loader decodes it. active_classes: the classes
    that the image is annotated for, background 0 included, or None for all. window: the part of the
    file that this image is, or None for all of it. Raises ValueError for arrays of different
    lengths.
    """

    image_id: ImageId
    path: Path
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    truncated: np.ndarray
    areas: np.ndarray
    masks: tuple[Any, ...] | None = None
    active_classes: tuple[int, ...] | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        owner = f"ImageRecord {self.image_id}"
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"{owner}: boxes of shape {self.boxes.shape}")
        _check_lengths(owner, self, "classes crowd difficult truncated areas masks")

    def __len__(self) -> int:
        return len(self.boxes)


class Mended(NamedTuple):
    """A repair that was needed to read an image's annotation.

    kind: "clipped" or "dropped" for a box, or "size mismatch". box: (x1, y1, x2, y2) as annotated.
    """

    kind: str
    image: Path
    detail: str
    box: tuple[float, ...] | None = None


@dataclass
class DataNotes:
    """The repairs that were needed to read a data set, and the files that were skipped.

    They are reported to the user. remembered: images that an earlier start has decoded already.
    counted: how often something was left out or read in another form, such as "circles ...".
    unread: how many objects have a field that is not read, such as "occluded"; not in `lines`.
    """

    mended: list[Mended] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    remembered: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def _count(self, kind: str) -> int:
        return sum(item.kind == kind for item in self.mended)

    @property
    def clipped(self) -> int:
        """Boxes that reached outside their image."""
        return self._count("clipped")

    @property
    def dropped(self) -> int:
        """Boxes that were empty, inverted or outside their image."""
        return self._count("dropped")

    @property
    def size_mismatch(self) -> int:
        """Annotations with another image size than the file has."""
        return self._count("size mismatch")

    def note_boxes(self, kind: str, image: Path, boxes: np.ndarray) -> None:
        """Note that boxes (N, 4), given as annotated, are clipped or dropped."""
        for box in boxes.tolist():
            detail = f"box {' '.join(f'{side:g}' for side in box)}"
            self.mended.append(Mended(kind, image, detail, tuple(box)))

    def note_size(self, image: Path, stated: Sequence[float], found: Sequence[float]) -> None:
        """Note that an annotation has another (height, width) than the file."""
        sizes = " but is ".join(f"{width:g} x {height:g}" for height, width in (stated, found))
        self.mended.append(Mended("size mismatch", image, f"annotated as {sizes}"))

    def add(self, other: DataNotes) -> None:
        """Add the notes of another data set."""
        self.mended += other.mended
        self.skipped += other.skipped
        self.remembered += other.remembered
        self.counted += other.counted
        self.unread += other.unread

    def lines(self) -> list[str]:
        """The notes as sentences; empty if there are none."""
        counts = [
            (self.clipped, "boxes reached outside their image and were clipped"),
            (self.dropped, "boxes were empty or inverted and were dropped"),
            (self.size_mismatch, "annotations gave another image size than the file has"),
            (self.remembered, "images were decoded at an earlier start and not again"),
            *((count, what) for what, count in self.counted.items()),
        ]
        out = [f"{count} {what}" for count, what in counts if count]
        if self.skipped:
            out.append(f"{len(self.skipped)} bad entries were skipped:")
            out += [f"  {reason}" for reason in self.skipped]
        return out


@dataclass(frozen=True)
class Dataset:
    """A list of records with class names. Class k is `class_names[k - 1]`; 0 is the background.

    category_ids: the COCO category id of each class, in the order of class_names.
    annotation_file: the COCO JSON that the records came from, if any.
    metric: the default metric of these data, see mxrcnn/evaluation/core.py.
    """

    name: str
    class_names: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    notes: DataNotes = field(default_factory=DataNotes)
    category_ids: tuple[int, ...] | None = None
    annotation_file: Path | None = None
    metric: str = "voc07"

    @property
    def num_classes(self) -> int:
        """The number of classes, background included."""
        return len(self.class_names) + 1

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ImageRecord:
        return self.records[index]


#: whether boxes are in the image as its file stores it, or turned upright by its EXIF tag
Orientation = Literal["stored", "upright"]


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, best score first.

    boxes (D, 4) xyxy float32 in the image's pixels; scores (D,) float32; classes (D,) int64 in
    1..C-1; masks: None, or D RLE dictionaries. class_names: of classes 1, 2, ..., and size:
    (height, width) of the image, or None if unknown. orientation: whether boxes and size are of the
    image as its file stores it, or turned upright by its EXIF tag. Raises ValueError for arrays of
    different lengths.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: Sequence[Any] | None = None
    class_names: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    orientation: Orientation = "stored"

    def __post_init__(self) -> None:
        _check_lengths("Detections", self, "scores classes masks")

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Any) -> Detections:
        """The detections that a boolean mask, a slice or an index array selects."""
        kept = {name: getattr(self, name)[keep] for name in ("boxes", "scores", "classes")}
        if self.masks is not None:
            kept["masks"] = [self.masks[i] for i in np.arange(len(self))[keep]]
        return replace(self, **kept)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each detection's class; ValueError if there are no class_names."""
        if self.class_names is None:
            raise ValueError("these detections have no class_names")
        return tuple(self.class_names[k - 1] for k in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON: `size`, `orientation`, and `detections`, a list, best first.

        Each has `box` (x1, y1, x2, y2), `score`, `class` (1, 2, ...), and, if these detections have
        them, `name` and `mask` in COCO's RLE.
        """
        columns = (self.boxes.tolist(), self.scores.tolist(), self.classes.tolist())
        rows: list[dict[str, Any]] = [
            dict(zip(("box", "score", "class"), values)) for values in zip(*columns)
        ]
        if self.class_names is not None:
            for row, name in zip(rows, self.names):
                row["name"] = name
        for row, mask in zip(rows, self.masks or ()):
            row["mask"] = {"size": list(mask["size"]), "counts": mask["counts"]}
        size = None if self.size is None else list(self.size)
        return {"size": size, "orientation": self.orientation, "detections": rows}

    def plot(self, image: Picture) -> Image.Image:
        """A PIL image with all of these detections drawn on it.

        image: the image they were found in: a path, bytes, a PIL image or pixels (H, W, 3) uint8
        RGB. All but pixels are turned upright if these boxes are in the upright image. Raises
        ValueError for an image of another size.
        """
        from mxrcnn.data.pictures import read_pixels
        from mxrcnn.viz import draw_detections

        pixels = read_pixels(image, self.orientation == "upright")
        if self.size is not None and pixels.shape[:2] != self.size:
            raise ValueError(
                f"the image is {pixels.shape[1]} x {pixels.shape[0]} pixels, but these detections "
                f"are from an image of {self.size[1]} x {self.size[0]}"
            )
        names = self.class_names
        if names is None:
            names = [f"class {k}" for k in range(1, int(self.classes.max(initial=0)) + 1)]
        return draw_detections(pixels, self, names, threshold=0.0)


def clean_boxes(
    boxes: np.ndarray,
    height: int,
    width: int,
    notes: DataNotes,
    image: Path,
    stray: np.ndarray | bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes (N, 4) to their image and find those to keep; what is changed goes into the notes.

    Returns (clipped boxes (N, 4) float32, keep (N,) bool). Boxes without area inside the image and
    boxes with a coordinate that is not finite are not kept, nor are those in `stray` (N,) bool.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    limit = np.array([width, height, width, height], np.float64)
    with np.errstate(invalid="ignore"):
        clipped = np.clip(boxes, 0, limit)
        right_way = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    keep = right_way & inside & np.isfinite(boxes).all(axis=1) & ~np.asarray(stray)
    notes.note_boxes("dropped", image, boxes[~keep])
    notes.note_boxes("clipped", image, boxes[keep & (clipped != boxes).any(axis=1)])
    return clipped.astype(np.float32), keep
