"""Detections of a stream of sources: decoded ahead in threads, in batches of equal shapes."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from mxrcnn.data.pictures import read_pixels
from mxrcnn.data.records import DataError, Detections, Orientation
from mxrcnn.data.transforms import stack_images
from mxrcnn.inference.engine import Handle, Outputs
from mxrcnn.inference.predictor import Predictor, Prepared, Wanted
from mxrcnn.inference.sources import Source
from mxrcnn.inference.tiles import TiledPredictor
from mxrcnn.runs.symbol_file import mxnet_reason

#: what a single image can be the reason of
BAD_IMAGE = (DataError, OSError, MemoryError)
#: images in order, each prepared or with its error
Held = list[tuple[Source, Union[Prepared, Exception]]]


class EngineError(DataError):
    """The network failed on an image."""

    @classmethod
    def of(cls, source: Source, error: Exception) -> EngineError:
        """Name the image, and the essential line of an engine's error."""
        return cls(source.where, f"the network failed on this image: {cls.reason(error)}")

    @staticmethod
    def reason(error: Exception) -> str:
        """The kind of an engine's error, and the essential line of its message."""
        return f"{type(error).__name__}: {mxnet_reason(error)}"


@dataclass(frozen=True)
class Looked:
    """A source with its detections and, if wanted, pixels (H, W, 3), or with the error it gave.

    reduced: it was decoded at 1/reduced of its size. tiles: how many tiles were looked at, besides
    the whole image; 0 without tiles.
    """

    source: Source
    found: Detections | None = None
    pixels: np.ndarray | None = None
    error: Exception | None = None
    reduced: int = 1
    tiles: int = 0


def detect_stream(
    predictor: Predictor,
    sources: Iterable[Source],
    wanted: Wanted,
    exif: Orientation = "upright",
    batch_size: int = 1,
    threads: int = 2,
    pixels: bool = True,
) -> Iterator[Looked]:
    """Yield every source in order, with detections or with its error.

    An error of the engine belongs to the images of its batch, and the next batch is computed as if
    nothing had happened. If there are several, each is tried alone, with a warning.
    batch_size: images of equal padded shape that follow each other are one batch, up to that many.
    threads: decode and resize ahead. At most threads + 3 * batch_size images are in memory.
    pixels: also yield all pixels of the image, even if the network needed only a reduced decode.
    """

    def prepare(source: Source) -> Prepared:
        item = predictor.prepare(source.image, exif)
        if not pixels:
            return replace(item, pixels=None)
        if item.reduced > 1:
            limit = predictor.config.data.max_image_pixels
            return replace(item, pixels=read_pixels(source.image, exif == "upright", limit))
        return item

    prepared = _prepared(prepare, sources, threads, batch_size)
    for held, outputs in _computed(predictor, _batches(prepared, batch_size)):
        good = _good(held)
        if isinstance(outputs, Exception) and len(good) > 1:
            said = EngineError.reason(outputs)
            warnings.warn(
                f"a batch of {len(good)} failed: {said}; each is tried alone", stacklevel=2
            )
            for one, own in _computed(predictor, ([pair] for pair in held)):
                yield from _looked(predictor, one, own, wanted)
        else:
            yield from _looked(predictor, held, outputs, wanted)


def detect_tiles(
    tiled: TiledPredictor,
    sources: Iterable[Source],
    wanted: Wanted,
    exif: Orientation = "upright",
    pixels: bool = True,
    progress: bool = False,
) -> Iterator[Looked]:
    """`detect_stream` for large images: the batches are of tiles of one image.

    A thread decodes one image ahead, so three are in memory. progress: show a bar for each image.
    """

    def prepare(source: Source) -> Prepared:
        return tiled.prepare(source.image, exif, pixels)

    for source, item in _prepared(prepare, sources, threads=1, ahead=1):
        if isinstance(item, Exception):
            yield Looked(source, error=item)
            continue
        try:
            found = tiled.detect(item, wanted, progress)
        except Exception as error:  # as in `_start`
            yield Looked(source, error=EngineError.of(source, error))
        else:
            count = tiled.count(item)
            tiles = count if count > 1 else 0
            yield Looked(source, found, item.pixels, reduced=item.reduced, tiles=tiles)


