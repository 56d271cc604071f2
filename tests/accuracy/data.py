"""The data that experiments make for themselves: folds of few photos, and BCCD for ultralytics."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from mxrcnn.files import atomic_folder, atomic_write
from tests.accuracy import processes
from tests.accuracy.results import REPO
from tests.accuracy.runs import Place

SHARED = REPO.parent / "shared" / "data"
FOLDS, FOLD_SEED = 3, 0


def folds(images: list[int], count: int = FOLDS, seed: int = FOLD_SEED) -> list[list[int]]:
    """Image ids in folds of equal size, drawn by a seed."""
    order = np.random.default_rng(seed).permutation(sorted(images)).tolist()
    return [sorted(order[k::count]) for k in range(count)]


def write_fruits(place: Place, results: Path) -> None:
    """Write fold1/train.json and fold1/held_out.json, and so on, as COCO's JSON.

    The folds are those in RESULTS/fruits_folds.json, which is written if it is not there.
    """
    whole = json.loads((SHARED / "fruits_nuts" / "trainval.json").read_text("utf-8"))
    stored = results / "fruits_folds.json"
    if not stored.exists():
        with atomic_write(stored) as handle:
            json.dump(folds([image["id"] for image in whole["images"]]), handle)
            handle.write("\n")
    target = place.work / "fruits"
    if target.exists():
        return
    with atomic_folder(target) as partial:
        for number, held_out in enumerate(json.loads(stored.read_text("utf-8")), start=1):
            for name, inside in (("train", False), ("held_out", True)):
                path = partial / f"fold{number}" / f"{name}.json"
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(_part(whole, held_out, inside)), "utf-8")


def _part(whole: dict, chosen: list[int], inside: bool) -> dict:
    """The images that are, or are not, among the chosen, with their objects."""
    return {
        **whole,
        "images": [x for x in whole["images"] if (x["id"] in chosen) == inside],
        "annotations": [x for x in whole["annotations"] if (x["image_id"] in chosen) == inside],
    }


def write_yolo(place: Place, results: Path) -> None:
    """Write BCCD as ultralytics reads it."""
    target = place.work / "cells_yolo"
    if not target.exists():
        source = os.path.relpath(SHARED / "bccd", REPO)
        command = place.mxrcnn("data", "convert", source, str(target), "--to", "yolo")
        print(processes.output(command), flush=True)
