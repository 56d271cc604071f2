"""Readers against input that hypothesis makes up: each gives a value or a named error.

By default a fixed, short and repeatable search. `MXRCNN_FUZZ=5000 pytest tests/test_fuzz.py` makes
that many tries for each test, other ones each time.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrcnn.config import load_json
from mxrcnn.data.coco import load_coco
from mxrcnn.data.images import image_size, read_image
from mxrcnn.data.records import Dataset
from mxrcnn.data.voc import load_voc
from mxrcnn.errors import USER_ERRORS
from mxrcnn.runs.checkpoint import RunFolder, load_arrays
from mxrcnn.weights.formats import read_params
from symnet.geometry.masks import check_segmentation, decode
from tests.broken import (
    CHECKPOINT,
    SIZE,
    coco_folder,
    document,
    image_bytes,
    voc_folder,
    whole_weights,
    write_run,
)
from tests.factories import Picture, voc_xml

SHORT = 60
TRIES = int(os.environ.get("MXRCNN_FUZZ", SHORT))
FUZZ = settings(
    max_examples=TRIES,
    derandomize=TRIES == SHORT,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: what came of the tries of each test
OUTCOMES: Counter[tuple[str, str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Prints, with -s, how many inputs were read and refused."""
    yield
    for (test, what), times in sorted(OUTCOMES.items()):
        print(f"\n{test}: {what} {times}", end="")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# What input is made of

SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**9, 10**400, 1e308, -1e308, 5e-324, 0.5]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", ".", "..", "../x", "/etc/passwd", "a\0b", "good.png", "nan", "1e999"]),
)
JSON = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = [b"\0" * 8, b"\xff" * 8, *(struct.pack("<q", n) for n in (1, 2**31, 2**33, 2**62, -1))]
CHANGE = st.tuples(
    st.sampled_from(["byte", "field", "cut", "drop", "twice", "insert"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.sampled_from(FIELDS),
)


def damaged(whole: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
    """The data after changes at places that are shares of its length."""
    data = bytearray(whole)
    for kind, share, byte, field in changes:
        at = int(share * len(data))
        if kind == "byte" and data:
            data[at] = byte
        elif kind == "field":
            data[at : at + len(field)] = field
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + byte]
        elif kind == "twice":
            data[at:at] = data[at : at + byte]
        else:
            data[at:at] = field[: byte % 9]
    return bytes(data)


CHANGES = st.lists(CHANGE, min_size=1, max_size=5)


def attempt(
    test: str, read: Any, *arguments: Any, named: Path | None = None, **options: Any
) -> Any:
    """What read(...) gives; None after a named error, which has to name the file."""
    try:
        value = read(*arguments, **options)
    except USER_ERRORS as error:
        if named is not None and named.name not in str(error):
            pytest.fail(f"{named.name} is not named: {str(error)[:500]}")
        OUTCOMES[test, "refused"] += 1
        return None
    OUTCOMES[test, "read"] += 1
    return value


def check_data(dataset: Dataset | None) -> None:
    """What every reader of data promises of its records."""
    for record in dataset.records if dataset is not None else ():
        assert record.boxes.dtype == np.float32
        assert np.isfinite(record.boxes).all()
        assert np.isfinite(record.areas).all()
        limit = np.array([record.width, record.height] * 2, np.float32)
        assert (record.boxes >= 0).all()
        assert (record.boxes <= limit).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()
        assert all(1 <= k <= len(dataset.class_names) for k in record.classes)
        assert record.path.resolve().is_relative_to(record.path.parents[2].resolve())


# Pascal VOC

WHOLE_XML = voc_xml(Picture(SIZE)).encode()
XML_TEXT = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.sampled_from(
        ["", "1e999", "-1", "0", "<a/>", "&amp;", "&x;", "<![CDATA[7]]>", "0x1", "1_0"]
    ),
)
XML_FIELDS = ("name", "xmin", "ymin", "xmax", "ymax", "difficult", "truncated")


def an_xml(objects: list[dict[str, str]], size: tuple[str, str]) -> bytes:
    """An annotation of these texts, whatever they are."""
    parts = []
    for texts in objects:
        box = "".join(f"<{c}>{texts[c]}</{c}>" for c in XML_FIELDS[1:5] if c in texts)
        rest = "".join(f"<{c}>{t}</{c}>" for c, t in texts.items() if c not in XML_FIELDS[1:5])
        parts.append(f"<object>{rest}<bndbox>{box}</bndbox></object>")
    sides = f"<size><height>{size[0]}</height><width>{size[1]}</width></size>"
    return f"<annotation>{sides}{''.join(parts)}</annotation>".encode()


@pytest.fixture(scope="module")
def devkit(place) -> Path:
    return voc_folder(place / "voc")


def read_voc(devkit: Path, data: bytes, test: str) -> None:
    path = devkit / "Annotations/bad.xml"
    path.write_bytes(data)
    check_data(attempt(test, load_voc, devkit.parent, "2007_train", named=path))
    skipping = load_voc(devkit.parent, "2007_train", skip_bad=True)
    assert len(skipping) >= 1
    check_data(skipping)


@FUZZ
@given(
    st.lists(st.dictionaries(st.sampled_from(XML_FIELDS), XML_TEXT, max_size=7), max_size=3),
    st.tuples(XML_TEXT, XML_TEXT),
)
def test_voc_annotations_of_any_text(devkit, objects, size):
    read_voc(devkit, an_xml(objects, size), "voc text")


@FUZZ
@given(CHANGES)
def test_damaged_voc_annotations(devkit, changes):
    read_voc(devkit, damaged(WHOLE_XML, changes), "voc bytes")


@FUZZ
@given(st.one_of(CHANGES.map(lambda c: damaged(b"good\nbad 1\n", c)), st.binary(max_size=40)))
def test_lists_of_any_bytes(devkit, data):
    path = devkit / "ImageSets/Main/fuzz.txt"
    path.write_bytes(data)
    (devkit / "Annotations/bad.xml").write_bytes(WHOLE_XML)
    check_data(attempt("voc list", load_voc, devkit.parent, "2007_fuzz", named=path))


# COCO


@pytest.fixture(scope="module")
def coco(place) -> Path:
    return coco_folder(place / "coco", b"")


#: places in the document: keys and indices
WAYS = [
    *((key,) for key in ("images", "annotations", "categories")),
    *(("images", i, key) for i in (0, 1) for key in ("id", "file_name", "height", "width")),
    *(("categories", i, key) for i in (0, 1) for key in ("id", "name")),
    *(("images", 1), ("categories", 0), ("annotations", 1)),
    *(
        ("annotations", i, key)
        for i in (0, 1, 2)
        for key in ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")
    ),
    *(("annotations", 1, "bbox", i) for i in range(4)),
    ("annotations", 1, "segmentation", 0),
]


def read_coco(path: Path, data: bytes, test: str) -> None:
    path.write_bytes(data)
    for skip in (False, True):
        found = attempt(test, load_coco, path, path.parent / "train", skip_bad=skip, named=None)
        check_data(found)
        for record in found.records if found is not None else ():
            for mask in record.masks or ():
                if mask is not None and record.height * record.width < 10**6:
                    decode(mask, record.height, record.width)


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(WAYS), JSON), min_size=1, max_size=3))
def test_coco_with_any_values(coco, values):
    data = document()
    for (*way, last), value in values:
        target: Any = data
        for part in way:
            target = target[part] if _has(target, part) else None
        if _has(target, last):
            target[last] = value
    read_coco(coco, json.dumps(data).encode(), "coco values")


def _has(target: Any, part: str | int) -> bool:
    if isinstance(target, dict):
        return part in target
    return isinstance(target, list) and isinstance(part, int) and part < len(target)


@FUZZ
@given(CHANGES)
def test_damaged_coco_files(coco, changes):
    read_coco(coco, damaged(json.dumps(document()).encode(), changes), "coco bytes")


NUMBERS = st.lists(
    st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False)),
    max_size=12,
)
RLE = st.fixed_dictionaries(
    {
        "size": st.one_of(st.just([48, 64]), st.lists(st.integers(-2, 10**9), max_size=3)),
        "counts": st.one_of(st.text("0123456789:;<=>?@ABCNOPQRlmno", max_size=20), NUMBERS),
    }
)


