"""Round trips by hypothesis: any data set that a form can hold comes back from it the same.

Image files are made once; the data sets that are drawn hold only boxes, names and marks.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mxrcnn.config import DataConfig
from mxrcnn.data import read_annotations
from mxrcnn.data.convert import Source, convert, read_source
from mxrcnn.data.detect import detect
from mxrcnn.data.records import DataNotes, Dataset, Detections, ImageRecord
from mxrcnn.inference.outputs import Output, Result, open_writers
from symnet.geometry.masks import encode

SIZES = ((48, 64), (7, 641), (3001, 2), (1999, 3333))
FIELDS = ("boxes", "classes", "crowd", "difficult", "truncated")
#: names that XML, YAML or CSV could spoil
AWKWARD = ["dog", "no", "1", "~", "a b", "<&>", '"q"', "it's", "'", "a, b", "a: b", "- a", "#1"]
AWKWARD += ["{0: a}", "[x]", "100%", "a\\n", "é漢😀", "&amp;", "null", "x", "y"]
NAMES = st.sampled_from(AWKWARD) | (
    st.text("aZ0 <>&'\":,#-[]{}%\\|é漢😀", min_size=1, max_size=8).map(str.strip).filter(bool)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate(SIZES):
        Image.new("L", size[::-1]).save(folder / f"image {i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Callable[[], Path]:
    """Makes paths of new folders; the last few only are kept."""
    base, number = tmp_path_factory.mktemp("out"), itertools.count()

    def path() -> Path:
        last = next(number)
        shutil.rmtree(base / str(last - 8), ignore_errors=True)
        return base / str(last)

    return path


def sides(most: int, least: int, whole: bool) -> st.SearchStrategy[tuple[float, float]]:
    """Two corners along a side, at least that many pixels apart; the border is likely."""
    if most <= least:
        return st.just((0.0, float(most)))
    kind = st.integers(0, most) if whole else st.floats(2**-10, most, width=32)
    corner = kind | st.sampled_from((0, most))
    return st.tuples(corner, corner).map(sorted).filter(lambda ends: ends[1] - ends[0] >= least)


@st.composite
def sources(draw, whole: bool = False, least: float = 1e-3, marks: bool = True, masks=False):
    """A Source of 1 to 3 images, some without objects. whole: corners are whole pixels."""
    names = tuple(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)))
    records = []
    for i in draw(
        st.lists(st.sampled_from(range(len(SIZES))), min_size=1, max_size=3, unique=True)
    ):
        height, width = SIZES[i]
        count = draw(st.integers(0, 3))
        boxes = []
        for _ in range(count):
            x, y = draw(sides(width, least, whole)), draw(sides(height, least, whole))
            boxes.append((x[0], y[0], x[1], y[1]))
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        flags = [
            np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool) & marks
            for _ in range(3)
        ]
        classes = draw(st.lists(st.integers(1, len(names)), min_size=count, max_size=count))
        shapes = [draw(st.sampled_from(_masks(SIZES[i]))) for _ in range(count * masks)]
        records.append(
            ImageRecord(
                draw(st.just(10 * i + 7)),
                Path(f"image {i}.png"),
                *(height, width, boxes, np.array(classes, np.int64)),
                *flags,
                areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
                masks=tuple(shapes) if masks else None,
            )
        )
    return Source(DataConfig(dataset="coco"), names, None, {"train": tuple(records)}, DataNotes())


def _masks(size: tuple[int, int]) -> list:
    height, width = size
    bits = np.zeros(size, bool)
    bits[1:3, 1:2] = True
    polygon = [0.0, 0.0, width / 3, 0.1, 1.0, height - 1.5]
    return [None, [polygon], [polygon, [0, 0, 1, 1, 0, 1]], encode(bits)]


def placed(source: Source, files: list[Path]) -> Source:
    """The source with its image files."""
    of_name = {path.name: path for path in files}
    records = tuple(replace(r, path=of_name[r.path.name]) for r in source.sets["train"])
    data = replace(source.data, root=str(files[0].parent))
    return replace(source, data=data, sets={"train": records})


def there_and_back(source: Source, folder: Path, form: str, **options) -> tuple[Source, list[str]]:
    """What is read from the source's new form, by detection; and what was said to be lost."""
    made = convert(source, folder, form, link=True, **options)
    return read_source(detect(folder), DataConfig()), list(made.lost)


