"""Threads that share a predictor, and interleaved data sets: `python -m tests.threads`.

Uses small networks of three families, in MXNet and in onnxruntime. Every result must equal, to the
bit, the result for the same image on its own.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mxrcnn.data.records import Dataset, Detections
from mxrcnn.export.model import export_onnx
from mxrcnn.inference.predictor import Predictor
from tests.factories import make_dataset, make_record

FAMILIES = ("faster_rcnn_vgg16", "mask_rcnn_r50_fpn", "fcos_r50_fpn")
#: (height, width): several shapes, some of them repeated
SIZES = ((120, 200), (200, 120), (120, 200), (96, 96), (150, 220), (200, 120))
#: how many detections per image are compared: pasting masks takes longer than these networks
MOST = 20


def images(sizes: Sequence[tuple[int, int]] = SIZES) -> list[np.ndarray]:
    """Different images (H, W, 3) of these sizes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (len(sizes), 7, 9, 3), np.uint8)
    return [
        np.asarray(Image.fromarray(pixels).resize((width, height)))
        for pixels, (height, width) in zip(coarse, sizes)
    ]


def dataset(folder: Path, pixels: Sequence[np.ndarray]) -> Dataset:
    """Write the images as a data set without objects."""
    records = []
    for number, image in enumerate(pixels):
        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        records.append(make_record(str(number), image.shape[:2], (), path))
    return make_dataset(records)


def same(found: Detections, expected: Detections) -> bool:
    """True if both have the same detections, to the bit."""
    return (
        all(
            np.array_equal(getattr(found, name), getattr(expected, name))
            for name in ("boxes", "scores", "classes")
        )
        and found.masks == expected.masks
    )


def in_threads(
    predictor: Predictor, pixels: Sequence[np.ndarray], threads: int, count: int
) -> tuple[int, list[Exception]]:
    """Make `count` predictions in each thread; returns how many are wrong, and the errors."""
    expected = [predictor.predict(image, max_detections=MOST) for image in pixels]
    wrong, errors, begin = [], [], threading.Barrier(threads)

    def work(first: int) -> None:
        begin.wait()
        for number in range(first, first + count):
            place = number % len(pixels)
            try:
                found = predictor.predict(pixels[place], max_detections=MOST)
                if not same(found, expected[place]):
                    wrong.append(place)
            except Exception as error:
                errors.append(error)

    workers = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(wrong), errors


def by_turns(predictor: Predictor, images_of: Dataset) -> int:
    """Interleave two `detect`s, with a `predict` after each step; returns how many are wrong."""
    records = images_of.records
    expected = {r.image_id: predictor.predict(r.path) for r in records}
    back = Dataset(images_of.name, images_of.class_names, records[::-1])
    wrong = 0
    for one, other in zip(
        predictor.detect(images_of, progress=False), predictor.detect(back, progress=False)
    ):
        for record, found, _ in (one, other):
            wrong += not same(found, expected[record.image_id])
        third = records[len(records) // 2]
        wrong += not same(predictor.predict(third.path), expected[third.image_id])
    return wrong


def main() -> int:
    from tests.test_export import make_detector

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--count", type=int, default=50, help="predictions per thread")
    parser.add_argument("--networks", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument(
        "--limit", type=float, default=1800, help="seconds after which it counts as hung"
    )
    args = parser.parse_args()
    faulthandler.dump_traceback_later(args.limit, exit=True)
    failed = False
    pixels = images()
    print(f"{'network':<20}{'engine':<13}{'predictions':>11}{'wrong':>7}{'errors':>7}{'s':>8}")

    def row(name: str, engine: str, total: int, run: Callable[[], tuple[int, list]]) -> bool:
        start = time.perf_counter()
        wrong, errors = run()
        seconds = time.perf_counter() - start
        print(
            f"{name:<20}{engine:<13}{total:>11}{wrong:>7}{len(errors):>7}{seconds:>8.1f}",
            *map(str, errors[:1]),
            flush=True,
        )
        return bool(wrong or errors)

    with tempfile.TemporaryDirectory() as folder:
        files = dataset(Path(folder), pixels)
        for name in args.networks:
            detector = make_detector(name, {})
            exported = Predictor.load(export_onnx(detector, Path(folder) / f"{name}.onnx"))
            for engine, predictor in (("MXNet", detector), ("onnxruntime", exported)):
                total = args.threads * args.count
                failed |= row(
                    name,
                    engine,
                    total,
                    lambda p=predictor: in_threads(p, pixels, args.threads, args.count),
                )
                failed |= row(
                    f"{name.split('_')[0]}, by turns",
                    engine,
                    3 * len(pixels),
                    lambda p=predictor: (by_turns(p, files), []),
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
