"""Detections of a stream of sources: decoded ahead in threads, in batches of equal shapes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mxrcnn.data.records import DataError, Detections, Orientation
from mxrcnn.data.transforms import stack_images
from mxrcnn.inference.predictor import Predictor, Prepared, Wanted
from mxrcnn.inference.sources import Source

#: what a single image can be the reason of
BAD_IMAGE = (DataError, OSError, MemoryError)


@dataclass(frozen=True)
class Looked:
    """A source with its detections and its pixels (H, W, 3), or with the error that it gave."""

    source: Source
    found: Detections | None = None
    pixels: np.ndarray | None = None
    error: Exception | None = None


def detect_stream(
    predictor: Predictor,
    sources: Iterable[Source],
    wanted: Wanted,
    exif: Orientation = "upright",
    batch_size: int = 1,
    threads: int = 2,
) -> Iterator[Looked]:
    """Yield every source in order, with detections or with its error.

    batch_size: images of equal padded shape that follow each other are one batch, up to that many.
    threads: decode and resize ahead. At most threads + 3 * batch_size images are in memory.
    """
    held: list[tuple[Source, Prepared | Exception]] = []

    def batches() -> Iterator[tuple[list, np.ndarray, np.ndarray]]:
        nonlocal held
        shape, count = None, 0
        for source, item in _prepared(predictor, sources, exif, threads, batch_size):
            if isinstance(item, Prepared):
                if count == batch_size or (count and item.padded != shape):
                    yield _batch(held)
                    held, count = [], 0
                shape, count = item.padded, count + 1
            held.append((source, item))
        if count:
            yield _batch(held)
            held = []

    for items, outputs in predictor.outputs(batches()):
        row = 0
        for source, item in items:
            if isinstance(item, Prepared):
                size = item.pixels.shape[:2]
                found = predictor.detections(outputs, row, *size, wanted, item.orientation)
                row += 1
                yield Looked(source, found, item.pixels)
            else:
                yield Looked(source, error=item)
    for source, error in held:  # all were bad
        yield Looked(source, error=error)


def _batch(
    held: list[tuple[Source, Prepared | Exception]],
) -> tuple[list, np.ndarray, np.ndarray]:
    """The network's inputs of the good images, and all with them."""
    good = [item for _, item in held if isinstance(item, Prepared)]
    data = stack_images([item.sample for item in good], good[0].padded)
    return held, data, np.stack([item.sample.im_info for item in good])


def _prepared(
    predictor: Predictor, sources: Iterable[Source], exif: Orientation, threads: int, ahead: int
) -> Iterator[tuple[Source, Prepared | Exception]]:
    """Every source in order, prepared by threads, or the error that it gave."""

    def prepare(source: Source) -> Prepared | Exception:
        if isinstance(source.image, Exception):
            return source.image
        try:
            return predictor.prepare(source.image, exif)
        except BAD_IMAGE as error:
            return error

    waiting: deque[tuple[Source, Future[Prepared | Exception]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for source in sources:
            waiting.append((source, pool.submit(prepare, source)))
            if len(waiting) >= threads + ahead:
                first, done = waiting.popleft()
                yield first, done.result()
        while waiting:
            first, done = waiting.popleft()
            yield first, done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
