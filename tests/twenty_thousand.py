"""Memory of mxrcnn predict over many images: python -m tests.twenty_thousand [--images 20000].

Writes small JPEGs of three shapes, ten of them broken, and a small network with random weights.
Then it runs `mxrcnn predict` as a subprocess and samples its memory as its results appear. Fails if
the last tenth of the run needs 3 % more memory than the second, if a broken file is not named, if
the exit code is not 1, or if a result is missing. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mxrcnn.data.synthetic import write_synthetic
from mxrcnn.runs.checkpoint import RunFolder, TrainState, join_params
from tests.soak import Sample, Tenth, grew, sample
from tests.test_export import make_detector

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "fcos_regnetx_400mf"
SIZES = ((72, 96), (96, 72), (80, 80))
DRAWN = 100  # of each size at most; the others are hard links to these
BROKEN = 10


@dataclass(frozen=True)
class Outcome:
    """What a run gave: its exit code, the files that it named as broken, the names of images with
    results by format, memory over time, and its seconds."""

    code: int
    named: set[str]
    results: dict[str, set[str]]
    samples: list[Sample]
    seconds: float

    def faults(self, broken: set[str], good: set[str]) -> Iterator[str]:
        """What is wrong, in words; growth of memory excepted."""
        if self.code != 1:
            yield f"exit code {self.code}"
        if self.named != broken:
            yield f"named as broken: {sorted(self.named)}, not {sorted(broken)}"
        for name, found in self.results.items():
            if found != good:
                yield f"{name}: {len(good - found)} images missing, {len(found - good)} unknown"


def write_run(folder: Path, network: str, **settings: object) -> Path:
    """A run of a small network with random weights; settings of its data."""
    detector = make_detector(network, {f"data.{key}": value for key, value in settings.items()})
    run = RunFolder(folder)
    run.create(detector.config, {"test": detector.symbol})
    run.save(TrainState(1), join_params(*detector.params), {}, keep=1)
    return folder


def write_photos(folder: Path, count: int, broken: int) -> tuple[set[str], set[str]]:
    """Write `count` files of which `broken` are no images; returns the names of broken and good."""
    drawn = []
    for number, size in enumerate(SIZES):
        place = folder.parent / f"drawn{number}"
        write_synthetic(place, min(DRAWN, 1 + count // 60), number, "train", size)
        drawn.append(sorted(place.rglob("*.jpg")))
    whole = drawn[0][0].read_bytes()
    faults = (b"", b"no image", b"\0" * 500, whole[: len(whole) // 3], whole[:20])
    bad = {round((k + 0.5) * count / broken): faults[k % len(faults)] for k in range(broken)}
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for number in range(count):
        path = folder / f"{number // 1000:02}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        names[number in bad].add(path.relative_to(folder).as_posix())
        if number in bad:
            path.write_bytes(bad[number])
        else:
            pictures = drawn[number % len(SIZES)]
            os.link(pictures[number // len(SIZES) % len(pictures)], path)
    return names[True], names[False]


def predict(run: Path, photos: Path, out: Path, count: int, words: Sequence[str] = ()) -> Outcome:
    """Run the command, sampling its memory a hundred times as its results are printed."""
    command = [sys.executable, "-m", "mxrcnn", "predict", str(run), str(photos)]
    command += ["--out", str(out), "--save", "coco,csv,voc", "--stream", "--threshold", "0.6"]
    command += words
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    samples, streamed, start = [], set(), time.perf_counter()
    with (out.parent / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        for number, line in enumerate(tqdm(process.stdout, total=count, disable=None), start=1):
            row = json.loads(line)
            if "error" not in row:
                streamed.add(Path(row["image"]).relative_to(photos).as_posix())
            if number % max(1, count // 100) == 0 and process.poll() is None:
                samples.append(sample(number, process.pid))
        code = process.wait()
        errors.seek(0)
        told = [line[len("error: ") :] for line in errors if line.startswith("error: ")]
    named = {Path(line.partition(": ")[0]).relative_to(photos).as_posix() for line in told}
    return Outcome(code, named, saved(out, streamed), samples, time.perf_counter() - start)


def saved(out: Path, streamed: set[str]) -> dict[str, set[str]]:
    """The images of each format's files. An image without objects is not in COCO's and CSV's."""
    listed = json.loads((out / "predictions_images.json").read_text())["images"]
    names = {image["id"]: image["file_name"] for image in listed}
    rows = json.loads((out / "predictions.json").read_text())
    with_objects = {names[row["image_id"]] for row in rows}
    with (out / "predictions.csv").open(newline="") as file:
        if {row["filename"] for row in csv.DictReader(file)} != with_objects:
            sys.exit("predictions.csv and predictions.json are of different images")
    voc = {path.relative_to(out / "voc") for path in (out / "voc").rglob("*.xml")}
    return {
        "stream": streamed,
        "coco": set(names.values()),
        "voc": {path.with_suffix(".jpg").as_posix() for path in voc},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("words", nargs="*", help="more options of mxrcnn predict, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        broken, good = write_photos(place / "photos", args.images, BROKEN)
        run = write_run(place / "run", NETWORK, short_side=32, long_side=48)
        outcome = predict(run, place / "photos", place / "out", args.images, args.words)
    for row in outcome.samples[::10]:
        print(f"{row.number:6} images  {row.resident_mb:7.1f} MB  {row.files} open files")
    early, late = (Tenth.of(outcome.samples, number) for number in (2, 10))
    growth = f"{late.resident_mb / early.resident_mb - 1:+.2%}"
    print(f"{outcome.seconds:.0f} s, exit code {outcome.code}, {len(outcome.named)} files named")
    print(f"memory, last tenth against the second: {growth}")
    faults = [*outcome.faults(broken, good), *[f"memory grew: {growth}"] * grew(early, late)]
    for fault in faults:
        print(f"fault: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