def _good(held: Held) -> list[Prepared]:
    return [item for _, item in held if isinstance(item, Prepared)]


def _batches(prepared: Iterable[tuple[Source, Prepared | Exception]], size: int) -> Iterator[Held]:
    """Join neighbours: up to `size` images of equal padded shape, and any number of errors."""
    held: Held = []
    shape, count = None, 0
    for source, item in prepared:
        if isinstance(item, Prepared):
            if count and item.padded != shape:
                yield held
                held, count = [], 0
            shape, count = item.padded, count + 1
        held.append((source, item))
        if count in (0, size):  # 0: an error need not wait for an image
            yield held
            held, count = [], 0
    if held:
        yield held


def _computed(
    predictor: Predictor, batches: Iterable[Held]
) -> Iterator[tuple[Held, Outputs | Exception]]:
    """Each batch with the network's outputs, or its error, in order.

    The network computes one batch while the caller handles the one before it and makes the next.
    """
    before: tuple[Held, Handle | Exception | None] | None = None
    for held in batches:
        inputs = _stacked(held)  # while the network still computes the batch before
        done = before and (before[0], _result(before[1]))
        before = held, _start(predictor, inputs)
        if done:
            yield done
    if before:
        yield before[0], _result(before[1])


def _stacked(held: Held) -> tuple[np.ndarray, np.ndarray] | MemoryError | None:
    """The network's inputs for the good images; None if there are none."""
    good = _good(held)
    if not good:
        return None
    try:
        data = stack_images([item.sample for item in good], good[0].padded)
    except MemoryError as error:
        return error
    return data, np.stack([item.sample.im_info for item in good])


def _start(
    predictor: Predictor, inputs: tuple[np.ndarray, np.ndarray] | MemoryError | None
) -> Handle | Exception | None:
    """Start the network on stacked images, if there are any."""
    if not isinstance(inputs, tuple):
        return inputs
    try:
        return predictor.start(*inputs)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        return error


def _result(started: Handle | Exception | None) -> Outputs | Exception:
    if started is None or isinstance(started, Exception):
        return started or {}
    try:
        return started.result()
    except Exception as error:
        return error


def _looked(
    predictor: Predictor, held: Held, outputs: Outputs | Exception, wanted: Wanted
) -> Iterator[Looked]:
    """The images of a batch with their detections or errors."""
    row = 0
    for source, item in held:
        if isinstance(item, Exception):
            yield Looked(source, error=item)
        elif isinstance(outputs, Exception):
            yield Looked(source, error=EngineError.of(source, outputs))
        else:
            try:
                found = predictor.detections(outputs, row, *item.size, wanted, item.orientation)
            except MemoryError as error:  # pasting masks into a large image
                yield Looked(source, error=EngineError.of(source, error))
            else:
                yield Looked(source, found, item.pixels, reduced=item.reduced)
            row += 1


def _prepared(
    prepare: Callable[[Source], Prepared], sources: Iterable[Source], threads: int, ahead: int
) -> Iterator[tuple[Source, Prepared | Exception]]:
    """Every source in order, prepared by threads, or the error that it gave."""

    def attempt(source: Source) -> Prepared | Exception:
        if isinstance(source.image, Exception):
            return source.image
        try:
            return prepare(source)
        except BAD_IMAGE as error:
            return error

    waiting: deque[tuple[Source, Future[Prepared | Exception]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for source in sources:
            waiting.append((source, pool.submit(attempt, source)))
            if len(waiting) >= threads + ahead:
                first, done = waiting.popleft()
                yield first, done.result()
        while waiting:
            first, done = waiting.popleft()
            yield first, done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
