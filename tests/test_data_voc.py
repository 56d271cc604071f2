"""Reading Pascal VOC folders and image files: real data, and every kind of broken input."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.images import image_size, path_inside, read_image
from mxrcnn.data.records import DataError
from mxrcnn.data.voc import VOC_CLASSES, load_voc

ORIENTATION = 0x0112


def an_object(name="dog", box=(11, 21, 50, 60), extra=""):
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


class Devkit:
    """A devkit of grey 100x80 images (width x height) below a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, year, name):
        folder = self.root / f"VOC{year}" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add(self, stem, body="", year="2007", ending=".jpg", xml=None):
        Image.new("RGB", (100, 80), "grey").save(self.folder(year, "JPEGImages") / (stem + ending))
        xml = f"<annotation>{body}</annotation>" if xml is None else xml
        path = self.folder(year, "Annotations") / f"{stem}.xml"
        path.write_text(xml, encoding="utf-8")
        return path

    def list(self, *lines, year="2007", split="train"):
        listing = self.folder(year, "ImageSets/Main") / f"{split}.txt"
        listing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def load(self, imageset="2007_train", *args, **kwargs):
        return load_voc(self.root, imageset, *args, **kwargs)


@pytest.fixture
def devkit(tmp_path):
    return Devkit(tmp_path / "devkit")


# Real data


@pytest.mark.parametrize(
    ("split", "images", "boxes", "dropped"),
    [("train", 205, 2804, 1), ("val", 87, 1137, 1), ("test", 72, 945, 0)],
)
def test_bccd_splits(shared_data, split, images, boxes, dropped):
    data = load_voc(shared_data / "bccd", f"2007_{split}")
    assert len(data) == images
    assert sum(map(len, data.records)) == boxes
    assert data.notes.dropped == dropped
    assert data.notes.clipped == data.notes.size_mismatch == len(data.notes.skipped) == 0


def test_bccd_joined_has_every_box_but_the_two_without_size(shared_data):
    data = load_voc(shared_data / "bccd", "2007_train+2007_val+2007_test")
    assert data.class_names == ("Platelets", "RBC", "WBC")
    counts = Counter(data.class_names[k - 1] for r in data.records for k in r.classes)
    assert {r.image_id for r in data.records} >= {"BloodImage_00338", "BloodImage_00343"}
    assert data.notes.dropped == 2
    assert counts == {"RBC": 4155 - 2, "WBC": 372, "Platelets": 361}
    assert sum(counts.values()) == 4888 - 2
    assert {(r.height, r.width) for r in data.records} == {(480, 640)}


def test_voc100(shared_data):
    data = load_voc(shared_data / "voc100", "2007_all")
    assert data.class_names == VOC_CLASSES
    assert len(data) == 100
    assert sum(map(len, data.records)) == 273
    assert sum(r.difficult.sum() for r in data.records) == 38
    assert sum(r.truncated.sum() for r in data.records) == 137
    assert data.notes.lines() == []
    record = next(r for r in data.records if r.image_id == "2007_000033")
    assert record.boxes.dtype == np.float32
    assert record.boxes.tolist() == [[8, 106, 499, 263], [420, 199, 482, 226], [324, 187, 411, 223]]
    assert record.areas[0] == (499 - 8) * (263 - 106)
    assert record.classes.tolist() == [1, 1, 1]
    assert record.truncated.tolist() == [False, False, True]
    assert (record.height, record.width) == (366, 500)


def test_voc_classes_are_the_standard_ones():
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


# Boxes, flags, classes


def test_boxes_become_continuous_and_flags_default_to_false(devkit):
    extra = "<difficult>1</difficult><truncated>1</truncated>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    devkit.add("a", an_object(box=(1, 1, 100, 80), extra=extra) + an_object(extra=part))
    devkit.list("a")
    record = devkit.load()[0]
    assert record.boxes.tolist() == [[0, 0, 100, 80], [10, 20, 50, 60]]
    assert record.difficult.tolist() == record.truncated.tolist() == [True, False]
    assert record.areas.tolist() == [8000, 1600]
    assert not record.crowd.any()


