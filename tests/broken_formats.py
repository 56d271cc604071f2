"""Broken inputs of the labelling tools' formats, made from small valid ones by mutation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.broken import ATTACKS, SIZE, Case, entity_attacks, image_bytes
from tests.factories import noise


class Writer(NamedTuple):
    """A valid small data set: its texts by file, the one to break, and values to replace there.

    values: a part of the text -> (kind of value, how to write it into the file).
    """

    imageset: str
    files: dict[str, str]
    target: str
    numbers: tuple[str, ...]  # parts that are numbers
    others: tuple[tuple[str, tuple[str, ...]], ...]  # (part, what else to put there)


XML = (
    "<annotation><size><width>64</width><height>48</height></size><object><name>dog</name>"
    "<bndbox><xmin>17</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax></bndbox></object>"
    "</annotation>"
)
JSON = json.dumps(
    {
        "version": "5.0",
        "shapes": [
            {"label": "dog", "points": [[16, 12], [48, 36]], "shape_type": "rectangle"},
            {"label": "dog", "points": [[5, 5], [9, 5], [7, 9]], "shape_type": "polygon"},
        ],
        "imageHeight": 48,
        "imageWidth": 64,
    }
)
LABEL = "0 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.2 0.1 0.15 0.2\n"
TABLE = "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(
    f"{name}.png,64,48,dog,16,12,48,36\n" for name in ("good", "bad")
)
CVAT = (
    "<annotations><version>1.1</version><meta><labels><label><name>dog</name></label></labels>"
    "</meta>"
    + "".join(
        f'<image id="{i}" name="{name}.png" width="64" height="48"><box label="dog" xtl="16.0" '
        'ytl="12.0" xbr="48.0" ybr="36.0"/><polygon label="dog" points="5,5;9,5;7,9"/></image>'
        for i, name in enumerate(("good", "bad"))
    )
    + "</annotations>"
)
YAML = "path: .\ntrain: images\nnc: 2\nnames: [dog, cat]\n"
#: kind -> its valid input; numbers and other parts are replaced in their last place in the file
WRITERS = {
    "labelimg": Writer(
        "all",
        {"bad.xml": XML, "good.xml": XML},
        "bad.xml",
        ("<xmin>17", "<ymin>13", "<xmax>48", "<ymax>36", "<width>64", "<height>48"),
        (("<name>dog", ("<name>", "<name>dogge", "<name> ")), ("annotation>", ("annotations>",))),
    ),
    "yolo": Writer(
        "train",
        {
            "data.yaml": YAML,
            "labels/bad.txt": LABEL,
            "labels/good.txt": LABEL,
        },
        "labels/bad.txt",
        ("0.15", "0.1 0.15 0.2", "0.2 0.1"),
        (
            (
                "0 0.5",
                ("2 0.5", "-1 0.5", "0.5 0.5", "dog 0.5", "nan 0.5", "99999999999 0.5", "0.5"),
            ),
            ("0.5 0.5\n", ("0.5\n", "0.5 0.5 0.9\n", "320 240\n", "0.5 -0.5\n", "-3 0.5\n")),
        ),
    ),
    "labelme": Writer(
        "all",
        {"bad.json": JSON, "good.json": JSON},
        "bad.json",
        ("16", "48, 36", "[5, 5]", '"imageHeight": 48', '"imageWidth": 64', "9]]"),
        (
            ('"dog"', ('""', '" "', "null", "5", '"\\ud800"', '"dogge"', "[]", '"d\\u0000g"')),
            ('"points"', ('"point"',)),
            ('"rectangle"', ("5", "[]", '"line"', '"polygon"', '{"a": 1}')),
            ('"polygon"', ('"rectangle"', '"circle"', '"mask"')),
            ("[[5, 5], [9, 5], [7, 9]]", ("5", "[]", "[[5, 5]]", "{}", "null", "[[1,2,3]]")),
            ('"shapes"', ('"shape"', '"images"')),
        ),
    ),
    "csv": Writer(
        "labels",
        {"labels.csv": TABLE},
        "labels.csv",
        ("16", "12", "48,36", "36", "64,48", "48,dog"),
        (
            ("dog", ("", "dogge", "dog,dog", '"dog', "d\0g")),
            ("bad.png", ("", "none.png", "bad", ".", *ATTACKS[:12])),
            ("xmin", ("xmax", "min", "")),
            ("class", ("klass",)),
            ("filename", ("name", "class")),
            (",36\n", ("\n", ",36,5\n", "\n,,\n", ",\n")),
        ),
    ),
    "cvat": Writer(
        "labels",
        {"labels.xml": CVAT},
        "labels.xml",
        ('xtl="16.0', 'ytl="12.0', 'xbr="48.0', 'ybr="36.0', 'width="64', 'height="48'),
        (
            ('label="dog"', ('label=""', "", 'label="dogge"', 'lable="dog"')),
            ('name="bad.png"', ('name=""', 'name="none.png"', "", 'name="good.png"')),
            ("bad.png", tuple(a for a in ATTACKS[:12])),
            ("5,5;", ("5;", "5,5,5;", "a,b;", "nan,5;", "1e9,5;", ";", "5,inf;", "5 5;")),
            ("5,5;9,5;7,9", ("5,5;9,5", "", "5,5", "1e999,1;2,2;3,3")),
            ("<polygon", ("<polyline", "<points", "<mask", "<track")),
            ('xtl="', ('rotation="nan" xtl="', 'rotation="x" xtl="', 'rotation="30" xtl="')),
            ("annotations>", ("annotation>",)),
        ),
    ),
}
#: what a number is replaced by
WRONG = ("nan", "inf", "-inf", "1e999", "abc", "", "null", "1,5", "--1", "1e9", "-1e9", "0x10")
#: numbers that may be missing
FINE = (
    *(("<width>64", ""), ("<height>48", ""), ("64,48", "")),
    *(('"imageHeight": 48', "null"), ('"imageWidth": 64', "null")),
)


def small(kind: str, folder: Path, data: bytes | None = None, target: str = "") -> Path:
    """Write a valid data set of two images into folder/data, its target file with these bytes."""
    writer, root = WRITERS[kind], folder / "data"
    images = root / ("images" if kind == "yolo" else ".")
    images.mkdir(parents=True)
    for seed, name in enumerate(("good", "bad")):
        noise(SIZE, seed=seed).save(images / f"{name}.png")
    for name, text in writer.files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    path = root / (target or writer.target)
    if data is not None:
        path.write_bytes(data)
    return path


def _case(kind: str, name: str, data: bytes, target: str = "") -> Case:
    return Case(f"{kind}: {name}", kind, lambda folder: small(kind, folder, data, target))


def _replaced(text: str, old: str, new: str) -> bytes:
    """The text with another value for the last `old`; a number stands at the end of `old`."""
    before, _, after = text.rpartition(old)
    return f"{before}{new}{after}".encode("utf-8", "surrogatepass")


def _with_number(part: str, value: str) -> str:
    head = part.rstrip("0123456789.]")
    return f"{head}{value}{part[len(part.rstrip(']')) :]}"


def _mutations(kind: str) -> Iterator[tuple[str, bytes]]:
    writer = WRITERS[kind]
    whole = writer.files[writer.target]
    raw = whole.encode()
    for part, value in itertools.product(writer.numbers, WRONG):
        if (part, value) not in FINE:
            yield f"{part!r} is {value!r}", _replaced(whole, part, _with_number(part, value))
    for part, values in writer.others:
        for value in values:
            yield f"{part!r} becomes {value[:30]!r}", _replaced(whole, part, value)
    for i in range(1, 8):
        cut = raw[: len(raw) * i // 8]
        yield f"cut at {i}/8", cut + (b"9 9" if kind == "yolo" else b"")
    yield "in utf-16", whole.encode("utf-16")[:-1]
    yield (
        "in latin-1",
        _replaced(whole, "dog" if "dog" in whole else "0", "x").replace(b"x", b"\xe4"),
    )
    yield "of NULs", bytes(1000)
    yield "an image", image_bytes("PNG")
    yield "html", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "git lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"
    yield "a long line", b"9" * 3_000_000
    yield "many brackets", b"[" * 100_000 + b"]" * 100_000
    if kind != "yolo":
        yield "empty", b""
        yield "blanks", b" \n\t\n"
    if kind in ("labelimg", "cvat"):
        for name, attack in entity_attacks():
            if "unused" not in name and "never" not in name:
                yield (
                    name,
                    attack.replace("annotation>", "annotations>").encode()
                    if (kind == "cvat")
                    else attack.encode(),
                )


def _yamls() -> Iterator[tuple[str, str]]:
    for names in (
        *("", "dog", "[]", "{}", "[dog", "[dog, dog]", "[dog, '']", "{0: dog}", "{1: a, 2: b}"),
        *("&a [dog, cat]", "!!python/object:os.system [a, b]", "*a", "|", "[[dog], cat]"),
        *(
            "{0: dog, 0: cat}",
            "[dog, cat, bird]",
            '["\\ud800", b]',
            "'dog",
            "[dog cat",
            "[a\x07, b]",
        ),
    ):
        yield f"names {names!r}", YAML.replace("[dog, cat]", names)
    for train in (*ATTACKS[:14], "", "none", "[]", "{a: b}", "[1, 2]", "list.txt", "x" * 5000):
        yield f"train {train[:30]!r}", YAML.replace("images", train)
    for nc in ("3", "two", "-1", "[2]", ""):
        yield f"nc {nc!r}", YAML.replace("nc: 2", f"nc: {nc}")
    yield "of poses", YAML + "kpt_shape: [17, 3]\n"
    yield "with a key twice", YAML + "nc: 2\n"
    yield "with no key", "  - dog\n" + YAML
    yield "of NULs", "\0" * 100
    yield "json", '{"names": ["dog", "cat"]}'


def _same_for_all(kind: str) -> Iterator[Case]:
    """Images that are missing, broken or doubled; files that are not files."""

    def images(folder: Path) -> Path:
        return folder / "data" / ("images" if kind == "yolo" else ".")

    def spoil(change: Callable[[Path], object], named: str = "bad.png") -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            target = small(kind, folder)
            change(images(folder) / "bad.png")
            return images(folder) / named if named else target

        return write

    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to("/dev/zero")

    def double(path: Path) -> None:
        noise(SIZE).save(path.with_suffix(".jpg"))

    spoilt = {"no header": b"hello", "empty": b"", "cut": image_bytes("PNG")[:300]}
    for name, data in spoilt.items():
        change = lambda path, data=data: path.write_bytes(data)  # noqa: E731
        yield Case(f"{kind}: image with {name}", kind, spoil(change))
    yield Case(f"{kind}: image missing", kind, spoil(lambda path: path.unlink(), named=""))
    yield Case(f"{kind}: image is a device", kind, spoil(link, named=""))  # as if missing
    turned = lambda path: noise(SIZE[::-1]).save(path)  # noqa: E731
    if kind != "yolo":
        yield Case(f"{kind}: image turned", kind, spoil(turned))
    if kind not in ("csv", "cvat"):
        yield Case(f"{kind}: two images of one stem", kind, spoil(double, named=""))

    def folder_there(folder: Path) -> Path:
        path = small(kind, folder)
        path.unlink()
        path.mkdir()
        return path

    yield Case(f"{kind}: a folder", kind, folder_there)


def formats() -> Iterator[Case]:
    """All cases."""
    for kind in WRITERS:
        seen: set[bytes] = {WRITERS[kind].files[WRITERS[kind].target].encode()}
        for name, data in _mutations(kind):
            if data not in seen:
                seen.add(data)
                yield _case(kind, name, data)
        yield from _same_for_all(kind)
    for name, text in _yamls():
        data = text.encode("utf-8", "surrogatepass")
        yield _case("yolo", f"data.yaml, {name}", data, "data.yaml")
    rng = np.random.default_rng(0)
    for kind, writer in WRITERS.items():
        raw = writer.files[writer.target].encode()
        for place in sorted(rng.choice(len(raw), 12, replace=False).tolist()):
            data = raw[:place] + b"\x01\xff" + raw[place:]
            yield _case(kind, f"stray bytes at {place}", data)