def assert_same(back: Source, source: Source, but: tuple[str, ...] = (), order: bool = True):
    """Images, boxes to the bit, class names, marks."""
    if order:
        assert back.class_names == source.class_names
    found = {record.path.name: record for record in back.sets["train"]}
    assert len(found) == len(back.sets["train"]) == len(source.sets["train"])
    for record in source.sets["train"]:
        other = found[record.path.name]
        assert (other.height, other.width) == (record.height, record.width)
        names = [
            [of.class_names[k - 1] for k in one.classes]
            for of, one in ((back, other), (source, record))
        ]
        assert names[0] == names[1]
        for field in FIELDS:
            if field not in ("classes", *but):
                np.testing.assert_array_equal(getattr(other, field), getattr(record, field), field)


@given(source=sources(masks=True))
@settings(max_examples=80)
def test_coco(source, files, fresh):
    source = placed(source, files)
    back, lost = there_and_back(source, fresh(), "coco")
    assert_same(back, source, but=("truncated",))
    assert all("truncated" in line for line in lost)
    for record, other in zip(source.sets["train"], back.sets["train"]):
        assert other.image_id == record.image_id
        np.testing.assert_array_equal(other.areas, record.areas)
        assert (other.masks or (None,) * len(other)) == record.masks


@given(source=sources(whole=True, least=2))
@settings(max_examples=80)
def test_voc_to_yolo_to_coco_to_voc(source, files, fresh):
    """Whole pixels, two at least: what all can hold comes back to the bit, and all else is said."""
    source = placed(source, files)
    flags = {"crowd": None, "difficult": None}
    records = source.sets["train"]
    source = replace(
        source, sets={"train": tuple(replace(r, crowd=np.zeros(len(r), bool)) for r in records)}
    )
    voc, lost = there_and_back(source, fresh(), "voc")
    assert not [line for line in lost if "class" not in line], lost
    listed = not any(":" in n or n.startswith("#") or n == "background" for n in source.class_names)
    assert not (listed and lost), lost
    assert_same(voc, source, order=listed)
    coco, lost = there_and_back(voc, fresh(), "coco")
    assert_same(coco, voc, but=("truncated",))
    assert sum(int(r.truncated.sum()) for r in records) == _count(lost, "marked as truncated")
    yolo, lost = there_and_back(coco, fresh(), "yolo")
    assert_same(yolo, coco, but=("truncated", *flags))
    assert sum(int(r.difficult.sum()) for r in records) == _count(lost, "marked as difficult")
    last, _ = there_and_back(yolo, fresh(), "voc")
    assert_same(last, source, but=("truncated", *flags), order=listed)


def _count(lost: list[str], what: str) -> int:
    return sum(int(line.split()[0]) for line in lost if what in line)


@given(source=sources())
@settings(max_examples=80)
def test_yolo(source, files, fresh):
    """Boxes of any float32 from 0.001 come back to the bit; crowd regions are left out."""
    source = placed(source, files)
    back, lost = there_and_back(source, fresh(), "yolo")
    records = tuple(_without_crowds(record) for record in source.sets["train"])
    assert _count(lost, "crowd") == sum(int(r.crowd.sum()) for r in source.sets["train"])
    assert_same(back, replace(source, sets={"train": records}), but=("difficult", "truncated"))
    assert not [line for line in lost if "moved" in line]


def _without_crowds(record: ImageRecord) -> ImageRecord:
    fields = (*FIELDS, "areas")
    return replace(record, **{field: getattr(record, field)[~record.crowd] for field in fields})


@given(source=sources(least=2.1, marks=False))
@settings(max_examples=40)
def test_voc_rounds_to_whole_pixels(source, files, fresh):
    source = placed(source, files)
    back, lost = there_and_back(source, fresh(), "voc")
    moved = 0
    for record, other in zip(source.sets["train"], back.sets["train"]):
        np.testing.assert_array_equal(other.boxes, np.rint(record.boxes))
        moved += int((other.boxes != record.boxes).any(axis=1).sum())
    assert _count(lost, "boxes have moved") == moved


@given(source=sources(least=0.1), number=st.integers(0, 3))
@settings(max_examples=40)
def test_csv(source, number, files, fresh):
    """Predictions as a table, read as a data set: names with commas and quotes, 3 decimals."""
    folder = fresh()
    folder.mkdir()
    record = next(iter(placed(source, files).sets["train"]))
    found = Detections(
        record.boxes,
        np.ones(len(record), np.float32),
        record.classes,
        class_names=source.class_names,
        size=(record.height, record.width),
    )
    with open_writers(["csv"], Output(folder, source.class_names)) as write:
        write(Result(record.path.name, record.path.stem, 1, found))
    if not len(record):  # an image without objects has no line
        return
    (folder / record.path.name).symlink_to(record.path)
    data = DataConfig(dataset="csv", root=str(folder), class_names=source.class_names)
    back: Dataset = read_annotations(data, "predictions")
    assert back.records[0].classes.tolist() == record.classes.tolist()
    np.testing.assert_allclose(back.records[0].boxes, record.boxes, rtol=0, atol=6e-4)