def test_float_coordinates(devkit):
    devkit.add("a", an_object(box=(11.5, 21.25, "50.75", " 60.0 ")))
    devkit.list("a")
    assert devkit.load()[0].boxes.tolist() == [[10.5, 20.25, 50.75, 60]]


def test_corners_are_read_by_name(devkit):
    corners = "<ymax>60</ymax><xmax>50</xmax><ymin>21</ymin><xmin>11</xmin>"
    devkit.add("a", f"<object><name>cat</name><bndbox>{corners}</bndbox></object>")
    devkit.list("a")
    assert devkit.load()[0].boxes.tolist() == [[10, 20, 50, 60]]


def test_bad_boxes_are_clipped_or_dropped_and_counted(devkit):
    good, over, outside, inverted = (
        (11, 21, 50, 60),
        (-5, 0, 120, 60),
        (150, 10, 160, 20),
        (50, 10, 20, 30),
    )
    devkit.add("a", "".join(an_object(box=b) for b in (good, outside, over, inverted)))
    devkit.list("a")
    data = devkit.load()
    assert data[0].boxes.tolist() == [[10, 20, 50, 60], [0, 0, 100, 60]]
    assert (data.notes.clipped, data.notes.dropped) == (1, 2)


def test_flags_and_classes_follow_the_kept_boxes(devkit):
    flagged = "<difficult>1</difficult><truncated>1</truncated>"
    devkit.add("a", an_object("cat", (50, 10, 20, 30)) + an_object("dog", extra=flagged))
    devkit.list("a")
    record = devkit.load()[0]
    assert record.classes.tolist() == [2]
    assert record.difficult.tolist() == record.truncated.tolist() == [True]


def test_image_without_objects(devkit):
    devkit.add("a")
    devkit.list("a")
    record = devkit.load()[0]
    assert record.boxes.shape == (0, 4)
    assert record.classes.dtype == np.int64


@pytest.mark.parametrize(
    ("asked", "found", "names"),
    [
        ("auto", ("zebra", "dog"), ("dog", "zebra")),
        (None, ("zebra", "dog"), ("dog", "zebra")),
        ("auto", ("person",), ("person",)),
        ("auto", (), VOC_CLASSES),
        ("voc", ("dog",), VOC_CLASSES),
        (("dog", "cat"), ("cat",), ("dog", "cat")),
    ],
)
def test_class_names(devkit, asked, found, names):
    devkit.add("a", "".join(an_object(name) for name in found))
    devkit.list("a")
    data = devkit.load("2007_train", asked)
    assert data.class_names == names
    assert data[0].classes.tolist() == [names.index(name) + 1 for name in found]


def test_unknown_class_names_file_name_and_closest(devkit):
    devkit.add("a", an_object("motorbyke"))
    devkit.list("a")
    with pytest.raises(DataError, match=r"a\.xml: unknown class 'motorbyke'.*'motorbike'$"):
        devkit.load("2007_train", "voc")
    devkit.add("a", an_object("sheep"))
    with pytest.raises(DataError, match=r"unknown class 'sheep'.*class_names=voc"):
        devkit.load("2007_train", ("ship",))


def test_a_run_keeps_the_class_names_of_its_config(devkit):
    """Configs from before `auto` meant the classes that occur have all 20."""
    devkit.add("a", an_object("person"))
    devkit.list("a")
    data = DataConfig(dataset="voc", root=str(devkit.root))
    for names in (VOC_CLASSES, ("person", "zebra")):
        assert open_dataset(replace(data, class_names=names), "2007_train").class_names == names


