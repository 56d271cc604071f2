"""Hundreds of broken inputs derived from small valid ones: images, annotations, runs, weights.

A case writes its input into an empty folder. Readers get `folder / "data"`; next to it are secret
files that nothing may read. `tests.bad_input_worker` reads the inputs.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.factories import Picture, make_voc, noise, voc_xml
from tests.torch_files import program, tensor, text, write_pth, write_torchs, write_zip  # noqa: F401

SIZE = (48, 64)
SECRET = "secret"


class Case(NamedTuple):
    """One broken input. certain: False for damage that may go unnoticed, such as in a pixel."""

    name: str
    reader: str
    write: Callable[[Path], Path]  # folder -> the file that the error must name
    certain: bool = True


# Images: everything arrives as VOC2007/JPEGImages/bad.jpg


def image_bytes(kind: str, mode: str = "RGB") -> bytes:
    """A small noise image in a file format."""
    buffer = io.BytesIO()
    noise(SIZE, mode).save(buffer, kind)
    return buffer.getvalue()


def voc_folder(folder: Path, bad_image: bytes | None = None, bad_xml: bytes | None = None) -> Path:
    """Write a VOC folder with a valid image `good` and `bad`; returns its VOC2007."""
    make_voc(folder / "data", {"good": Picture(SIZE), "bad": Picture(SIZE)})
    voc = folder / "data" / "VOC2007"
    if bad_image is not None:
        (voc / "JPEGImages/bad.jpg").write_bytes(bad_image)
    if bad_xml is not None:
        (voc / "Annotations/bad.xml").write_bytes(bad_xml)
    return voc


def image_case(name: str, data: bytes, certain: bool = True) -> Case:
    def write(folder: Path) -> Path:
        return voc_folder(folder, bad_image=data) / "JPEGImages/bad.jpg"

    return Case(f"image: {name}", "voc", write, certain)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    """A PNG whose header declares this size, whatever its body holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def flipped(data: bytes, seed: int, count: int = 3, first: int = 0) -> bytes:
    """The data with some bits flipped, at positions from `first` on."""
    rng = np.random.default_rng(seed)
    out = bytearray(data)
    for place in rng.integers(first, len(out), count):
        out[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header declares this size."""
    data = bytearray(image_bytes("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bombs() -> Iterator[tuple[str, bytes]]:
    rows = b"\0" * (20_000 // 8 + 1)
    yield "png 20000x20000 in 50 kB", png(20_000, 20_000, 1, 0, rows * 20_000)
    for width, height in ((2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (10**5, 10**5)):
        yield f"png that claims {width}x{height}", png(width, height)
    for width, height in ((0, 10), (10, 0), (0, 0), (2**32 - 1, 5)):
        yield f"png that claims {width}x{height}", png(width, height)
    yield "jpeg 65535x65535", jpeg_of_size(65535, 65535)
    yield "jpeg 60000x2000", jpeg_of_size(60000, 2000)
    for width, height in ((0, 48), (64, 0), (64, 470), (640, 48)):
        yield f"jpeg that claims {width}x{height}", jpeg_of_size(width, height)
    gif = bytearray(image_bytes("GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield "gif screen of 65535x65535", bytes(gif)
    bmp = image_bytes("BMP")
    for width, height in ((10**6, 10**6), (-64, 48), (0, 0), (2**31 - 1, -(2**31))):
        sides = struct.pack("<ii", width, height)
        yield f"bmp that claims {width}x{height}", bmp[:18] + sides + bmp[26:]
    for sides in (b"99999 99999", b"0 0", b"-1 5", b"9" * 400 + b" 1", b"64 48.5", b""):
        yield f"ppm of {sides[:12]!r}", b"P6\n" + sides + b"\n255\n" + bytes(64)
    tiff = np.zeros((1, 1), np.uint8)
    for sides in ((10**6, 10**6), (0, 0)):
        buffer = io.BytesIO()
        Image.fromarray(tiff).save(buffer, "TIFF")
        data = bytearray(buffer.getvalue())
        for tag, value in zip((0x0100, 0x0101), sides):
            place = data.index(struct.pack("<H", tag), 8)
            data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, value)
        yield f"tiff that claims {sides}", bytes(data)


def spoilt_pngs() -> Iterator[tuple[str, bytes]]:
    whole = image_bytes("PNG")
    start = whole.index(b"IDAT") - 4
    yield "png without pixels", whole[:start] + chunk(b"IEND", b"")
    yield "png with a wrong checksum", flipped(whole, 0, 1, len(whole) - 20)[:-12] + whole[-12:]
    yield "png with garbage for pixels", whole[:start] + chunk(b"IDAT", bytes(range(200)))
    yield "png with too few rows", png(64, 48, body=bytes(20 * (64 * 3 + 1)))
    yield "png of depth 3", png(64, 48, 3, 2, bytes(48 * 193))
    yield "png of colour type 9", png(64, 48, 8, 9, bytes(48 * 193))
    yield "png of an unknown filter", png(64, 48, body=(b"\x09" + bytes(192)) * 48)
    yield "png without a palette", png(64, 48, 8, 3)
    yield "png whose header comes twice", whole[:33] + chunk(b"IHDR", bytes(13)) + whole[33:]
    bomb = zlib.compress(bytes(200 << 20))
    for kind, head in ((b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        yield f"png with a {kind.decode()} bomb", whole[:33] + chunk(kind, head + bomb) + whole[33:]


def float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random(SIZE, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def negative_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(SIZE, -5, np.int32)).save(buffer, "TIFF")
    return buffer.getvalue()


#: what a file named .jpg may really be
WRONG_FORMATS = {
    "empty": b"",
    "one byte": b"\xff",
    "the first marker alone": b"\xff\xd8",
    "markers alone": b"\xff\xd8\xff\xd9",
    "NULs": bytes(5000),
    "ones": b"\xff" * 5000,
    "text": b"hello\n" * 100,
    "html": b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "json": b'{"error": "quota exceeded"}',
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n",
    "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>',
    "svg of a bomb": b'<!DOCTYPE s [<!ENTITY a "aaaa">]><svg>&a;</svg>',
    "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "elf": b"\x7fELF" + bytes(100),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "mp4": b"\0\0\0\x20ftypisom" + bytes(100),
    "heic": b"\0\0\0\x18ftypheic" + bytes(100),
    "ico": b"\0\0\1\0\1\0\x10\x10" + bytes(100),
    "xbm": b"#define im_width 64\n#define im_height 48\nstatic char im_bits[] = {0x00};\n",
    "xpm": b'/* XPM */\nstatic char *a[] = {"64 48 1 1", "a c #000000"};\n',
    "dds": b"DDS \x7c\0\0\0" + bytes(120),
    "fits": b"SIMPLE  =                    T" + b" " * 2850,
    "iptc": b"\x1c\x02\0\0\1\0",
    "pickle": b"cos\nsystem\n(S'echo'\ntR.",
    "shell": b"#!/bin/sh\necho hello\n",
    "fli": bytes((0, 0, 0, 0, 0x12, 0xAF)) + bytes(130),
    "pcx": b"\x0a\x05\x01\x08" + bytes(124),
    "sgi": b"\x01\xda\x00\x01" + bytes(508),
}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def images() -> Iterator[Case]:
    for kind in FORMATS:
        whole = image_bytes(kind)
        for share in (0.004, 0.05, 0.2, 0.5, 0.75):
            yield image_case(f"{kind} cut at {share:.1%}", whole[: max(1, int(len(whole) * share))])
        for seed in range(6):
            name = f"{kind} with turned bits, {seed}"
            yield image_case(name, flipped(whole, seed), certain=kind == "PNG")
        middle = len(whole) // 2
        zeros = whole[: middle - 200] + bytes(400) + whole[middle + 200 :]
        yield image_case(f"{kind} with a hole", zeros, certain=kind == "PNG")
        garbled = bytes(np.random.default_rng(1).integers(0, 256, 300, np.uint8))
        yield image_case(f"{kind} with a garbled head", garbled + whole[300:])
    for seed in range(10, 30):
        yield image_case(f"PNG with turned bits, {seed}", flipped(image_bytes("PNG"), seed, 1, 16))
        jpeg = flipped(image_bytes("JPEG"), seed, 40)
        yield image_case(f"JPEG with turned bits, {seed}", jpeg, certain=False)
    for name, data in WRONG_FORMATS.items():
        yield image_case(name, data)
    for name, data in bombs():
        yield image_case(name, data, certain="gif" not in name)
    for name, data in spoilt_pngs():
        yield image_case(name, data, certain="bomb" not in name and "twice" not in name)
    yield image_case("tiff of floats", float_tiff())
    yield image_case("tiff of negative numbers", negative_tiff())
    yield Case("image: missing", "voc", missing_image)
    yield Case("image: a folder", "voc", folder_for_image)
    yield Case("image: a link to nothing", "voc", dangling_image)
    yield Case("image: a link to a device", "voc", device_image)
    yield Case("image: a link to itself", "voc", looping_image)


def missing_image(folder: Path) -> Path:
    path = voc_folder(folder) / "JPEGImages/bad.jpg"
    path.unlink()
    return path


def folder_for_image(folder: Path) -> Path:
    missing_image(folder).mkdir()
    return folder / "data/VOC2007/JPEGImages/bad.jpg"


def dangling_image(folder: Path) -> Path:
    path = missing_image(folder)
    path.symlink_to(folder / "nowhere.jpg")
    return path


def device_image(folder: Path) -> Path:
    path = missing_image(folder)
    path.symlink_to("/dev/zero")
    return path


def looping_image(folder: Path) -> Path:
    path = missing_image(folder)
    path.symlink_to(path)
    return path


# VOC annotations and image sets


def xml_case(name: str, xml: str | bytes, certain: bool = True) -> Case:
    data = xml.encode() if isinstance(xml, str) else xml

    def write(folder: Path) -> Path:
        return voc_folder(folder, bad_xml=data) / "Annotations/bad.xml"

    return Case(f"voc: {name}", "voc", write, certain)


def an_object(box: str = "", name: str = "<name>dog</name>", extra: str = "") -> str:
    corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), (box or "11 21 50 40").split(" ")))
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
    return f"<object>{name}<bndbox>{inner}</bndbox>{extra}</object>"


def annotation(*objects: str, size: str = "") -> str:
    return f"<annotation>{size}{''.join(objects)}</annotation>"


#: boxes as xmin ymin xmax ymax
BAD_BOXES = (
    *("nan 1 50 40", "1 nan 50 40", "1 1 NaN 40", "1 1 50 -nan", "inf 1 50 40", "-inf 1 50 40"),
    *("1 1 inf inf", "1 1 Infinity 40", "1e999 1 50 40", "abc 1 50 40", "0x10 1 50 40"),
    *(
        "1,5 1 50 40",
        "None 1 50 40",
        "1;DROP 1 50 40",
        "1e 1 50 40",
        "1 1 50",
        "1 1",
        "1",
        "&#x661; x 1 1",
    ),
    *("<a/> 1 50 40", "- 1 50 40", "++1 1 50 40", "1..5 1 50 40", f"{'9' * 100_000} 1 50 40"),
    # read, but dropped or clipped to the image, and counted
    *("50 1 11 40", "1 40 50 10", "11 11 11 40", "11 11 50 11", "11 11 11 11", "0 0 0 0"),
    *("1 1 1000000000 1000000000", "-1000000000 -1000000000 1000000000 1000000000"),
    *("1000000000 1000000000 1000000001 1000000001", "1 1 1e300 1e300", "-1e308 1 1e308 40"),
    *("-50 -50 -10 -10", "65 1 90 40", "-5 1 50 40", "1 1 65.5 40", "-1 -1 -1 -1"),
)
BAD_NUMBERS = ("abc", "nan", "inf", "1e999", "-", "yes")


def bombed(body: str, entities: str) -> str:
    return f'<?xml version="1.0"?><!DOCTYPE annotation [{entities}]><annotation>{body}</annotation>'


def entity_attacks() -> Iterator[tuple[str, str]]:
    laughs = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
    )
    yield "a billion laughs", bombed("<object><name>&a9;</name></object>", laughs)
    long = f'<!ENTITY a "{"a" * 100_000}">'
    yield "quadratic blow-up", bombed(f"<object><name>{'&a;' * 10_000}</name></object>", long)
    for place in ("file:///etc/passwd", f"../../../{SECRET}.xml", "http://127.0.0.1:9/x"):
        entity = f'<!ENTITY x SYSTEM "{place}">'
        yield f"external entity {place}", bombed("<object><name>&x;</name></object>", entity)
        parameter = f'<!ENTITY % x SYSTEM "{place}"> %x;'
        yield f"external parameter entity {place}", bombed(an_object(), parameter)
    yield "an entity that is never used", bombed(an_object(), '<!ENTITY a "b">')
    yield "an entity of itself", bombed("&a;", '<!ENTITY a "&a;">')
    yield "an unknown entity", annotation("&nothing;")
    include = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/passwd"/>'
    yield "xinclude for a name", annotation(an_object(name=f"<name>{include}</name>"))


def odd_xml() -> Iterator[tuple[str, str | bytes]]:
    whole = voc_xml(Picture(SIZE))
    for i in range(1, 16):
        yield f"cut at {i}/16", whole[: len(whole) * i // 16]
    rng = np.random.default_rng(0)
    letters = [k for k in range(len(whole)) if whole[k] in "<>/"]
    places = rng.choice(len(whole), 16, replace=False)
    for place, letter in zip(places.tolist(), rng.choice(letters, 16, replace=False).tolist()):
        yield f"a control character at {place}", whole[:place] + "\1" + whole[place:]
        yield f"without its bracket at {letter}", whole[:letter] + whole[letter + 1 :]
    yield "empty", ""
    yield "blanks", " \n\t "
    yield "NULs", bytes(1000)
    yield "json", "{}"
    yield "an image", image_bytes("JPEG")
    yield "html", "<html><body>404</body></html>"
    yield "another root", "<annotations></annotations>"
    yield "a namespace", whole.replace("<annotation>", '<annotation xmlns="x">')
    yield "two roots", whole + whole
    yield "text after the root", whole + "x"
    yield "latin-1 without saying so", whole.replace("dog", "dög").encode("latin-1")
    yield "an unknown encoding", b'<?xml version="1.0" encoding="klingon"?>' + whole.encode()
    yield "an encoding that is a lie", b'<?xml version="1.0" encoding="utf-16"?>' + whole.encode()
    yield "half of utf-16", whole.encode("utf-16")[:-1]
    yield "utf-16 without a mark", whole.encode("utf-16-le")
    yield "utf-7", b'<?xml version="1.0" encoding="utf-7"?>' + whole.encode("utf-7")
    yield "a NUL inside", whole.replace("dog", "d\0g")
    yield "a surrogate", whole.replace("dog", "&#xD800;")
    yield "100,000 open elements", "<annotation>" + "<a>" * 100_000
    nested = "<object>" * 100_000 + "</object>" * 100_000
    yield "100,000 nested elements", f"<annotation>{nested}</annotation>"
    yield "100,000 attributes", "<annotation " + " ".join(f'a{i}=""' for i in range(100_000)) + ">"
    yield "the same attribute twice", '<annotation a="1" a="2"></annotation>'


def odd_objects() -> Iterator[tuple[str, str]]:
    for box in BAD_BOXES:
        yield f"box {box[:50]}", annotation(an_object(box), an_object())
    yield "no name", annotation(an_object(name=""))
    yield "an empty name", annotation(an_object(name="<name> </name>"))
    yield "an unknown class", annotation(an_object(name="<name>dogge</name>"))
    yield "a class of a million letters", annotation(an_object(name=f"<name>{'d' * 10**6}</name>"))
    yield "no bndbox", annotation("<object><name>dog</name></object>")
    yield "an empty bndbox", annotation("<object><name>dog</name><bndbox/></object>")
    for number in BAD_NUMBERS:
        flag = f"<difficult>{number}</difficult>"
        yield f"difficult {number}", annotation(an_object(extra=flag))
        sides = f"<size><width>{number}</width><height>48</height></size>"
        yield f"width {number}", annotation(an_object(), size=sides)
    for sides in (
        "<width>9</width><height>9</height>",
        "<width>1000000000</width><height>1</height>",
    ):
        yield f"another size: {sides[7:12]}", annotation(an_object(), size=f"<size>{sides}</size>")
    for sides in ("<width>64</width>", "", "<width/><height/>"):
        yield f"half a size: {sides}", annotation(an_object(), size=f"<size>{sides}</size>")


#: names in an annotation or a list that are not files of the data set
ATTACKS = (
    *(f"../{SECRET}", f"../../{SECRET}", f"../../../{SECRET}", f"a/../../../{SECRET}"),
    *("..", "../", "good/../../../../etc/passwd", "/etc/passwd", "//etc/passwd", "/dev/zero"),
    *(
        "C:\\Windows\\win.ini",
        "..\\..\\secret",
        "\\\\host\\share\\x",
        "C:secret",
        "file:///etc/passwd",
    ),
    *("http://127.0.0.1:9/x", "~/secret", "$HOME/secret", "a\0b", "x" * 5000, "con", ".", "*"),
)


def listing_case(name: str, data: bytes) -> Case:
    def write(folder: Path) -> Path:
        path = voc_folder(folder) / "ImageSets/Main/train.txt"
        path.write_bytes(data)
        return path

    return Case(f"voc: list {name}", "voc list", write)


def listings() -> Iterator[Case]:
    for name in ATTACKS:
        yield listing_case(f"with {name[:40]!r}", f"good\n{name}\n".encode())
        # a list may also name files that a careless join with the root would reach
        yield listing_case(f"with {name[:40]!r} marked", f"good\n{name} 1\n".encode())
    yield listing_case("of nothing", b"")
    yield listing_case("of blanks", b"\n \n\t\n")
    yield listing_case("with a line twice", b"good\nbad\ngood\n")
    yield listing_case("in utf-16", "good\nbad\n".encode("utf-16"))
    yield listing_case("in latin-1", "good\nböd\n".encode("latin-1"))
    yield listing_case("of NULs", bytes(1000))
    yield listing_case("that is an image", image_bytes("PNG"))
    yield listing_case("of images that are not there", b"good\nnone\n")
    yield listing_case("all marked -1", b"good -1\nbad -1\n")


def voc() -> Iterator[Case]:
    for name, xml in (*entity_attacks(), *odd_xml(), *odd_objects()):
        yield xml_case(name, xml)
    for name in ATTACKS:
        if "\0" not in name:  # <filename> is never opened: the image has the annotation's name
            body = annotation(
                f"<filename>{name}</filename><folder>{name}</folder>", an_object("9 9 9 9")
            )
            yield xml_case(f"filename {name[:40]!r}", body)
    yield Case("voc: no annotation", "voc", missing_annotation)
    yield from listings()


def missing_annotation(folder: Path) -> Path:
    path = voc_folder(folder) / "Annotations/bad.xml"
    path.unlink()
    return path


# COCO


def document() -> dict[str, Any]:
    """Two images of 64x48, and three objects with masks."""
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    return {
        "images": [
            {"id": 1, "file_name": "good.png", "height": 48, "width": 64},
            {"id": 2, "file_name": "bad.png", "height": 48, "width": 64},
        ],
        "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 3, "bbox": [10, 10, 20, 20]}
            | {"segmentation": [square], "iscrowd": 0, "area": 400}
            for i, image in ((1, 1), (2, 2), (3, 2))
        ],
    }


def coco_folder(folder: Path, data: bytes) -> Path:
    root = folder / "data"
    (root / "train").mkdir(parents=True)
    for seed, name in enumerate(("good", "bad")):
        noise(SIZE, seed=seed).save(root / "train" / f"{name}.png")
    path = root / "train.json"
    path.write_bytes(data)
    return path


def coco_case(
    name: str, data: Any, reader: str = "coco", certain: bool = True, named: str = "train.json"
) -> Case:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()

    def write(folder: Path) -> Path:
        return coco_folder(folder, raw).parent / named

    return Case(f"coco: {name}", reader, write, certain)


def changed(way: str, value: Any) -> dict[str, Any]:
    """The document with another value at `annotations 1 bbox`."""
    out = copy.deepcopy(document())
    *path, last = (int(part) if part.isdigit() else part for part in way.split())
    target: Any = out
    for part in path:
        target = target[part]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return out


HUGE = 10**400
WRONG_KINDS = (None, 3, "x", {}, True, [None], [3], ["x"], [[]], [[1, 2]])
WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "images": (*WRONG_KINDS, [], [{}], KeyError),
    "categories": (*WRONG_KINDS, [], [{}], KeyError),
    "annotations": (*WRONG_KINDS, [{}], KeyError),
    "images 1 id": (None, 1.5, 1, [], {}, True, KeyError),
    "images 1 file_name": (None, 5, "", [], ["bad.png"], "none.png", KeyError, *ATTACKS, "\ud800"),
    "images 1 height": ("48", -48, 48.5, True, [], float("nan"), 10**9, HUGE, float("inf")),
    "images 1 width": ("64", -1, {}, 2**63),
    "categories 0 id": (None, "3", 3.0, 5, [], True, KeyError),
    "categories 0 name": (None, 3, "", "cat", [], "\ud800", KeyError),
    "annotations 1 id": ([], {}, 1, 1.5, True),
    "annotations 1 image_id": (None, 99, "2", [], {}, 2.5, KeyError),
    "annotations 1 category_id": (None, 99, "3", [], {}, 3.5, True, KeyError),
    "annotations 1 bbox": (
        *(None, 5, "1 2 3 4", {}, [], [1, 2, 3], [1, 2, 3, 4, 5], [None] * 4, ["1", "2", "3", "4"]),
        *([[1, 2, 3, 4]], [True, 1, 2, 3], [float("nan"), 1, 2, 3], [1, 1, float("inf"), 5]),
        *([-float("inf"), 1, 2, 3], [HUGE, 1, 2, 3], [1, 1, 1e308, 1e308, 1e308], KeyError),
        # clipped to the image or dropped, and counted
        *([1, 1, 10**9, 10**9], [-(10**9), -(10**9), 2 * 10**9, 2 * 10**9], [10**9, 5, 5, 5]),
        *([5, 5, 0, 0], [5, 5, 0, 9], [5, 5, -3, -3], [1e308, 1, 1e308, 5], [1, 1, 1e300, 5]),
        *([-20, -20, 10, 10], [60, 40, 30, 30], [64, 48, 5, 5], [5, 5, 1e-320, 5]),
    ),
    "annotations 1 area": ("1", -1, float("nan"), float("inf"), [], True, HUGE, 1e300),
    "annotations 1 iscrowd": (2, "yes", [1], -1, float("nan"), {"a": 1}, 0.5),
    "annotations 1 ignore": (2, "no", [0], float("nan")),
}
#: masks are only read on request
WRONG_MASKS: tuple[Any, ...] = (
    *(5, True, {}, [5], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["1"] * 6], [[None] * 6]),
    *([[float("nan")] * 6], [[float("inf"), 1, 2, 3, 4, 5]], [[HUGE, 1, 2, 3, 4, 5]], [{}]),
    *(
        [[1e9, 1e9, -1e9, 1e9, 5, -1e9]],
        [[1e300, 0, 0, 1e300, 5, 5]],
        [[-1e15, 0, 1e15, 0, 5, 9e15]],
    ),
    *(
        [[0, 0, 2**31, 0, 0, 2**31]],
        [[1e7, 1e7, -1e7, 1e7, 5, -1e7]],
        "",
        "mask.png",
        "../../secret.png",
    ),
    *(
        "/etc/passwd",
        "a\0b",
        {"png": 5},
        {"png": "../../secret.png", "value": 1},
        {"png": "bad.png"},
    ),
    *(
        {"png": "bad.png", "value": 10**9},
        {"png": "none.png", "value": 1},
        "set.json",
        "train.json",
    ),
    *(
        {"size": [48, 64]},
        {"counts": "04L0"},
        {"size": [48], "counts": "x"},
        {"size": [48, 64], "counts": 5},
    ),
    *(
        {"size": [48, 64], "counts": ""},
        {"size": [48, 64], "counts": []},
        {"size": [48, 64], "counts": "~~~"},
    ),
    *({"size": [48, 64], "counts": [1, 2, 3]}, {"size": [48, 64], "counts": [-5, 3077]}),
    *({"size": [48, 64], "counts": [10**12]}, {"size": [48, 64], "counts": [1.5, 3070.5]}),
    *({"size": [10**6, 10**6], "counts": [10**12]}, {"size": [64, 48], "counts": [3072]}),
    *({"size": [-48, -64], "counts": [3072]}, {"size": ["48", "64"], "counts": [3072]}),
    *(
        {"size": [48, 64], "counts": "oooooooooooooooooooooooooooooooo"},
        {"size": [48.5, 64], "counts": [3072]},
    ),
    *({"size": [48, 64], "counts": "é\ud800"}, {"size": [48, 64], "counts": "PPPPPPPPP"}),
    *({"size": [48, 64], "counts": [float("nan")]}, {"size": [HUGE, 64], "counts": [3072]}),
)
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blanks": b"  \n",
    "NULs": bytes(1000),
    "xml": b"<annotation/>",
    "an image": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"17",
    "a text": b'"hello"',
    "true": b"true",
    "an empty object": b"{}",
    "a nan": b"NaN",
    "100,000 brackets": b"[" * 100_000,
    "100,000 closed brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 braces": b'{"a":' * 100_000,
    "nesting in a field": b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 100,000 digits": b'{"images": ' + b"9" * 100_000 + b"}",
    "single quotes": b"{'images': []}",
    "a comment": b"{} // end",
    "two documents": b"{}{}",
    "a trailing comma": b'{"images": [],}',
    "a raw newline": b'{"images": "a\nb"}',
    "half a surrogate in raw": b'{"images": "\xed\xa0\x80"}',
    "utf-8 cut": '{"images": "ö'.encode()[:-1],
    "pickle": b"cos\nsystem\n(S'echo'\ntR.",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\n",
}


def coco() -> Iterator[Case]:
    whole = json.dumps(document()).encode()
    for name, data in {**TEXTS, "an image": image_bytes("PNG")}.items():
        yield coco_case(f"text: {name}", data)
    for i in range(16):
        yield coco_case(f"cut at {i}/16", whole[: len(whole) * i // 16])
    for encoding in ("latin-1", "utf-16", "cp500"):
        data = whole.replace(b"good", "gööd".encode("latin-1"))
        data = data if encoding == "latin-1" else whole.decode().encode(encoding)[:-3]
        yield coco_case(f"in {encoding}", data)
    rng = np.random.default_rng(0)
    marks = [k for k, byte in enumerate(whole) if byte in b"{}[]:"]
    for place in rng.choice(marks, 16, replace=False):
        yield coco_case(f"without the mark at {place}", whole[:place] + whole[place + 1 :])
    for way, values in WRONG_VALUES.items():
        for value in values:
            shown = "missing" if value is KeyError else repr(value)[:40]
            missing = value in ("none.png",)
            named = "train/none.png" if missing else "train.json"
            yield coco_case(f"{way} = {shown}", changed(way, value), named=named)
    for value in WRONG_MASKS:
        data = changed("annotations 1 segmentation", value)
        yield coco_case(f"mask {repr(value)[:60]}", data, "coco masks")
    yield coco_case(
        "masks of nothing",
        changed("annotations 1 segmentation", KeyError),
        "coco masks",
        named="train/bad.png",
    )
    for width, height in ((48, 64), (640, 480), (8, 8), (65, 48), (10**5, 48)):
        data = document()
        data["images"][1] |= {"width": width, "height": height}
        yield coco_case(f"the file is not {width}x{height}", data, named="train/bad.png")
    for name, data in (("huge", png(10**5, 10**5)), ("cut", image_bytes("PNG")[:300])):
        yield Case(f"coco: {name} image", "coco", coco_image(data))
        yield Case(f"coco: {name} image for a mask", "coco masks", mask_picture(data))
    bomb = png(20_000, 8_000, 8, 0, bytes(20_001 * 8_000))
    yield Case(
        "coco: a mask of 160 million pixels", "coco masks", mask_picture(bomb, (8_000, 20_000))
    )
    yield Case(
        "coco: a mask of another size", "coco masks", mask_picture(png(5, 5, body=bytes(80)))
    )


def coco_image(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = coco_folder(folder, json.dumps(document()).encode()).parent / "train/bad.png"
        path.write_bytes(data)
        return path

    return write


def mask_picture(data: bytes, size: tuple[int, int] = SIZE) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        coco = changed("annotations 1 segmentation", "mask.png")
        coco["images"][1] |= {"height": size[0], "width": size[1]}
        path = coco_folder(folder, json.dumps(coco).encode()).parent / "mask.png"
        path.write_bytes(data)
        # the oversized image is reported before its mask
        return path if size == SIZE else path.with_name("train.json")

    return write


# Runs: a folder with config, symbols, checkpoint and log


def write_run(folder: Path) -> Path:
    """Write a small run with one checkpoint of zeros; returns its folder."""
    from mxrcnn.runs.checkpoint import RunFolder, TrainState
    from symnet import get_detector
    from symnet.machine import mx
    from tests.factories import tiny_config

    config = tiny_config(
        model__num_classes=2,
        model__width=0.0625,
        model__box_head_dim=8,
        model__box_roi_size=2,
        data__class_names=("dog",),
        data__short_side=32,
        data__long_side=64,
    )
    detector = get_detector(config.network)
    symbols = {
        "train": detector.train_symbol(config.model, 1),
        "test": detector.test_symbol(config.model),
    }
    shapes, _, _ = symbols["test"].infer_shape(data=(1, 3, 64, 64), im_info=(1, 3))
    named = dict(zip(symbols["test"].list_arguments(), shapes))
    params = {f"arg:{k}": mx.nd.zeros(v) for k, v in named.items() if k not in ("data", "im_info")}
    run = RunFolder(folder / "data")
    run.create(config, symbols)
    run.save(TrainState(3, 0, 3), params, {"conv1_1_bias": mx.nd.zeros(4)}, 1)
    run.append_log({"kind": "train", "step": 3, "epoch": 0, "loss": 1.0})
    run.note_best(3, "voc07 mAP", 0.5)
    return run.path


CHECKPOINT = "checkpoints/step-00000003"


class _Template:
    """A valid run, made once and copied for each case."""

    folder: Path | None = None

    @classmethod
    def copy(cls, folder: Path) -> Path:
        if cls.folder is None or not cls.folder.exists():
            cls.folder = write_run(folder.parent.parent / "run-template")
        return Path(shutil.copytree(cls.folder, folder / "data"))


def run_case(
    name: str, file: str, spoil: Callable[[bytes], bytes], reader: str = "run", certain: bool = True
) -> Case:
    def write(folder: Path) -> Path:
        path = _Template.copy(folder) / file
        path.write_bytes(spoil(path.read_bytes() if path.is_file() else b""))
        return path

    return Case(f"run: {name}", reader, write, certain)


def arrays_case(name: str, change: Callable[[dict], None], file: str, reader: str) -> Case:
    def write(folder: Path) -> Path:
        from symnet.machine import mx

        path = _Template.copy(folder) / CHECKPOINT / file
        arrays = dict(mx.nd.load(str(path)))
        change(arrays)
        mx.nd.save(str(path), arrays)
        return path

    return Case(f"run: {name}", reader, write)


def wrong_arrays() -> Iterator[Case]:
    from symnet.machine import mx

    def shaped(key: str, *shape: int, dtype: str = "float32") -> Callable[[dict], None]:
        return lambda arrays: arrays.update({key: mx.nd.zeros(shape, dtype=dtype)})

    def without(key: str) -> Callable[[dict], None]:
        return lambda arrays: arrays.pop(key)

    bias, weight = "arg:conv1_1_bias", "arg:conv1_2_weight"
    for reader in ("detector", "resume"):
        for name, change in {
            "a bias of another length": shaped(bias, 5),
            "a transposed weight": lambda a: a.update({weight: a[weight].transpose((0, 2, 3, 1))}),
            "a weight without its last axis": shaped(weight, 8, 8, 3),
            "without a bias": without(bias),
            "without anything": lambda arrays: arrays.clear(),
            "a weight of whole numbers": shaped(weight, 8, 8, 3, 3, dtype="int32"),
            "a weight in float16": shaped(weight, 8, 8, 3, 3, dtype="float16"),
            "a weight that is not finite": lambda a: a.update({weight: a[weight] + np.nan}),
        }.items():
            # a detector accepts other float types, and does not check every value
            if reader == "resume" or name not in (
                "a weight in float16",
                "a weight that is not finite",
            ):
                yield arrays_case(f"{reader}, {name}", change, "model.params", reader)
    yield arrays_case(
        "momentum of another length", shaped("conv1_1_bias", 5), "momentum.params", "resume"
    )
    yield arrays_case("momentum of nothing known", shaped("x", 5), "momentum.params", "resume")


#: the first array of an MXNet file begins at byte 24: magic, storage type, dimensions, sides,
#: device, type. With more than one side (a bias has one), the later fields move
FIELDS = {
    "magic": (0, "<Q", (0, 0x113, 2**64 - 1)),
    "number of arrays": (16, "<Q", (0, 1, 10**6, 2**40, 2**63, 2**64 - 1)),
    "array's magic": (24, "<I", (0, 1, 7, 0xF993FAC8, 0xF993FACA, 0xFFFFFFFF)),
    "storage type": (28, "<i", (1, 2, 3, -1, 77)),
    "number of dimensions": (32, "<i", (-1, 0, 2, 9, 10**6, 2**31 - 1, -(2**31))),
    "side": (36, "<q", (-1, 0, 5, 10**6, 2**31, 2**33, 2**40, 2**62, -(2**63))),
}


def patched(place: int, form: str, value: int) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        field = struct.pack(form, value)
        return data[:place] + field + data[place + len(field) :]

    return spoil


def one_array(
    dims: tuple[int, ...] = (4,), device: int = 1, number: int = 0, kind: int = 0
) -> bytes:
    """An MXNet file of one array `a`, with these fields."""
    head = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<Iii", 0xF993FAC9, 0, len(dims))
    body = (
        struct.pack(f"<{len(dims)}q", *dims) + struct.pack("<iii", device, number, kind) + bytes(16)
    )
    return head + body + struct.pack("<QQ", 1, 1) + b"a"


def params_files() -> Iterator[tuple[str, Callable[[bytes], bytes], bool]]:
    """Faults of a .params file, and whether each must be noticed."""
    for share in (0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        yield f"cut at {share:.2%}", lambda data, share=share: data[: int(len(data) * share)], True
    for name, (place, form, values) in FIELDS.items():
        for value in values:
            yield f"{name} = {value}", patched(place, form, value), True
    for seed in range(12):
        yield f"with turned bits, {seed}", lambda data, seed=seed: flipped(data, seed, 20), False
        head = lambda data, seed=seed: flipped(data[:80], seed) + data[80:]  # noqa: E731
        yield f"with turned bits in its head, {seed}", head, False
    for device in (0, -1, 6, 2**31 - 1):
        yield f"device type {device}", lambda data, d=device: one_array(device=d), True
    for kind in (-1, 13, 99, 2**31 - 1):
        yield f"type {kind}", lambda data, k=kind: one_array(kind=k), True
    for dims in ((2**20, 2**20), (2**32, 2**32), (10**5, 10**5, 10**5), (2**31,), (1, -4, -1)):
        yield f"of sides {dims}", lambda data, d=dims: one_array(d), True
    tail = one_array()[:-17]
    for what, names in {
        "no names": b"",
        "2**60 names": struct.pack("<Q", 2**60),
        "2**33 names": struct.pack("<Q", 2**33),
        "two names for one array": struct.pack("<QQ", 2, 1) + b"a" + struct.pack("<Q", 1) + b"b",
        "a name of 2**40 letters": struct.pack("<QQ", 1, 2**40) + b"a",
        "a name that is no text": struct.pack("<QQ", 1, 2) + b"\xff\xfe",
        "a name cut short": struct.pack("<QQ", 1, 9) + b"a",
    }.items():
        yield what, lambda data, names=names: tail + names, True
    for what, data in OTHER_FILES.items():
        yield what, lambda _, data=data: data, True


#: what a parameter file may really be
OTHER_FILES = {
    "text": b"hello\n" * 50,
    "html": b"<html><body>404</body></html>" * 20,
    "NULs": bytes(5000),
    "a git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
    "a pickle": b"cos\nsystem\n(S'echo'\ntR.",
}
BAD_JSON = {
    "empty": b"",
    "NULs": bytes(100),
    "half": b'{"step": 1, ',
    "not utf-8": b'{"a": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "an empty object": b"{}",
    "100,000 brackets": b"[" * 100_000,
    "other keys": b'{"colour": 2, "step": 1}',
    "a number of 10,000 digits": b'{"step": ' + b"9" * 10_000 + b"}",
}


def runs() -> Iterator[Case]:
    for what, data in BAD_JSON.items():
        for file in ("config.json", "best.json", "quantized.json", f"{CHECKPOINT}/state.json"):
            yield run_case(f"{file} is {what}", file, lambda _, data=data: data)
        symbol = "test-symbol.json"
        yield run_case(f"{symbol} is {what}", symbol, lambda _, data=data: data)
        log = lambda whole, data=data: data + b"\n" + whole  # noqa: E731 - ends at the bad row
        yield run_case(f"log.jsonl has {what}", "log.jsonl", log, certain=False)
    state = {"step": 3, "epoch": 0, "batch": 3}
    for key in state:
        for value in (None, -1, "3", 1.5, [], True, 10**30):
            text = json.dumps({**state, key: value}).encode()
            yield run_case(
                f"state with {key} {value}", f"{CHECKPOINT}/state.json", lambda _, t=text: t
            )
    for key, value in (("step", "x"), ("step", None), ("step", 77), ("step", [1]), ("mAP", "high")):
        text = json.dumps({"step": 3, "mAP": 0.5, key: value}).encode()
        yield run_case(f"best with {key} {value}", "best.json", lambda _, t=text: t, "best run")
    for key, value in (("metric", 3), ("metric", None), ("value", "high"), ("value", -1)):
        text = json.dumps({"step": 3, "metric": "coco AP", "value": 0.5, key: value}).encode()
        yield run_case(f"best with {key} {value}", "best.json", lambda _, t=text: t, "best run")
    for old, new in (
        (b'"network": "', b'"network": "no'),
        (b'"network"', b'"net"'),
        (b'"short_side": 32', b'"short_side": "x"'),
        (b'"short_side": 32', b'"short_side": -32'),
        (b'"short_side": 32', b'"short_side": 1e999'),
        (b'"short_side"', b'"shortside"'),
        (b'"num_classes": 2', b'"num_classes": null'),
        (b'"train": {', b'"train": [], "x": {'),
    ):
        yield run_case(
            f"config with {new.decode()}", "config.json", lambda d, o=old, n=new: d.replace(o, n)
        )
    for old, new in (
        (b'"op": "Convolution"', b'"op": "Nothing"'),
        (b"[0, 0, 0]", b"[999, 0, 0]"),
        (b"[0, 0, 0]", b"[-1, 0, 0]"),
        (b"[0, 0, 0]", b'["x"]'),
        (b'"heads": [[', b'"heads": [[99'),
        (b'"nodes"', b'"knots"'),
        (b'"kernel": "(3, 3)"', b'"kernel": "x"'),
        (b'"op"', b'"\xffp"'),
    ):
        change = lambda data, old=old, new=new: data.replace(old, new, 1)  # noqa: E731
        yield run_case(f"symbol with {new!r}", "test-symbol.json", change)
    for share in (0.1, 0.5, 0.9):
        cut = lambda data, share=share: data[: int(len(data) * share)]  # noqa: E731
        for file in ("config.json", "test-symbol.json", f"{CHECKPOINT}/state.json"):
            yield run_case(f"{file} cut at {share}", file, cut)
    for what, spoil, certain in params_files():
        yield run_case(f"model.params {what}", f"{CHECKPOINT}/model.params", spoil, "run", certain)
    for what in ("cut at 50.00%", "2**60 names", "text"):
        spoil = next(spoil for name, spoil, _ in params_files() if name == what)
        yield run_case(f"momentum.params {what}", f"{CHECKPOINT}/momentum.params", spoil)
    yield from wrong_arrays()


# Parameter files


def weights_case(name: str, ending: str, data: bytes, certain: bool = True) -> Case:
    def write(folder: Path) -> Path:
        path = folder / "data" / f"file{ending}"
        path.parent.mkdir()
        path.write_bytes(data)
        return path

    return Case(f"weights: {ending} {name}", "weights", write, certain)


def whole_weights(folder: Path) -> dict[str, bytes]:
    """A small valid file of each format."""
    from safetensors.numpy import save

    arrays = {f"layer{i}.weight": np.full((4, 3), i, np.float32) for i in range(4)}
    np.savez(folder / "a.npz", **arrays)
    write_pth(folder / "a.pth", arrays)
    row = (Path(__file__).parent / "data/torch/small_row.pth").read_bytes()
    files = {name: (folder / f"a{name}").read_bytes() for name in (".npz", ".pth")}
    return {**files, ".pt": row, ".safetensors": save(arrays), ".params": one_array()}


def safetensors_files() -> Iterator[tuple[str, bytes]]:
    def made(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(raw) if length is None else length) + raw + data

    good = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for key, values in {
        "dtype": ("F99", None, 3, "F8_E4M3", "O", "F64"),
        "shape": ([5], [-4], [2**62, 4], None, "4", [[4]], [2**31, 2**31, 2**31]),
        "data_offsets": ([0, 17], [16, 0], [-1, 15], [0], [0, 2**60], None, "x", [4, 16]),
    }.items():
        for value in values:
            yield f"{key} {value}", made({"a": {**good, key: value}})
    yield "two tensors at one place", made({"a": good, "b": good})
    yield "a hole", made({"a": {**good, "data_offsets": [8, 24]}}, bytes(24))
    yield "bytes to spare", made({"a": good}, bytes(17))
    for length in (0, 5, 10**6, 2**40, 2**63, 2**64 - 1):
        yield f"header length {length}", made({"a": good}, length=length)
    for what, data in BAD_JSON.items():
        if what not in ("an empty object", "other keys"):
            yield f"header {what}", made(data, b"" if what == "an empty object" else bytes(16))
    yield "an unknown field", made({"a": {**good, "x": 1}, "b": 5})
    yield "values that are not finite", made({"a": good}, b"\xff" * 16)


def npz_files() -> Iterator[tuple[str, bytes]]:
    def packed(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr(name, data)
        return buffer.getvalue()

    def npy(header: str, data: bytes = bytes(16)) -> bytes:
        raw = header.encode("latin-1")
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data

    for descr, shape in (
        *(
            ("<f4", "(5,)"),
            ("<f4", "(-4,)"),
            ("<f4", "(1000000000000,)"),
            ("<f4", "(99999999999, 99)"),
        ),
        *(("O", "(4,)"), ("|S16", "(1,)"), ("<U4", "(1,)"), ("zz", "(4,)"), ("<M8[s]", "(2,)")),
        *(("<f4", "'x'"), ("<f4", "None"), ("<f4", "(4"), ("<c8", "(2,)"), ("V16", "(1,)")),
    ):
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"
        yield f"of {descr} {shape}", packed("a.npy", npy(header))
    yield "of code", packed("a.npy", npy("__import__('os').system('touch /tmp/trap')\n"))
    yield "of brackets", packed("a.npy", npy("(" * 9000 + "\n"))
    yield "no array", packed("a.npy", b"hello")
    yield "no .npy in it", packed("a.txt", b"hello")
    zeros = npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({300 << 18},), }}\n", b"")
    yield "that unpacks to 300 MB", packed("a.npy", zeros + bytes(300 << 20), zipfile.ZIP_DEFLATED)
    objects = io.BytesIO()
    np.savez(objects, a=np.array([{"a": 1}, None], dtype=object))
    yield "of objects", objects.getvalue()
    nan = io.BytesIO()
    np.savez(nan, a=np.array([np.nan, 1]))
    yield "not finite", nan.getvalue()


def pth_files() -> Iterator[tuple[str, bytes]]:
    def packed(
        pickle: bytes, storages: dict[str, bytes], method: int = zipfile.ZIP_STORED
    ) -> bytes:
        buffer = io.BytesIO()
        write_zip(buffer, pickle, storages, method)
        return buffer.getvalue()

    row = {"0": np.arange(6, dtype=np.float32).tobytes()}
    for name, values in {
        "a tensor too large": ("0", (7,), (1,), 6),
        "strides that reach beyond": ("0", (2, 3), (4, 1), 6),
        "a negative side": ("0", (-1,), (1,), 6),
        "a negative stride": ("0", (2,), (-1,), 6),
        "a storage of 2**31": ("0", (6,), (1,), 2**31 - 1),
        "a storage that is missing": ("9", (6,), (1,), 6),
        "the same element a million times": ("0", (1000, 1000), (0, 0), 6),
        "20 dimensions": ("0", (1,) * 20, (1,) * 20, 6),
    }.items():
        yield name, packed(program({"a": tensor(*values)}), row)
    yield "an offset beyond", packed(program({"a": tensor("0", (6,), (1,), 6, offset=1)}), row)
    yield (
        "an unknown storage",
        packed(program({"a": tensor("0", (6,), (1,), 6, kind="ObjStorage")}), row),
    )
    yield (
        "compressed",
        packed(program({"a": tensor("0", (6,), (1,), 6)}), row, zipfile.ZIP_DEFLATED),
    )
    attack = b"cos\nsystem\n" + text("touch /tmp/trap") + b"\x85R."
    yield "an attack", packed(attack, row)
    yield "an attack in the older layout", attack
    yield "100,000 marks", packed(b"(" * 100_000 + b".", row)
    yield "100,000 nested lists", packed(b"]" * 100_000 + b"a" * 99_999 + b".", row)
    yield "100,000 nested tuples", packed(b"N" + b"\x85" * 100_000 + b".", row)
    yield "a text of 2**60 letters", packed(b"\x8d" + struct.pack("<Q", 2**60) + b"a.", row)
    yield "a text of 2**34 letters in the older layout", b"\x8d" + struct.pack("<Q", 2**34) + b"a."
    yield "a number of 2**31 bytes", packed(b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a.", row)
    yield "a number of 50,000 digits", packed(b"L" + b"9" * 50_000 + b"L\n.", row)
    yield "a memo that is missing", packed(b"h\x05.", row)
    yield "no state dict", packed(b"\x80\x02K\x05.", row)
    yield "no pickle", packed(b"", row)


def weights(folder: Path) -> Iterator[Case]:
    for ending, whole in whole_weights(folder).items():
        for i in (0, 1, 2, 4, 6, 8, 10, 12, 14, 15):
            yield weights_case(f"cut at {i}/16", ending, whole[: len(whole) * i // 16])
        for seed in range(8):
            data = flipped(whole, seed, 5)
            yield weights_case(f"with turned bits, {seed}", ending, data, certain=False)
        for what, data in OTHER_FILES.items():
            yield weights_case(f"that is {what}", ending, data)
    made = {".safetensors": safetensors_files, ".npz": npz_files, ".pth": pth_files}
    for ending, files in made.items():
        for name, data in files():
            yield weights_case(name, ending, data)
    for what, spoil, certain in params_files():
        if what.startswith(("device", "type", "of sides")) or "name" in what:
            yield weights_case(what, ".params", spoil(b""), certain)
    for what, data in {**OTHER_FILES, "cut": b"\x89HDF\r\n\x1a\n" + bytes(90)}.items():
        yield weights_case(f"that is {what}", ".h5", data)
    yield weights_case("of an unknown ending", ".bin", b"x")


def corpus(scratch: Path) -> list[Case]:
    """All cases; scratch: a folder for the valid files that they are derived from."""
    return [*images(), *voc(), *coco(), *runs(), *weights(scratch)]
