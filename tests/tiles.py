"""Tiles on canvases of 6000 x 4000 pixels: `python -m tests.tiles FOLDER`, about 10 minutes.

Trains FCOS on drawn images in FOLDER, unless FOLDER/run is there. Pastes drawn test images into
canvases at random places, and runs `mxrcnn predict --tile` on them as a process of its own. Prints
recall and precision at IoU 0.5 of the small images by themselves and of the canvases, the share of
objects that were found twice, the peak memory and the time. Fails beyond the LIMITS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mxrcnn.data.images import read_image
from mxrcnn.data.records import Detections, ImageRecord
from mxrcnn.data.synthetic import SHAPES, write_synthetic
from mxrcnn.data.voc import load_voc
from mxrcnn.inference.predictor import Predictor
from symnet.geometry.boxes import iou

SIZE = (4000, 6000)
SMALL = (192, 256)
#: least recall as a share of the small images' own, most difference of precision, most objects
#: found twice, most memory in bytes
LIMITS = (0.98, 0.02, 0.01, 2 << 30)


@dataclass(frozen=True)
class Truth:
    """The objects of an image: boxes (N, 4), classes (N,), difficult (N,)."""

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


@dataclass
class Count:
    """Objects, found ones, wrong detections, objects that were found twice."""

    objects: int = 0
    found: int = 0
    wrong: int = 0
    twice: int = 0

    def add(self, truth: Truth | ImageRecord, detections: Detections) -> None:
        """Match detections, best first, with objects of their class at IoU 0.5."""
        overlap = iou(detections.boxes, truth.boxes)
        overlap[detections.classes[:, None] != truth.classes] = 0
        count = len(truth.boxes)
        taken, again = np.zeros(count, bool), np.zeros(count, bool)
        for row in overlap if count else ():
            free = int(np.argmax(np.where(taken, 0, row)))
            best = int(row.argmax())
            if row[free] >= 0.5 and not taken[free]:
                taken[free] = True
            elif row[best] < 0.5:
                self.wrong += 1
            elif not truth.difficult[best]:
                self.wrong += 1
                again[best] = True
        self.wrong += 0 if count else len(detections)
        self.objects += int((~truth.difficult).sum())
        self.found += int((taken & ~truth.difficult).sum())
        self.twice += int(again.sum())

    @property
    def recall(self) -> float:
        return self.found / self.objects

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.wrong)


def train(folder: Path) -> Path:
    """The run of the drawn FCOS."""
    run = folder / "run"
    if not (run / "checkpoints").is_dir():
        command = [sys.executable, "-m", "mxrcnn", "train", "--network", "fcos_regnetx_400mf"]
        subprocess.run([*command, "--out", "run"], cwd=folder, check=True)
    return run


def paste(records: list[ImageRecord], number: int, path: Path) -> Truth:
    """A canvas of the images in random order and places: rows and columns with random gaps."""
    rng = np.random.default_rng(number)
    canvas = np.full((*SIZE, 3), 128, np.uint8)
    rows, columns = SIZE[0] // SMALL[0], SIZE[1] // SMALL[1]
    tops = _places(rng, rows, SMALL[0], SIZE[0])
    order = iter(rng.permutation(len(records)))
    boxes, classes, difficult = [], [], []
    for top in tops:
        for left in _places(rng, columns, SMALL[1], SIZE[1]):
            record = records[next(order)]
            canvas[top : top + SMALL[0], left : left + SMALL[1]] = read_image(record.path)
            boxes.append(record.boxes + np.float32([left, top, left, top]))
            classes.append(record.classes)
            difficult.append(record.difficult)
    Image.fromarray(canvas).save(path, compress_level=1)
    rows = (np.concatenate(column) for column in (boxes, classes, difficult))
    return Truth(*rows)


def _places(rng: np.random.Generator, count: int, side: int, room: int) -> list[int]:
    gaps = np.sort(rng.integers(0, room - count * side + 1, count))
    return [int(gap) + k * side for k, gap in enumerate(gaps)]


def predict(model: Path, image: Path, out: Path, words: list[str]) -> tuple[Detections, int, float]:
    """Run the command; returns its detections, its peak memory in bytes, and its seconds."""
    command = [sys.executable, "-m", "mxrcnn", "predict", str(model), str(image), "--save", "coco"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out), *words])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"mxrcnn predict ended with {status}")
    rows = json.loads((out / "predictions.json").read_text())
    rows.sort(key=lambda row: -row["score"])
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in rows], np.float32)
    classes = np.array([row["category_id"] for row in rows], np.int64)
    return Detections(boxes, scores, classes), usage.ru_maxrss * 1024, seconds


def choose_threshold(records: list[ImageRecord], found: list[Detections]) -> float:
    """The threshold of the best F1 on the small images."""

    def f1(threshold: float) -> float:
        count = Count()
        for record, detections in zip(records, found):
            count.add(record, detections[detections.scores >= threshold])
        return 2 * count.found / (count.objects + count.found + count.wrong)

    return max(np.arange(0.2, 0.7, 0.02).round(2).tolist(), key=f1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--canvases", type=int, default=2)
    parser.add_argument("--tiles", nargs="+", default=["auto"], help="values of --tile")
    parser.add_argument("--overlap", help="default: as of mxrcnn predict")
    parser.add_argument("--model", type=Path, help="another run or .onnx file of these data")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.model or train(args.folder)
    rows, columns = SIZE[0] // SMALL[0], SIZE[1] // SMALL[1]
    data = args.folder / "drawn"
    if not data.is_dir():
        write_synthetic(data, rows * columns, 7, "canvas", SMALL)
    records = list(load_voc(str(data), "2007_canvas", SHAPES).records)
    predictor = Predictor.load(model)
    alone = [predictor.predict(read_image(record.path)) for record in records]
    threshold = choose_threshold(records, alone)
    own = Count()
    for record, found in zip(records, alone):
        own.add(record, found[found.scores >= threshold])
    print(f"threshold {threshold}, {len(records)} small images, {own.objects} objects")
    print(f"{'':<24}{'recall':>8}{'share':>8}{'precision':>11}{'twice':>8}{'MB':>7}{'s':>7}")
    share = own.twice / own.objects
    print(f"{'small images':<24}{own.recall:>8.4f}{1:>8.4f}{own.precision:>11.4f}{share:>8.4f}")
    good = True
    for tile in args.tiles:
        count, memory, seconds = Count(), 0, 0.0
        for number in range(args.canvases):
            image = args.folder / f"canvas{number}.png"
            truth = paste(records, number, image)
            words = ["--tile", tile, "--threshold", str(threshold)]
            words += ["--overlap", args.overlap] if args.overlap else []
            found, peak, took = predict(model, image, args.folder / f"out{number}", words)
            count.add(truth, found)
            memory, seconds = max(memory, peak), seconds + took / args.canvases
        ratio, twice = count.recall / own.recall, count.twice / count.objects
        print(
            f"{f'tiles of {tile}':<24}{count.recall:>8.4f}{ratio:>8.4f}{count.precision:>11.4f}"
            f"{twice:>8.4f}{memory >> 20:>7}{seconds:>7.1f}",
            flush=True,
        )
        good &= ratio >= LIMITS[0] and abs(count.precision - own.precision) <= LIMITS[1]
        good &= twice <= LIMITS[2] and memory <= LIMITS[3]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