@pytest.mark.parametrize("names", [(), ("dog", "dog"), "dog"])
def test_bad_class_lists(devkit, names):
    devkit.add("a", an_object())
    devkit.list("a")
    with pytest.raises(DataError, match="class"):
        devkit.load("2007_train", names)


# Image sets


def test_years_keep_plain_ids_where_they_do_not_clash(devkit):
    devkit.add("000012", year="2007")
    devkit.add("2008_000003", year="2012")
    devkit.list("000012", year="2007", split="trainval")
    devkit.list("2008_000003", year="2012", split="trainval")
    data = devkit.load("2007_trainval+2012_trainval")
    assert [r.image_id for r in data.records] == ["000012", "2008_000003"]
    assert [r.path.parts[-3] for r in data.records] == ["VOC2007", "VOC2012"]
    assert data.name == "2007_trainval+2012_trainval"


def test_years_with_clashing_stems_get_the_year(devkit):
    for year in ("2007", "2012"):
        for stem in ("000012", "2007_000012"):
            devkit.add(stem, year=year)
        devkit.list("000012", "2007_000012", year=year)
    ids = [r.image_id for r in devkit.load("2007_train+2012_train").records]
    assert ids == ["2007_000012", "2007_2007_000012", "2012_000012", "2012_2007_000012"]


def test_vocdevkit_folder(tmp_path):
    inner = Devkit(tmp_path / "VOCdevkit")
    inner.add("a")
    inner.list("a")
    assert len(load_voc(tmp_path, "2007_train")) == 1


@pytest.mark.parametrize("imageset", ["2007_tranval", "2012_train", "train", "", "2007_train+"])
def test_unknown_image_set_lists_what_is_there(devkit, imageset):
    devkit.add("a")
    for split in ("train", "my_split", "dog_train"):
        devkit.list("a", split=split)
    with pytest.raises(DataError, match=r"there is: 2007_my_split, 2007_train$"):
        devkit.load(imageset)


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="no image set"):
        load_voc(tmp_path / "nowhere", "2007_train")


def test_list_of_a_class_leaves_out_the_negatives(devkit):
    for stem in "abc":
        devkit.add(stem)
    devkit.list("a  1", "b -1", "c  0", split="dog_train")
    assert [r.image_id for r in devkit.load("2007_dog_train").records] == ["a", "c"]


@pytest.mark.parametrize(
    ("stems", "lines", "found"),
    [
        (("IMG 1", "photo -1"), ("IMG 1", "photo -1"), ("IMG 1", "photo -1")),
        (("a", "photo -1", "IMG 0"), ("a", "photo -1", "IMG 0"), ("a", "photo -1", "IMG 0")),
        (("IMG 1", "IMG 2", "b"), ("IMG 1  1", "IMG 2 -1", "b 0"), ("IMG 1", "b")),
        (("IMG", "IMG 1"), ("IMG 1",), ("IMG 1",)),
    ],
)
def test_names_with_spaces(devkit, stems, lines, found):
    for stem in stems:
        devkit.add(stem)
    devkit.list(*lines)
    assert tuple(r.image_id for r in devkit.load().records) == found


def test_a_missing_image_whose_name_ends_in_a_number_is_named(devkit):
    devkit.add("IMG 1")
    devkit.list("IMG 1", "IMG -1")
    with pytest.raises(DataError, match=r"IMG -1\.xml: no such annotation"):
        devkit.load()


def test_list_with_byte_order_mark_blank_lines_and_crlf(devkit):
    devkit.add("a")
    devkit.add("b")
    (devkit.folder("2007", "ImageSets/Main") / "train.txt").write_bytes(
        b"\xef\xbb\xbfa\r\n\r\nb \r\n"
    )
    assert [r.image_id for r in devkit.load().records] == ["a", "b"]


def test_repeated_image_is_named(devkit):
    devkit.add("a")
    devkit.list("a", "a")
    with pytest.raises(DataError, match="more than once: a"):
        devkit.load()


