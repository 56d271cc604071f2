"""Where images come from: files, folders, globs, lists, videos and standard input, as one stream.

Paths are listed first, without opening them. Images are passed on as paths, bytes or single frames,
so 20,000 of them take no more memory than their names.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from mxrcnn.config import ConfigError
from mxrcnn.data.formats.pairs import ENDINGS
from mxrcnn.data.records import DataError
from symnet.machine.install import install_extra

if TYPE_CHECKING:
    from mxrcnn.data.pictures import Picture

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One image to look at.

    name: relative to the folder or list that was given, such as `day1/a.jpg`. where: for messages.
    image: what read_pixels takes, or the error with which a video broke off.
    """

    name: str
    where: str
    image: Picture | DataError


@dataclass(frozen=True)
class Every:
    """Which frames of a video: one in `frames`, or one every `seconds`."""

    frames: int = 1
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Every:
        """Read `10` (frames) or `0.5s` (seconds). Raises ConfigError."""
        try:
            if text.endswith("s"):
                every = cls(seconds=float(text[:-1]))
                if not 0 < every.seconds < float("inf"):
                    raise ValueError
                return every
            if int(text) < 1:
                raise ValueError
            return cls(int(text))
        except ValueError:
            raise ConfigError(
                f"--every {text}: expected a number of frames, as in 10, or seconds, as in 0.5s"
            ) from None

    def interval(self, number: int, time: float) -> int:
        """The interval of a frame by its number and time (s); the first frame of each is taken."""
        if self.seconds is None:
            return number // self.frames
        return int((time + 1e-9) // self.seconds)


class Sources:
    """The images that some words of a command line name, to iterate over once or more.

    words: files, folders (searched through and through), globs, `.txt` lists of paths, `-` for
    standard input, which holds paths or one image. Images come in the order of the words; inside a
    folder or glob in natural order (img2 before img10). A file that several words name is kept
    once. Standard input is read to its end first.

    Names are relative to the folder or list that was given; if that makes two the same, all are
    relative to the folder that holds all.
    `notes` says what was left out. `total` is the number of images, None if there are videos.
    Raises DataError for a word that names nothing, saying where it looked, and ConfigError for
    videos without PyAV.
    """

    def __init__(
        self, words: Iterable[str], every: Every | None = None, stdin: BinaryIO | None = None
    ) -> None:
        self._every = every or Every()
        self._stdin = stdin
        self._others: Counter[str] = Counter()
        self._hidden = 0
        self._entries: list[tuple[str, str | bytes]] = []
        seen: set[str] = set()
        repeated = 0
        for word in words:
            for name, place in self._named(word):
                real = os.path.realpath(place) if isinstance(place, str) else STDIN
                repeated += real in seen
                if real not in seen:
                    seen.add(real)
                    self._entries.append((name, place))
        if any(map(_is_video, self._entries)):
            _av(next(place for _, place in filter(_is_video, self._entries)))
        common = _make_unique(self._entries)
        counts = [(repeated, "files were named more than once and are kept once")]
        counts.append((self._hidden, "hidden files and folders were left out"))
        others = f"other files were left out: {self._kinds()}"
        counts.append((sum(self._others.values()), others))
        self.notes = [f"{count} {what}" for count, what in counts if count]
        if common:
            self.notes.append(f"several images have the same name, so names begin below {common}")
        self.total = None if any(map(_is_video, self._entries)) else len(self._entries)

    def __iter__(self) -> Iterator[Source]:
        for entry in self._entries:
            name, place = entry
            if _is_video(entry):
                yield from frames(_text(name), place, self._every)
            else:
                where = _text(place) if isinstance(place, str) else "standard input"
                yield Source(_text(name), where, place)

    def _named(self, word: str) -> list[tuple[str, str | bytes]]:
        """(name, path or bytes) of all that a word names."""
        if word == STDIN:
            return self._standard_input()
        if os.path.isdir(word):
            return self._folder(word)
        if word.lower().endswith(".txt") and os.path.isfile(word):
            return _listed(Path(word).read_bytes(), word, os.path.dirname(word))
        if os.path.lexists(word):
            return [(os.path.basename(word), word)]
        if glob.has_magic(word):
            return self._glob(word)
        parent = os.path.dirname(os.path.abspath(word))
        there = "is there" if os.path.isdir(parent) else "is not there either"
        raise DataError(word, f"no such file or folder (the folder {parent} {there})")

    def _standard_input(self) -> list[tuple[str, str | bytes]]:
        data = (self._stdin or sys.stdin.buffer).read()
        if not data.strip():
            raise DataError(STDIN, "standard input is empty; expected paths, or one image")
        if b"\0" in data[:4096] or data[:2] in (b"\xff\xd8", b"\x89P", b"BM", b"P6", b"P5"):
            return [("stdin", data)]
        return _listed(data, "standard input", "")

    def _folder(self, folder: str) -> list[tuple[str, str | bytes]]:
        found = list(self._walk(folder, "", ()))
        if not found:
            raise DataError(folder, f"no image or video in it, nor below{self._what_else()}")
        return found

    def _what_else(self) -> str:
        there = f"; there are {self._kinds()}" if self._others else ""
        return f" (looked for {' '.join(ENDINGS + VIDEOS)}{there})"

    def _kinds(self) -> str:
        """The files that were left out, such as `10 .xml, 1 .md`."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self._others.items()))

    def _walk(self, folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """(name, path) of images and videos, files before folders; a link in a circle ends."""
        real = os.path.realpath(folder)
        if real in above:
            return
        try:
            items = sorted(os.scandir(folder), key=lambda item: (item.is_dir(), natural(item.name)))
        except OSError as error:
            raise DataError(folder, f"unreadable folder: {error}") from error
        for item in items:
            if item.name.startswith("."):
                self._hidden += 1
            elif item.is_dir():
                yield from self._walk(item.path, f"{prefix}{item.name}/", (*above, real))
            elif self._wanted(item.path):
                yield prefix + item.name, item.path

    def _wanted(self, path: str) -> bool:
        """True for an image or video by its suffix; others are counted."""
        suffix = os.path.splitext(path)[1].lower()
        if suffix in ENDINGS + VIDEOS:
            return True
        self._others[suffix or "without suffix"] += 1
        return False

    def _glob(self, pattern: str) -> list[tuple[str, str | bytes]]:
        hits = sorted(glob.glob(pattern, recursive=True), key=natural)
        root = os.path.join(*_plain_parts(pattern), "")
        found: list[tuple[str, str | bytes]] = []
        for hit in hits:
            name = os.path.relpath(hit, root or ".")
            if not os.path.isdir(hit):
                found += [(name, hit)] if self._wanted(hit) else []
            elif "**" not in pattern:  # else its files are hits themselves
                found += self._walk(hit, "" if name == "." else f"{name}/", ())
        if not found:
            looked = f"no image or video matches it below {os.path.abspath(root or '.')}"
            raise DataError(pattern, looked + self._what_else())
        return found


def frames(name: str, path: str, every: Every) -> Iterator[Source]:
    """The chosen frames of a video, decoded one by one by PyAV.

    A frame's name ends in its number, from 0. If the video breaks off, the last source holds the
    error. Raises ConfigError without PyAV.
    """
    av = _av(path)
    stem = os.path.splitext(name)[0]
    number = -1
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            first, before = None, None
            for number, frame in enumerate(container.decode(video=0)):
                if every.seconds is not None and frame.time is None:
                    raise ValueError("its frames have no times: use --every with a number")
                first = frame.time if first is None else first
                time = (frame.time or 0.0) - (first or 0.0)
                interval = every.interval(number, time)
                if interval != before:
                    before = interval
                    where = f"{_text(path)} frame {number} ({time:.3f} s)"
                    pixels = frame.to_ndarray(format="rgb24")
                    yield Source(f"{stem}_{number:06d}.png", where, pixels)
        if number < 0:
            raise ValueError("it has no frame")
    except (av.FFmpegError, ValueError, OSError) as error:
        place = f"after frame {number}" if number >= 0 else "at its start"
        broken = DataError(path, f"not a readable video, {place}: {error}")
        yield Source(f"{stem}_{number + 1:06d}.png", _text(path), broken)


def _av(path: str) -> ModuleType:
    """PyAV; ConfigError, naming the video that needs it, if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"{path}: videos need PyAV: {install_extra('video')} ({error})") from None
    return av


