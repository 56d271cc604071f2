"""How fast `mxrcnn predict` is compared with its network: python -m tests.predict_rate.

The network alone and the command take turns in one process, with the same bound graph and photos.
The network gets tensors that are already prepared, and its boxes are fetched. The command reads
files and writes COCO results; only loading the model is left out. Weights are initial values.

Prints the ratio of the rates for each turn, and the milliseconds that each step takes by itself.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from mxrcnn.cli import main as mxrcnn
from mxrcnn.config import make_config, override
from mxrcnn.data.pictures import read_pixels
from mxrcnn.data.transforms import padded_size, prepare_image, stack_images
from mxrcnn.inference.detector import Detector, inference_symbol
from mxrcnn.inference.predictor import Predictor, Wanted
from mxrcnn.training.network import first_value
from symnet import get_detector
from symnet.detector import parameter_shapes
from symnet.machine import mx

DATA = Path(os.environ.get("MXRCNN_TEST_DATA", Path(__file__).parents[2] / "shared/data"))
CLASSES = {"data.class_names": ("Platelets", "RBC", "WBC"), "model.num_classes": 4}
FCOS = "fcos_regnetx_400mf"
CELLS = {"data.short_side": 480, "data.long_side": 640}
#: name -> network, settings, least ratio. `cells` is the run on BCCD in the README
CASES = {
    "vgg16": ("faster_rcnn_vgg16", {}, 0.97),
    "fcos": (FCOS, {}, 0.93),
    "cells": (FCOS, {**get_detector(FCOS).quick, **CELLS}, 0.93),
}


def make_detector(network: str, settings: dict[str, object]) -> Detector:
    """A detector with initial weights."""
    config = override(
        make_config(network), {**get_detector(network).scratch, **settings, **CLASSES}
    )
    symbol = inference_symbol(config, "fp32")
    params, auxs = (
        {
            name: mx.nd.array(first_value(config, name, shape, True))
            for name, shape in shapes.items()
        }
        for shapes in parameter_shapes(symbol)
    )
    return Detector(symbol, params, auxs, config)


def inputs(detector: Detector, photo: Path) -> tuple[np.ndarray, np.ndarray]:
    """The network's inputs for a photo."""
    item = detector.prepare(photo, "upright")
    return stack_images([item.sample], item.padded), item.sample.im_info[None]


@dataclass(frozen=True)
class Spent:
    """Milliseconds an image: of time, and of all cores together."""

    wall: float
    cpu: float


def spent(work: Callable[[], object], images: int) -> Spent:
    """What some work on images costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    each = 1000 / images
    return Spent((time.perf_counter() - wall) * each, (time.process_time() - cpu) * each)


class Sides:
    """Both sides on some photos: the network alone, and the command."""

    def __init__(self, detector: Detector, photos: list[Path], words: list[str]) -> None:
        self.detector, self.photos, self.words = detector, photos, words
        self.tensors = [inputs(detector, photo) for photo in photos]

    def network(self) -> Spent:
        """The network on tensors, one image after the other."""

        def work() -> None:
            for data, im_info in self.tensors:
                self.detector.forward(data, im_info)

        return spent(work, len(self.photos))

    def command(self) -> Spent:
        """The command, without loading the model."""
        stub = patch.object(Predictor, "load", return_value=self.detector)
        with tempfile.TemporaryDirectory() as out, redirect_stderr(io.StringIO()), stub:
            words = ["predict", "MODEL", *map(str, self.photos), "--out", out, *self.words]
            return spent(lambda: sys.exit(1) if mxrcnn(words) else None, len(self.photos))

    def turns(self, count: int) -> Iterator[tuple[Spent, Spent]]:
        """(network, command) for each of some turns, after a first one."""
        self.network(), self.command()
        for turn in range(count):
            if turn % 2:
                command, network = self.command(), self.network()
            else:
                network, command = self.network(), self.command()
            yield network, command

    def steps(self) -> dict[str, float]:
        """Milliseconds of one core that each step of the command takes for an image."""
        detector, sums = self.detector, Counter()

        def took(name: str, work: Callable[..., Any], *args: Any) -> Any:
            start = time.thread_time()
            result = work(*args)
            sums[name] += 1000 * (time.thread_time() - start) / len(self.photos)
            return result

        data = detector.config.data
        for photo in self.photos:
            pixels = took("decode", read_pixels, photo)
            sample = took("resize and normalise", prepare_image, pixels, data)
            padded = padded_size([sample.size], detector.pad_multiple, data.least_padded_side)
            tensor = took("pad", stack_images, [sample], padded)
            outputs = detector.forward(tensor, sample.im_info[None])
            took("boxes", detector.detections, outputs, 0, *pixels.shape[:2], Wanted(0.5))
        return dict(sums)


def measure(case: str, photos: list[Path], turns: int, words: list[str]) -> bool:
    """Print a case's steps, turns and ratio; True if it is fast enough."""
    network, settings, least = CASES.get(case, (case, {}, 0.0))
    detector = make_detector(network, settings) if case in CASES else Detector.load(case)
    sides, ratios, cpu = Sides(detector, photos, words), [], []
    steps = ", ".join(f"{name} {value:.1f}" for name, value in sides.steps().items())
    print(f"{case}: milliseconds of one core: {steps}", flush=True)
    for alone, command in sides.turns(turns):
        ratios.append(alone.wall / command.wall)
        cpu.append(command.cpu - alone.cpu)
        print(
            f"network {alone.wall:.1f} ms ({alone.cpu:.1f} of all cores), command "
            f"{command.wall:.1f} ms ({command.cpu:.1f}): {ratios[-1]:.3f}",
            flush=True,
        )
    median = statistics.median(ratios)
    print(
        f"{case}: {median:.3f} of the network's rate ({min(ratios):.3f} to {max(ratios):.3f}), at "
        f"least {least} is wanted; {statistics.median(cpu):.1f} ms of a core more an image; load "
        f"average {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return median >= least


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases", nargs="*", default=list(CASES), help=f"{', '.join(CASES)}, or runs"
    )
    parser.add_argument("--photos", type=Path, default=DATA / "bccd/VOC2007/JPEGImages")
    parser.add_argument("--count", type=int, default=40, help="of photos")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--words", default="--save coco", help="options of mxrcnn predict")
    args = parser.parse_args()
    photos = sorted(args.photos.rglob("*.jpg"))[: args.count]
    return int(not all([measure(c, photos, args.turns, args.words.split()) for c in args.cases]))


if __name__ == "__main__":
    sys.exit(main())