def test_empty_and_undecodable_lists(devkit):
    devkit.list()
    with pytest.raises(DataError, match=r"train\.txt: lists no images"):
        devkit.load()
    (devkit.folder("2007", "ImageSets/Main") / "train.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataError, match=r"train\.txt: not UTF-8"):
        devkit.load()


@pytest.mark.parametrize("stem", ["../../secret", "/etc/secret", "sub/../../x", "C:\\x", "..\\x"])
def test_ids_stay_in_their_folder(devkit, stem):
    devkit.add("a")
    devkit.list("a", stem)
    with pytest.raises(DataError, match="bad image id"):
        devkit.load()
    assert [r.image_id for r in devkit.load(skip_bad=True).records] == ["a"]


def test_names_in_the_xml_are_not_followed(devkit):
    devkit.add(
        "a", "<folder>/etc</folder><filename>../../passwd</filename><path>/etc/passwd</path>"
    )
    devkit.list("a")
    assert devkit.load()[0].path == devkit.root / "VOC2007/JPEGImages/a.jpg"


@pytest.mark.parametrize("ending", [".jpeg", ".png", ".bmp", ".JPG", ".PNG"])
def test_other_endings(devkit, ending):
    devkit.add("a", ending=ending)
    devkit.list("a")
    assert devkit.load()[0].path.name == "a" + ending


# Broken input

BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><folder>&b;</folder></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<annotation><folder>&a;</folder></annotation>"
)
BROKEN_XML = {
    "zero bytes": ("", "broken XML"),
    "cut short": ("<annotation><object>", "broken XML"),
    "entity bomb": (BOMB, "EntitiesForbidden"),
    "external entity": (EXTERNAL, "EntitiesForbidden"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "XML"),
    "other document": ("<svg></svg>", "<svg>"),
    "no name": (f"<annotation>{an_object('')}</annotation>", "object 1: name is missing"),
    "no box": ("<annotation><object><name>dog</name></object></annotation>", "bndbox/xmin is miss"),
    "one corner missing": (
        f"<annotation>{an_object()}{an_object().replace('<ymax>60</ymax>', '')}</annotation>",
        "object 2: bndbox/ymax is missing",
    ),
    "word": (f"<annotation>{an_object(box=(1, 'two', 3, 4))}</annotation>", "bndbox/ymin.*'two'"),
    "NaN": (f"<annotation>{an_object(box=(1, 2, 'nan', 4))}</annotation>", "bndbox/xmax.*'nan'"),
    "infinite": (f"<annotation>{an_object(box=(1, 2, '1e999', 4))}</annotation>", "1e999"),
    "bad flag": (
        f"<annotation>{an_object(extra='<difficult>yes</difficult>')}</annotation>",
        "object 1: difficult is not a finite number: 'yes'",
    ),
    "bad size": (
        "<annotation><size><width>wide</width><height>1</height></size></annotation>",
        "size/width.*'wide'",
    ),
    "unknown class": (f"<annotation>{an_object('cta')}</annotation>", "'cta'.*'cat'"),
}


@pytest.mark.parametrize("kind", BROKEN_XML)
def test_broken_xml(devkit, kind):
    xml, reason = BROKEN_XML[kind]
    devkit.add("good", an_object())
    devkit.add("bad", xml=xml)
    devkit.list("good", "bad")
    with pytest.raises(DataError, match=rf"bad\.xml: .*{reason}"):
        devkit.load("2007_train", "voc")
    data = devkit.load("2007_train", "voc", skip_bad=True)
    assert [r.image_id for r in data.records] == ["good"]
    assert len(data.notes.skipped) == 1
    assert "bad.xml" in data.notes.skipped[0]