@FUZZ
@given(st.one_of(st.lists(NUMBERS, max_size=3), RLE))
def test_masks_of_any_numbers(segmentation):
    """Whatever passes the check is drawn, and whatever does not is refused by decode as well."""
    try:
        check_segmentation(segmentation, *SIZE)
    except ValueError:
        OUTCOMES["masks", "refused"] += 1
        with pytest.raises(ValueError):
            decode(segmentation, *SIZE)
    else:
        OUTCOMES["masks", "read"] += 1
        assert decode(segmentation, *SIZE).shape == SIZE


# Images


@FUZZ
@given(st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]), CHANGES)
def test_damaged_images(place, kind, changes):
    path = place / "fuzz.jpg"
    path.write_bytes(damaged(image_bytes(kind), changes))
    size = attempt("image", image_size, path, named=path)
    if size is not None and size[0] * size[1] < 10**7:
        pixels = attempt("image", read_image, path, named=path)
        assert pixels is None or (pixels.dtype == np.uint8 and pixels.shape == (*size, 3))


# Runs


@pytest.fixture(scope="module")
def run(place) -> RunFolder:
    return RunFolder(write_run(place / "run"))


@FUZZ
@given(
    st.sampled_from(["model.params", "momentum.params"]),
    CHANGES,
    st.booleans(),
)
def test_damaged_checkpoints(run, place, name, changes, near_the_head):
    """Damage anywhere, or in the fields of the first arrays."""
    whole = (run.path / CHECKPOINT / name).read_bytes()
    head = 200 if near_the_head else len(whole)
    path = place / "fuzz.params"
    path.write_bytes(damaged(whole[:head], changes) + whole[head:])
    for value in (attempt("params", load_arrays, path, named=path) or {}).values():
        value.asnumpy()


@FUZZ
@given(st.one_of(JSON.map(lambda v: json.dumps(v).encode()), CHANGES))
def test_states_and_other_json_of_runs(run, data):
    for name, read in (
        (f"{CHECKPOINT}/state.json", run.load_state),
        ("best.json", run.best),
        ("quantized.json", run.precision),
        ("config.json", lambda: load_json(run.path / "config.json")),
        ("log.jsonl", lambda: run.rewind_log(3)),
    ):
        path = run.path / name
        whole = path.read_bytes() if path.is_file() else None
        path.write_bytes(data if isinstance(data, bytes) else damaged(whole or b"{}", data))
        attempt("run json", read, named=None if name == "log.jsonl" else path)
        path.unlink() if whole is None else path.write_bytes(whole)


@FUZZ
@given(CHANGES)
def test_damaged_symbols(run, changes):
    path = run.path / "test-symbol.json"
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, changes))
    symbol = attempt("symbol", run.symbol, "test", named=path)
    if symbol is not None:
        symbol.list_arguments()
    path.write_bytes(whole)


# Files of parameters


@pytest.fixture(scope="module")
def whole_files(place) -> dict[str, bytes]:
    return whole_weights(place)


@FUZZ
@given(st.sampled_from([".pth", ".pt", ".safetensors", ".npz", ".params"]), CHANGES)
def test_damaged_weights(place, whole_files, ending, changes):
    path = place / f"fuzz{ending}"
    path.write_bytes(damaged(whole_files[ending], changes))
    for value in (attempt(ending, read_params, path, named=path) or {}).values():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()


@FUZZ
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.binary(max_size=64))
def test_safetensors_of_any_header(place, header, data):
    entry = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}
    raw = json.dumps({"whole": entry, **header}).encode()
    path = place / "any.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    attempt("safetensors header", read_params, path, named=path)


@FUZZ
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    bytes([b])
                    for b in b"()]}.0123NKJXQRbtuaesqhr\x80\x81\x85\x86\x87\x88\x89\x8c\x93\x94"
                ]
            ),
            st.binary(max_size=6),
        ),
        max_size=40,
    )
)
def test_pickles_of_any_opcodes(place, parts):
    path = place / "opcodes.pth"
    path.write_bytes(b"".join(parts) + b".")
    attempt("pickle", read_params, path, named=path)
