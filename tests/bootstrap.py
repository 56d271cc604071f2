"""How often the intervals of `mxrcnn compare` hold what they claim, on simulated test sets.

`python -m tests.bootstrap` draws 500 test sets of 72 images from a population of 20,000, whose
numbers are known. It prints how many of the 95 % intervals cover the population's AP50, and its
difference between two detectors; and how often two detectors that differ by noise alone come out
as different. Images are as in BCCD: three classes with 11.4, 1 and 0.75 objects an image; some
images are harder than others, for both detectors.
Letters: N images, K objects of the population.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mxrcnn.data.records import Detections, ImageRecord
from mxrcnn.evaluation.bootstrap import bootstrap
from mxrcnn.evaluation.curves import Curve, Curves, Part, voc_curve
from mxrcnn.evaluation.matching import match_all

NAMES, PER_IMAGE = ("RBC", "WBC", "Platelets"), (11.4, 1.0, 0.75)
SIDE, SIZE = 40, 640  # of an object, of an image, in pixels


def population(images: int, rng: np.random.Generator) -> list[ImageRecord]:
    """Images with objects on a grid, so that they do not overlap."""
    records = []
    for number in range(images):
        counts = rng.poisson(PER_IMAGE)
        classes = np.repeat(np.arange(1, 4), counts)
        cells = rng.permutation((SIZE // SIDE) ** 2)[: len(classes)]
        corners = SIDE * np.stack([cells % (SIZE // SIDE), cells // (SIZE // SIDE)], axis=1)
        boxes = np.concatenate([corners, corners + SIDE], axis=1).astype(np.float32)
        none, areas = np.zeros(len(classes), bool), np.full(len(classes), SIDE**2, np.float32)
        flags = (none, none, none)
        records.append(ImageRecord(number, Path("none"), SIZE, SIZE, boxes, classes, *flags, areas))
    return records


def detector(
    records: list[ImageRecord], hard: np.ndarray, skill: float, rng: np.random.Generator
) -> Mapping[int, Detections]:
    """Detections of every image. hard (N,): how hard each image is, for any detector."""
    found = {}
    for record, level in zip(records, hard):
        moved = record.boxes + rng.normal(0, 4 + 2 * level, record.boxes.shape)
        kept = rng.random(len(record)) < 0.97 - 0.12 * level
        right = rng.normal(1.5 + skill - level, 1.2, len(record))[kept]
        stray = rng.poisson(4 + 4 * level)
        corners = rng.random((stray, 2)) * (SIZE - SIDE)
        wrong = rng.normal(-0.8 + 0.3 * level, 1.2, stray)
        boxes = np.concatenate([moved[kept], np.concatenate([corners, corners + SIDE], axis=1)])
        classes = np.concatenate([record.classes[kept], rng.integers(1, 4, stray)])
        scores = np.concatenate([right, wrong])
        order = np.argsort(-scores)
        parts = boxes[order].astype(np.float32), scores[order], classes[order]
        found[record.image_id] = Detections(*parts)
    return found


def curves_of(records: list[ImageRecord], found: Mapping[int, Detections]) -> Curves:
    """AP50 of a detector on the population, with COCO's 101 recalls."""
    matched = match_all(records, found, len(NAMES) + 1, 0.5)
    parts = tuple((Part(voc_curve(verdicts), "coco", ("AP50",)),) for verdicts in matched)
    return Curves(len(records), NAMES, ("AP50",), parts)


def draw_test_set(whole: Curves, chosen: np.ndarray) -> Curves:
    """The images of the population that are chosen, each once."""
    number = np.full(whole.images, -1)
    number[chosen] = np.arange(len(chosen))
    parts = []
    for (part,) in whole.parts:
        curve, right = part.curve, np.zeros(len(part.curve.images), bool)
        right[curve.hits] = True
        there, objects = number[curve.images] >= 0, number[curve.objects]
        small = Curve(
            number[curve.images[there]], np.flatnonzero(right[there]), objects[objects >= 0]
        )
        parts.append((replace(part, curve=small),))
    return Curves(len(chosen), whole.class_names, whole.metrics, tuple(parts))


def simulate(sets: int, images: int, resamples: int, size: int, seed: int) -> dict[str, float]:
    """The shares that the module's docstring names, and the population's numbers."""
    rng = np.random.default_rng(seed)
    records = population(size, rng)
    hard = 2 * rng.beta(2, 3, size)
    a, twin, b = (
        curves_of(records, detector(records, hard, skill, rng)) for skill in (0.0, 0.0, 0.4)
    )
    ones = np.ones((size, 1), np.int32)
    ap, other, better = (float(x.values(ones)[0, 0, 0]) for x in (a, twin, b))
    covered, covered_difference, false_alarms, told = 0, 0, 0, 0
    for number in range(sets):
        chosen = rng.choice(size, images, replace=False)
        own, like, good = (draw_test_set(x, chosen) for x in (a, twin, b))
        single = bootstrap([own], resamples, number)[0][0]
        paired = bootstrap([own, good], resamples, number)[0][0]
        covered += single.low <= ap <= single.high
        covered_difference += paired.low <= better - ap <= paired.high
        told += paired.sign > 0
        false_alarms += bootstrap([own, like], resamples, number)[0][0].sign != 0
    return {
        "AP50 of A in the population": ap,
        "B - A in the population": better - ap,
        "A's twin - A in the population": other - ap,
        "intervals that cover AP50": covered / sets,
        "intervals that cover B - A": covered_difference / sets,
        "B told to be better": told / sets,
        "twins that come out as different": false_alarms / sets,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (
        *(("sets", 500), ("images", 72), ("resamples", 400)),
        *(("size", 20_000), ("seed", 0)),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    start = time.perf_counter()
    for what, number in simulate(**vars(parser.parse_args())).items():
        print(f"{what:<36}{number:.4f}")
    print(f"{time.perf_counter() - start:.0f} s")