def test_missing_xml(devkit):
    devkit.add("a", an_object())
    devkit.add("b").unlink()
    devkit.list("a", "b")
    with pytest.raises(DataError, match=r"b\.xml: no such annotation"):
        devkit.load()
    data = devkit.load(require_annotations=False)
    assert [len(r) for r in data.records] == [1, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such image"), (b"", "not a readable image"), (b"hello" * 50, "not a readable")],
)
def test_bad_images(devkit, content, reason):
    devkit.add("good")
    devkit.add("bad")
    devkit.list("good", "bad")
    image = devkit.folder("2007", "JPEGImages") / "bad.jpg"
    image.unlink()
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.jpg: {reason}"):
        devkit.load()
    assert [r.image_id for r in devkit.load(skip_bad=True).records] == ["good"]


def test_nothing_usable_is_an_error_even_with_skip_bad(devkit):
    devkit.add("a", xml="")
    devkit.list("a")
    with pytest.raises(DataError, match=r"no usable image.*a\.xml"):
        devkit.load(skip_bad=True)


@pytest.mark.parametrize(("size", "count"), [((100, 80), 0), ((0, 0), 0), ((200, 160), 1)])
def test_the_header_is_the_truth(devkit, size, count):
    devkit.add("a", f"<size><width>{size[0]}</width><height>{size[1]}</height></size>")
    devkit.list("a")
    data = devkit.load()
    assert (data[0].height, data[0].width) == (80, 100)
    assert data.notes.size_mismatch == count


def test_a_skipped_image_counts_nowhere_else(devkit):
    size = "<size><width>9</width><height>9</height></size>"
    devkit.add("a", size + an_object(box=(0, 0, 999, 999)) + an_object("yeti"))
    devkit.add("b")
    devkit.list("a", "b")
    notes = devkit.load("2007_train", "voc", skip_bad=True).notes
    assert (notes.clipped, notes.dropped, notes.size_mismatch, len(notes.skipped)) == (0, 0, 0, 1)


# Images


