"""`mxrcnn predict`: many sources, bad files, thresholds, what it prints and saves."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mxrcnn.cli import main
from mxrcnn.config import ConfigError, override
from mxrcnn.data.images import read_image
from mxrcnn.data.records import DataError, Dataset
from mxrcnn.data.transforms import count_reduced
from mxrcnn.inference.predictor import Wanted
from mxrcnn.inference.sources import Source
from mxrcnn.inference.stream import EngineError, detect_stream
from mxrcnn.inference.thresholds import parse_thresholds
from symnet.geometry.masks import decode
from tests.factories import make_record
from tests.test_export import make_detector
from tests.threads import FAMILIES, SIZES, images, same
from tests.threads import dataset as save


@pytest.fixture(scope="module")
def predictor():
    return make_detector(FAMILIES[0], {})


@pytest.fixture(scope="module")
def masks():
    """A detector that finds masks."""
    return make_detector(FAMILIES[1], {})


@pytest.fixture
def predict(predictor, monkeypatch, capfd, tmp_path):
    """Runs the command with a small detector; returns exit code, output, errors."""
    monkeypatch.setattr("mxrcnn.cli.predict._load", lambda args: predictor)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main(["predict", "run", *map(str, words)])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def photos(tmp_path):
    """photos/{0..5}.png of four shapes, and the same names in more/; photos/2b.png is broken."""
    for folder in (tmp_path / "photos", tmp_path / "more"):
        folder.mkdir()
        save(folder, images())
    (tmp_path / "photos" / "2b.png").write_bytes(b"no image")
    return tmp_path / "photos"


# --- the stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (2, 3), (8, 2)])
def test_a_stream_is_what_predict_finds(predictor, batch_size, threads):
    """In order, whatever the shapes, with bad ones at the start, in the middle and at the end."""
    pixels = images(SIZES)
    given = [b"", *pixels[:3], DataError("clip", "breaks off"), pixels[0], *pixels[3:], b"x", b"y"]
    sources = [Source(str(k), str(k), image) for k, image in enumerate(given)]
    looked = list(detect_stream(predictor, sources, Wanted(), "upright", batch_size, threads))
    assert [item.source for item in looked] == sources
    for item, image in zip(looked, given):
        if isinstance(image, np.ndarray):
            expected = predictor.predict(image)
            np.testing.assert_allclose(item.found.scores, expected.scores, atol=1e-5)
            assert batch_size > 1 or same(item.found, expected)
            assert item.pixels is image
        else:
            assert isinstance(item.error, DataError)
    assert list(detect_stream(predictor, sources[-2:], Wanted()))[1].error is not None
    assert list(detect_stream(predictor, [], Wanted())) == []


def test_a_large_jpeg_is_seen_as_in_a_test(predictor, tmp_path, predict):
    """It is decoded at reduced size, by all ways to the same bits; pictures have all its pixels."""
    short = predictor.config.data.short_side
    photo = Image.fromarray(images()[0]).resize((8 * short, 4 * short), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.jpg", quality=95)
    whole = read_image(tmp_path / "a.jpg")
    source = Source("a", "a", str(tmp_path / "a.jpg"))
    (drawn,) = detect_stream(predictor, [source], Wanted())
    (plain,) = detect_stream(predictor, [source], Wanted(), pixels=False)
    record = make_record("a", whole.shape[:2], path=tmp_path / "a.jpg")
    ((_, tested, _),) = predictor.detect(Dataset("a", predictor.class_names, (record,)))
    assert count_reduced([record], predictor.config.data) == 1
    assert len(tested)
    assert tested.size == whole.shape[:2]
    for found in (drawn.found, plain.found, predictor.predict(tmp_path / "a.jpg")):
        assert same(found, tested)
    assert (drawn.reduced, plain.reduced, plain.pixels) == (4, 4, None)
    np.testing.assert_array_equal(drawn.pixels, whole)
    assert not same(tested, predictor.predict(whole))
    code, _, err = predict(tmp_path / "a.jpg")
    assert (code, "1 large JPEGs were decoded at 1/2, 1/4 or 1/8" in err) == (0, True)


def test_few_images_are_in_memory(predictor):
    """A source is asked for its next image only shortly before that is needed."""
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield Source("a", "a", np.zeros((60, 60, 3), np.uint8))

    stream = detect_stream(predictor, endless(), Wanted(), threads=2, batch_size=2)
    for _ in range(10):
        next(stream)
    stream.close()
    assert len(asked) <= 10 + 2 + 3 * 2


class Faulty:
    """An engine that fails on bright images, at the start or, as MXNet does, when it is asked."""

    def __init__(self, engine, late):
        self.engine, self.late, self.names = engine, late, engine.names

    def start(self, **inputs):
        if not (inputs["data"] > 1e6).any():
            return self.engine.start(**inputs)
        if self.late:
            return SimpleNamespace(result=self.fail)
        return self.fail()

    def fail(self):
        raise RuntimeError("Traceback (most recent call last):\nMXNetError: too bright")


@pytest.fixture
def faulty(predictor, monkeypatch):
    """Makes the network fail on white images, at the start or late."""

    def make(late=True):
        std = predictor.config.data.std
        bright = override(predictor.config, {"data.std": (1e-9, *std[1:])})
        monkeypatch.setattr(predictor, "config", bright)
        monkeypatch.setattr(predictor, "engine", Faulty(predictor.engine, late))

    return make


def picture(value, size=(60, 60)):
    return np.full((*size, 3), value, np.uint8)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_failure_of_the_network_is_one_image_s(predictor, faulty, late, batch_size):
    faulty(late)
    white, black = picture(255), picture(0)
    given = [white, black, black, white, black, b"", black, white]
    sources = [Source(str(k), f"{k}.png", image) for k, image in enumerate(given)]
    with pytest.warns() if batch_size > 1 else nullcontext() as warned:
        looked = list(detect_stream(predictor, sources, Wanted(), batch_size=batch_size))
    assert [item.source for item in looked] == sources
    failed = [item.error for item in looked if isinstance(item.error, EngineError)]
    told = "the network failed on this image: RuntimeError: too bright"
    assert [str(error) for error in failed] == [f"{k}.png: {told}" for k in (0, 3, 7)]
    assert [k for k, item in enumerate(looked) if item.found is not None] == [1, 2, 4, 6]
    if batch_size > 1:
        assert str(warned[0].message).endswith(
            "failed: RuntimeError: too bright; each is tried alone"
        )


# --- the command --------------------------------------------------------------------------------


def test_a_bad_file_among_good_ones(predict, photos):
    code, out, errors = predict("photos", "--save", "coco,yolo,voc,labelstudio,cvat,csv")
    assert code == 1
    assert out == ""
    assert "error: photos/2b.png: not a readable image" in errors
    assert "1 of 7 images failed" in errors
    assert len(list((photos.parent / "predictions/yolo/labels").iterdir())) == 6
    listed = json.loads((photos.parent / "predictions/predictions_images.json").read_text())
    assert [image["file_name"] for image in listed["images"]] == [f"{k}.png" for k in range(6)]
    assert predict("photos", "--save", "csv", "--strict")[0] == 1


@pytest.fixture
def mixed(tmp_path):
    """Makes pictures/00.png, ...: white ones, on which `faulty` fails, and black ones."""

    def make(letters):
        (tmp_path / "pictures").mkdir()
        for k, letter in enumerate(letters):
            pixels = picture({"w": 255, "b": 0}[letter])
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k:02}.png")

    return make


def test_failures_of_the_network_among_others(predict, mixed, faulty, tmp_path):
    mixed("w" * 9 + "b" + "w" * 9)
    faulty()
    code, _, errors = predict("pictures", "--save", "voc")
    assert code == 1
    assert "error: pictures/18.png: the network failed on this image" in errors
    assert "18 of 19 images failed" in errors
    assert [path.name for path in (tmp_path / "predictions/voc").iterdir()] == ["09.xml"]
    code, _, errors = predict("pictures", "--save", "voc", "--strict")
    assert (code, errors.count("error:")) == (1, 1)
    assert "error: pictures/00.png: the network failed" in errors


def test_a_network_that_always_fails_stops(predict, mixed, faulty, tmp_path):
    """What was found before is kept, also in formats of one file."""
    mixed("b" + "w" * 14)
    faulty()
    code, _, errors = predict("pictures", "--save", "coco,csv", "--threshold", 0)
    assert code == 1
    assert errors.count("the network failed on this image") == 10
    assert "stopped, because the network failed on 10 images in a row; 4 images were not" in errors
    found = json.loads((tmp_path / "predictions/predictions.json").read_text())
    assert {row["image_id"] for row in found} == {1}


def test_same_names_in_two_folders(predict, photos):
    (photos / "2b.png").unlink()
    code, _, errors = predict("photos", "more", "--save", "voc", "--draw", "--max-detections", 1)
    assert code == 0
    names = {f"{folder}/{k}" for k in range(6) for folder in ("photos", "more")}
    for folder, ending in (("voc", ".xml"), ("pictures", ".png")):
        place = photos.parent / "predictions" / folder
        made = {path.relative_to(place).as_posix() for path in place.rglob(f"*{ending}")}
        assert made == {name + ending for name in names}
    assert f"several images have the same name, so names begin below {photos.parent}" in errors
    assert "voc holds earlier files" in predict("more/1.png", "--save", "voc")[2]
    shutil.copy("photos/1.png", "photos/1.jpg")
    code, _, errors = predict("photos", "--save", "voc")
    assert "1 images share the name of another: their files end in ~2" in errors


def test_stream(predict, photos, predictor):
    code, out, _ = predict("photos", "--stream", "--threshold", 0, "--max-detections", 3)
    assert code == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [
        f"photos/{name}.png" for name in ("0", "1", "2", "2b", "3", "4", "5")
    ]
    assert rows[3].keys() == {"image", "error"}
    found = predictor.predict(photos / "0.png", max_detections=3).to_dict()
    assert rows[0] == {"image": "photos/0.png", **json.loads(json.dumps(found))}
    assert not (photos.parent / "predictions").exists()


def test_masks_of_the_command(predict, photos, masks, monkeypatch, tmp_path):
    """Formats without masks are named; polygons go to all that have them, and into the stream."""
    small = ["photos/3.png", "--max-detections", 2, "--threshold", 0]
    code, _, errors = predict(*small, "--masks", "polygons")
    assert code == 1
    assert "error: --masks polygons: run finds boxes, not masks" in errors
    monkeypatch.setattr("mxrcnn.cli.predict._load", lambda args: masks)
    assert "yolo, voc: boxes only" in predict(*small, "--save", "coco,yolo,voc,cvat")[2]
    code, out, errors = predict(
        *small, "--save", "coco,yolo,voc", "--masks", "polygons", "--stream"
    )
    assert code == 0
    assert "voc: boxes only, without masks" in errors
    rows = json.loads((tmp_path / "predictions/predictions.json").read_text())
    told = json.loads(out)["detections"]
    assert [row["segmentation"] for row in rows] == [row["mask"] for row in told]
    expected = masks.predict(photos / "3.png", max_detections=2)
    full, empty = (decode(mask, *expected.size) for mask in expected.masks)
    np.testing.assert_array_equal(decode(rows[0]["segmentation"], *expected.size), full)
    assert not empty.any()
    x1, y1, x2, y2 = expected.boxes[1].round(2).tolist()
    assert rows[1]["segmentation"] == [pytest.approx([x1, y1, x2, y1, x2, y2, x1, y2])]
    assert "1 objects have an empty mask" in errors


def test_what_is_printed_and_drawn_by_default(predict, photos):
    code, out, errors = predict("photos/0.png", "--threshold", 0, "--classes", "dog", 3)
    assert code == 0
    first, *rows = out.splitlines()
    assert re.fullmatch(rf"photos/0.png: {len(rows)} objects in 200 x 120 pixels, upright", first)
    assert {row.split()[0] for row in rows} == {"dog", "bird"}
    assert (photos.parent / "predictions" / "pictures" / "0.png").is_file()
    assert f"{len(rows)} objects in 1 images, written to predictions" in errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.25", (0.25, 0.25, 0.25)),
        ("dog=0.7", (0.5, 0.7, 0.5)),
        ("0.3, dog=0.7,bird=0", (0.3, 0.7, 0.0)),
    ],
)
def test_thresholds(predictor, text, expected):
    assert parse_thresholds(text, predictor).scores == expected
    image = images()[0]
    every = predictor.predict(image)
    limits = np.array(expected, np.float32)[every.classes - 1] * 0.2
    ((found),) = detect_stream(
        predictor, [Source("a", "a", image)], Wanted(tuple(x * 0.2 for x in expected))
    )
    assert same(found.found, every[every.scores >= limits])


@pytest.mark.parametrize("text", ["", "x", "best-f1", "dog=", "dgo=0.5"])
def test_thresholds_that_are_none(predictor, text):
    with pytest.raises(ConfigError, match=r"--threshold|closest of 3 is 'dog'"):
        parse_thresholds(text, predictor)


def test_tiles(predict, photos, predictor):
    """Large images in tiles, others whole, bad ones named; what is written is what Python gives."""
    words = ["--tile", 150, "--tile-scale", 1, "--overlap", 0.1, "--threshold", 0]
    code, out, errors = predict("photos", *words, "--stream", "--save", "csv")
    assert code == 1
    assert "error: photos/2b.png: not a readable image" in errors
    assert "tiles of 150 x 150 pixels that overlap by at least 10%, at scale 1: as given" in errors
    assert "1 images fit into a tile and were predicted whole" in errors
    rows = {row["image"]: row for row in map(json.loads, out.splitlines())}
    for name in ("photos/0.png", "photos/3.png"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = predictor.predict(photos.parent / name, tile=150, overlap=0.1, tile_scale=1)
        assert rows[name]["detections"] == json.loads(json.dumps(found.to_dict()["detections"]))
    assert (
        rows["photos/3.png"]["detections"]
        == predictor.predict(photos / "3.png").to_dict()["detections"]
    )


def test_a_network_that_fails_in_tiles(predict, photos, predictor, monkeypatch):
    (photos / "2b.png").unlink()
    start = predictor.engine.start
    monkeypatch.setattr(
        predictor.engine,
        "start",
        lambda **given: 1 / 0 if len(given["data"]) > 1 else start(**given),
    )
    code, _, errors = predict("photos", "--tile", 150, "--tile-scale", 1, "--save", "csv")
    assert code == 1
    assert "error: photos/0.png: the network failed on this image: ZeroDivisionError" in errors
    assert "5 of 6 images failed" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "json"], "no output format 'json'; there are: coco, csv"),
        (["--threshold", "dog=7"], "scores are from 0 to 1"),
        (["--batch-size", 0], "must be at least 1"),
        (["--every", "0"], "--every 0"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["--save", "voc", "--out", "photos/0.png"], "photos/0.png: cannot be made a folder: "),
        (["clip.mp4"], "clip.mp4: videos need PyAV: "),
        (["--ids", "none.json", "--save", "coco"], "none.json: unreadable"),
        (["--tile", "auto"], "does not say at what scale it was trained"),
        (["--tile", "ten"], "tile='ten': expected a number of pixels"),
        (["--tile", 100, "--overlap", 1], "overlap=1.0: expected a share from 0 to 0.9"),
        (["--overlap", 0.3], "--overlap and --tile-scale are for --tile N"),
    ],
)
def test_mistakes(predict, photos, words, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (photos.parent / "clip.mp4").write_bytes(b"")
    code, _, errors = predict("photos/0.png", *words)
    assert code == 1
    assert f"error: {message}" in errors or message in errors
    assert errors.count("error: ") == 1


def test_options_that_change_nothing_are_named(predict, photos):
    words = ["--yolo-scores", "--image-url", "x", "--classes", "dog,3", "--save", "csv"]
    words += ["--threshold", "1e-5"]
    code, _, errors = predict("photos/0.png", *words)
    assert code == 0
    assert "--yolo-scores changes nothing without --save yolo" in errors
    assert "--image-url changes nothing without --save labelstudio" in errors
    assert "scores below 0.001 are never found: the network's own score_thresh" in errors