def _make_unique(entries: list[tuple[str, str | bytes]]) -> str | None:
    """Rename all files relative to the folder that holds all, if two have the same name.

    Returns that folder, or None if nothing was done.
    """
    if len({name for name, _ in entries}) == len(entries):
        return None
    files = {
        i: os.path.abspath(place) for i, (_, place) in enumerate(entries) if isinstance(place, str)
    }
    common = os.path.commonpath([os.path.dirname(path) for path in files.values()])
    for i, path in files.items():
        entries[i] = os.path.relpath(path, common), entries[i][1]
    return common


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which img2 comes before img10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _listed(data: bytes, where: str, folder: str) -> list[tuple[str, str | bytes]]:
    """(name, path) for each line of a list; a relative path starts at the list, else here."""
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    paths = [os.fsdecode(line) for line in lines if line]
    if not paths:
        raise DataError(where, "lists no paths")
    if "\0" in "".join(paths):
        raise DataError(where, "is not a list of paths: it holds zero bytes")
    beside = [os.path.join(folder, path) for path in paths]
    found = [near if os.path.lexists(near) else path for near, path in zip(beside, paths)]
    return [(_inside(path), place) for path, place in zip(paths, found)]


def _inside(path: str) -> str:
    """A path as a name below a folder: relative, without `..`; else its last part."""
    normal = os.path.normpath(path)
    climbs = os.path.isabs(normal) or normal.startswith("..")
    return os.path.basename(normal) if climbs else normal


def _plain_parts(pattern: str) -> list[str]:
    """The folders of a glob before its first wildcard; [""] if there are none."""
    parts = os.path.dirname(pattern).split(os.sep)
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return [os.sep.join(parts[:count]) or (os.sep if pattern.startswith(os.sep) else "")]


def _is_video(entry: tuple[str, str | bytes]) -> bool:
    return isinstance(entry[1], str) and entry[1].lower().endswith(VIDEOS)


def _text(name: str) -> str:
    """A file name that can be printed: bytes that are not UTF-8 become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")
