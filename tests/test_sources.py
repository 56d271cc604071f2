"""Sources of images: what the words of a command line name, and in which order."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mxrcnn.config import ConfigError
from mxrcnn.data.records import DataError
from mxrcnn.inference.sources import Every, Sources, natural
from tests.factories import noise


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/{img1,img2,img10}.jpg, photos/sub/img2.png, other files; the folder above is here."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("img10.jpg", "img2.JPG", "img1.jpg", "sub/img2.png", "a[1].jpg", ".hidden.jpg"):
        noise((8, 8)).save(folder / name, "PNG")
    (folder / "notes.xml").write_text("<a/>")
    (folder / "LICENSE").write_text("")
    (folder / "list.txt").write_text("\ufeffimg10.jpg\n\nsub/img2.png\nphotos/img1.jpg\nnone.jpg\n")
    monkeypatch.chdir(tmp_path)
    return folder


ALL = ["a[1].jpg", "img1.jpg", "img2.JPG", "img10.jpg", "sub/img2.png"]


@pytest.mark.parametrize(
    ("words", "names", "notes"),
    [
        (["photos/img1.jpg"], ["img1.jpg"], 0),
        (["photos"], ALL, 2),
        (["photos/*.jpg"], ["a[1].jpg", "img1.jpg", "img10.jpg"], 0),
        (["photos/a[1].jpg"], ["a[1].jpg"], 0),
        (["photos/**/*"], ALL, 1),
        (["phot*"], [f"photos/{name}" for name in ALL], 2),
        (["photos/list.txt"], ["img10.jpg", "sub/img2.png", "photos/img1.jpg", "none.jpg"], 0),
        (["photos/img1.jpg", "photos", "./photos/*.jpg"], ["img1.jpg", *ALL[:1], *ALL[2:]], 3),
    ],
)
def test_names(photos, words, names, notes):
    sources = Sources(words)
    assert [source.name for source in sources] == names
    assert [source.name for source in sources] == names  # it may be iterated over again
    assert (sources.total, len(sources.notes)) == (len(names), notes)


def test_what_is_left_out_is_said(photos):
    assert Sources(["photos", "photos/img1.jpg"]).notes == [
        "1 files were named more than once and are kept once",
        "1 hidden files and folders were left out",
        "3 other files were left out: 1 .txt, 1 .xml, 1 without suffix",
    ]


def test_a_circle_of_links_ends(photos):
    (photos / "sub" / "up").symlink_to(photos)
    assert [source.name for source in Sources(["photos"])] == ALL


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("none/a.jpg", "none is not there either"),
        ("photos/none.jpg", "photos is there"),
        ("photos/*.gif", "no image or video matches it below .*photos/? "),
        ("empty", "no image or video in it, nor below .*there are 1 .csv"),
        ("empty.txt", "lists no paths"),
        ("-", "standard input is empty"),
    ],
)
def test_words_that_name_nothing(photos, word, message):
    (photos.parent / "empty").mkdir()
    (photos.parent / "empty" / "a.csv").write_text("")
    (photos.parent / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=message):
        Sources(["photos/img1.jpg", word], stdin=io.BytesIO(b""))


def test_standard_input(photos):
    image = (photos / "img1.jpg").read_bytes()
    ((name, data),) = [(s.name, s.image) for s in Sources(["-"], stdin=io.BytesIO(image))]
    assert (name, data) == ("stdin", image)
    paths = Sources(["-"], stdin=io.BytesIO(b"photos/img1.jpg\r\n../up.jpg\n/x/caf\xe9.jpg\n"))
    assert [s.name for s in paths] == ["photos/img1.jpg", "up.jpg", "caf\ufffd.jpg"]
    assert next(s.image for s in paths) == "photos/img1.jpg"


def test_natural_order():
    names = ["b", "a10", "a2", "a", "10", "9", "a2b"]
    assert sorted(names, key=natural) == ["9", "10", "a", "a2", "a2b", "a10", "b"]


# --- videos -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "every"), [("10", Every(10)), ("0.5s", Every(seconds=0.5)), ("2s", Every(seconds=2.0))]
)
def test_every(text, every):
    assert Every.parse(text) == every


@pytest.mark.parametrize("text", ["", "0", "-1", "s", "0s", "nans", "infs", "1.5", "x"])
def test_every_that_is_none(text):
    with pytest.raises(ConfigError, match="--every"):
        Every.parse(text)


class FakeVideo:
    """Stands for PyAV: 25 frames a second; breaks off after `count` frames."""

    FFmpegError = type("FFmpegError", (Exception,), {})

    def __init__(self, count: int, broken: bool = False) -> None:
        self.count, self.broken = count, broken
        self.streams = SimpleNamespace(video=[0])

    def open(self, path):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def decode(self, video):
        for k in range(self.count):
            pixels = np.full((2, 2, 3), k, np.uint8)
            yield SimpleNamespace(time=3 + k / 25, to_ndarray=lambda format, p=pixels: p)
        if self.broken:
            raise self.FFmpegError("it breaks off")


@pytest.mark.parametrize(
    ("every", "taken"),
    [("10", [0, 10, 20]), ("0.5s", [0, 13, 25]), ("0.2s", [0, 5, 10, 15, 20, 25]), ("9s", [0])],
)
def test_frames_of_a_video(photos, monkeypatch, every, taken):
    """By number, or the first at or after each multiple of a time from the first frame."""
    monkeypatch.setitem(sys.modules, "av", FakeVideo(27))
    (photos / "sub" / "clip.mp4").write_bytes(b"")
    sources = Sources(["photos/sub"], Every.parse(every))
    found = list(sources)[:-1]  # img2.png comes last
    assert sources.total is None
    assert [source.name for source in found] == [f"clip_{k:06d}.png" for k in taken]
    assert [source.image[0, 0, 0] for source in found] == taken


@pytest.mark.parametrize(("count", "place"), [(0, "at its start"), (2, "after frame 1")])
def test_a_video_that_breaks_off(photos, monkeypatch, count, place):
    monkeypatch.setitem(sys.modules, "av", FakeVideo(count, broken=True))
    (photos / "clip.mp4").write_bytes(b"")
    *good, last = Sources(["photos/clip.mp4"])
    assert len(good) == count
    assert isinstance(last.image, DataError)
    assert f"{place}: it breaks off" in str(last.image)


def test_videos_need_pyav(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (photos / "clip.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"videos need PyAV: pip install '\.\[video\]'"):
        list(Sources(["photos/clip.mp4"]))