def save_turned(path, orientation):
    """A 60x40 image (width x height) whose stored top left quarter is white."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    save_turned(path, orientation)
    assert image_size(path) == (40, 60) == read_image(path).shape[:2]
    expected = (60, 40) if orientation >= 5 else (40, 60)
    assert image_size(path, exif_orientation=True) == expected
    upright = read_image(path, exif_orientation=True)
    assert upright.shape[:2] == expected
    white_corner = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    corners = upright[[2, 2, -3, -3], [2, -3, 2, -3], 0]
    assert corners.argmax() == white_corner


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize("tag", [1, 6])
@pytest.mark.parametrize("stated", [(40, 60), (60, 40)])
def test_a_swapped_size_is_an_error_that_names_the_setting(devkit, exif, tag, stated):
    """Boxes of a rotated image would be clipped to it, and be wrong."""
    size = f"<size><width>{stated[1]}</width><height>{stated[0]}</height></size>"
    devkit.add("good")
    devkit.add("a", size + an_object(box=(1, 1, 30, 55)))
    devkit.list("good", "a")
    save_turned(devkit.root / "VOC2007/JPEGImages/a.jpg", tag)
    if stated == ((60, 40) if exif and tag == 6 else (40, 60)):
        record = devkit.load(exif_orientation=exif)[1]
        assert (record.height, record.width) == stated
        return
    advice = f"exif_orientation={str(not exif).lower()} " if tag == 6 else "exif_orientation cannot"
    with pytest.raises(
        DataError, match=rf"a\.jpg: the file is .* but annotated as .* pixels; .*{advice}"
    ):
        devkit.load(exif_orientation=exif)
    skipping = devkit.load(exif_orientation=exif, skip_bad=True)
    assert [record.image_id for record in skipping.records] == ["good"]
    assert advice in skipping.notes.skipped[0]
    assert skipping.notes.clipped == skipping.notes.size_mismatch == 0


def test_voc_with_exif_orientation(devkit):
    devkit.add("a")
    save_turned(devkit.root / "VOC2007/JPEGImages/a.jpg", 6)
    devkit.list("a")
    assert (devkit.load()[0].height, devkit.load()[0].width) == (40, 60)
    turned = devkit.load(exif_orientation=True)[0]
    assert (turned.height, turned.width) == (60, 40)


def modes():
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[...] = (200, 100, 50)
    rgb = Image.fromarray(colour)
    grey = np.full((4, 5, 3), 77, np.uint8)
    clear = rgb.convert("RGBA")
    clear.putalpha(0)
    wide = Image.fromarray(np.full((4, 5), 77 * 256 + 255, np.uint16))
    palette = rgb.quantize(4)
    return {
        "rgb": (rgb, "png", colour),
        "grey": (Image.fromarray(grey[:, :, 0]), "png", grey),
        "one bit": (Image.new("1", (5, 4), 1), "png", np.full((4, 5, 3), 255, np.uint8)),
        "alpha dropped": (clear, "png", colour),
        "grey with alpha": (Image.new("LA", (5, 4), (77, 9)), "png", grey),
        "palette": (palette, "png", colour),
        "gif": (palette, "gif", colour),
        "16-bit grey": (wide, "png", grey),
        "16-bit tiff": (wide, "tif", grey),
        "cmyk": (rgb.convert("CMYK"), "tif", colour),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_mode_becomes_rgb(tmp_path, mode):
    image, ending, expected = modes()[mode]
    path = tmp_path / f"a.{ending}"
    image.save(path)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_allclose(pixels.astype(int), expected, atol=1)


@pytest.mark.filterwarnings("error")
def test_palette_with_transparent_entries(tmp_path):
    path = tmp_path / "a.png"
    image = Image.new("P", (5, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(path, transparency=b"\x00\x00")
    assert (read_image(path) == (200, 100, 50)).all()


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: floating-point"):
        read_image(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 5), 70000, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(DataError, match=r"wide\.tif: grey values 70000"):
        read_image(tmp_path / "wide.tif")


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_truncated_image(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert image_size(path) == (64, 64)
    with pytest.raises(DataError, match=rf"a\.{ending}: not a readable image"):
        read_image(path)


def test_only_known_formats_are_opened(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").format == "EPS"
    with pytest.raises(DataError, match="not a readable image"):
        image_size(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "/a", "b/../../a", "C:/a", "..\\a", "a\0b"]
)
def test_path_inside_refuses(tmp_path, name):
    with pytest.raises(ValueError, match="not a file name inside"):
        path_inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a.jpg", "b/a.jpg", "a..b.jpg", "...jpg"])
def test_path_inside_accepts(tmp_path, name):
    assert path_inside(tmp_path, name) == tmp_path / name


def test_data_modules_do_not_import_mxnet():
    modules = "mxrcnn.data.voc, mxrcnn.data.coco, mxrcnn.data.synthetic"
    code = f"import sys, {modules}; sys.exit('mxnet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nzebra:::\ndog:1,2,3::\n",
            "zebra dog",
        ),
        ("\ufeffcow\n\n", "cow dog"),  # a class that is not declared comes last
        ("# nothing\n", "dog"),
    ],
)
def test_labelmap_declares_the_classes(devkit, text, names):
    devkit.add("a", an_object())
    devkit.list("a")
    (devkit.root / "VOC2007" / "labelmap.txt").write_text(text, encoding="utf-8")
    assert devkit.load().class_names == tuple(names.split())
    assert devkit.load(class_names=("dog",)).class_names == ("dog",)


@pytest.mark.parametrize("text", ["a::\nb::\na::\n", ":1,2,3::\n"])
def test_a_broken_labelmap(devkit, text):
    devkit.add("a", an_object())
    devkit.list("a")
    (devkit.root / "VOC2007" / "labelmap.txt").write_text(text)
    with pytest.raises(DataError, match=r"labelmap.txt: class '\w?' is empty or occurs twice"):
        devkit.load()
