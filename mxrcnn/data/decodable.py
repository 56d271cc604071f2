"""Which images can be decoded, for --skip-bad. Results are stored, so a file is decoded once."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL
from tqdm import tqdm

from mxrcnn.config import DataConfig
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.data.transforms import read_pixels
from mxrcnn.files import atomic_write

#: the file of results in a run folder
FILE_NAME = "decoded.json"
#: a file younger than this may change again without a new modification time
YOUNG_SECONDS = 2
_SAVE_EVERY_SECONDS = 60


class Verdicts:
    """The result of decoding each file, kept in a JSON file from one start to the next.

    A verdict is [size, time, height, width, problem]; problem is null for a good image. It holds
    for a file of the same name, size and modification time (in ns), with the same annotated height
    and width, the same settings and the same Pillow. A file of verdicts that cannot be read is
    ignored.
    """

    def __init__(self, path: Path | None, data: DataConfig) -> None:
        self._path, self._root = path, Path(data.root)
        names = ("exif_orientation", "max_image_pixels")
        self._how = {"pillow": PIL.__version__, **{n: getattr(data, n) for n in names}}
        self._known: dict[str, Any] = {}
        try:
            document = json.loads(path.read_bytes()) if path else {}
            if document["how"] == self._how and isinstance(document["images"], dict):
                self._known = document["images"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # no file, or another one: all images are decoded

    def _name(self, record: ImageRecord) -> str:
        """The image file's path relative to the data's folder, which may move."""
        try:
            return record.path.relative_to(self._root).as_posix()
        except ValueError:
            return str(record.path)

    def of(self, record: ImageRecord, state: list[int] | None) -> list[Any] | None:
        """[problem or None] of a record if it is known; state: its `file_state`."""
        known = self._known.get(self._name(record))
        if state is None or not isinstance(known, list) or len(known) != 5 or known[:4] != state:
            return None
        return known[4:] if known[4] is None or isinstance(known[4], str) else None

    def add(self, record: ImageRecord, state: list[int] | None, problem: str | None) -> None:
        """Store a verdict, unless the file is so new that it may still change."""
        if state is not None and time.time() - state[1] / 1e9 > YOUNG_SECONDS:
            self._known[self._name(record)] = [*state, problem]

    def save(self) -> None:
        """Write the file. If that fails only time is lost, so it is just a warning."""
        if self._path is None:
            return
        try:
            with atomic_write(self._path) as handle:
                json.dump({"how": self._how, "images": self._known}, handle)
        except OSError as error:
            message = f"{self._path}: results of decoding are not stored: {error}"
            warnings.warn(message, stacklevel=2)


def file_state(record: ImageRecord) -> list[int] | None:
    """[size in bytes, modification time in ns, height, width]; None without a file."""
    try:
        found = os.stat(record.path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, int(record.height), int(record.width)]


def only_decodable(dataset: Dataset, data: DataConfig, remember: Path | None = None) -> Dataset:
    """The data set without images that cannot be decoded; these go into its notes.

    remember: the file of `Verdicts`; images with a verdict are not decoded again.
    Raises DataError if no image is left, MemoryError if there is not enough memory to decode one.
    """
    verdicts = Verdicts(remember, data)
    states = [file_state(record) for record in dataset.records]
    problems = [verdicts.of(*pair) for pair in zip(dataset.records, states)]
    unknown = [i for i, known in enumerate(problems) if known is None]
    dataset.notes.remembered += len(problems) - len(unknown)
    last = time.monotonic()
    try:
        for i, problem in zip(unknown, _decoded([dataset.records[i] for i in unknown], data)):
            problems[i] = [problem]
            verdicts.add(dataset.records[i], states[i], problem)
            if time.monotonic() - last > _SAVE_EVERY_SECONDS:
                verdicts.save()
                last = time.monotonic()
    finally:
        if unknown:
            verdicts.save()
    good = []
    for record, (problem,) in zip(dataset.records, problems):
        if problem is None:
            good.append(record)
        else:
            dataset.notes.skipped.append(str(DataError(record.path, problem)))
    if not good:
        raise DataError(data.root, f"{dataset.name}: no image can be decoded")
    return replace(dataset, records=tuple(good))


def _decoded(records: Sequence[ImageRecord], data: DataConfig) -> Iterator[str | None]:
    """For each record, in order, what is wrong with its image, or None. Shows progress."""

    def problem(record: ImageRecord) -> str | None:
        try:
            read_pixels(record, data)
        except DataError as error:
            return error.problem
        return None

    pool = ThreadPoolExecutor()
    bar = tqdm(total=len(records), desc="decoding images", unit="image", leave=False, disable=None)
    try:
        with bar:
            for found in pool.map(problem, records):
                bar.update()
                yield found
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
