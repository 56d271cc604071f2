"""From nothing to boxes, from each layout of `tests.layouts`: same truth, same predictions.

`python -m tests.all_layouts OUT --source BCCD [--images N] [--mxrcnn "COMMAND"]` copies a VOC
devkit's images into each layout below OUT/data. From each it reads the ground truth, which must be
the devkit's, trains a step or two with --val 0.2, whose split must be the same, and predicts with
one run in all formats, which must be the same too. That run is trained on the first layout for
`--epochs`. `--mxrcnn env/bin/mxrcnn` runs an installed wheel, without the clone on its path.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from defusedxml import ElementTree

from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.detect import detect
from mxrcnn.data.records import Dataset
from mxrcnn.data.voc import load_voc
from tests.layouts import LAYOUTS, first_images, images_apart

SPLITS = ("2007_trainval", "2007_test")
FORMATS = "coco,csv,yolo,voc,labelstudio,cvat"
#: a network whose step takes a moment
MOMENT = """--network faster_rcnn_vgg16 --set width=0.1 short_side=64 long_side=96 batch_size=16
    --epochs 1 --num-workers 0"""
FCOS = "--network fcos_regnetx_400mf --preset quick --set short_side=240 long_side=320"


def all_images(source: Path) -> Dataset:
    """All images of a devkit, or those of its first image set that is there."""
    parts = [load_voc(source, split) for split in SPLITS]
    return replace(parts[0], records=tuple(r for part in parts for r in part.records))


def write(truth: Dataset, layout: str, folder: Path) -> list[str]:
    """Write a layout; returns the words that say where it is."""
    LAYOUTS[layout][2](truth, folder)
    apart = images_apart(folder)
    return ["--data", str(folder), *(["--images", str(apart)] if apart.exists() else [])]


def difference(truth: Dataset, words: list[str]) -> tuple[str, float]:
    """(kind, pixels by which boxes differ) of the data set that is found there.

    AssertionError for other images, classes or numbers of objects.
    """
    found = detect(words[1])
    assert len(found.imagesets) == 1, found
    data = DataConfig(dataset=found.kind, root=str(found.root), images="".join(words[3:]))
    dataset = open_dataset(data, found.imagesets[0])
    assert dataset.class_names == truth.class_names, dataset.class_names
    assert not dataset.notes.lines(), dataset.notes.lines()
    records = {record.path.name: record for record in dataset.records}
    assert records.keys() == {record.path.name for record in truth.records}
    worst = 0.0
    for record in truth.records:
        other = records[record.path.name]
        assert other.classes.tolist() == record.classes.tolist()
        worst = max(worst, float(abs(other.boxes - record.boxes).max(initial=0)))
    return found.kind, worst


def run(command: str, *words: object, cwd: Path) -> str:
    """Run mxrcnn outside the clone; returns its output."""
    environment = {
        name: v for name, v in os.environ.items() if name != "PYTHONPATH" or "-m" in command
    }
    line = [*shlex.split(command), *map(str, words)]
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def sides_of(run_folder: Path) -> dict[str, list[str]]:
    """The images of each side of a run's split, by file name without ending."""
    sides = json.loads((run_folder / "split.json").read_text())["sides"]
    return {side: sorted(Path(name).stem for name in names) for side, names in sides.items()}


def predicted(out: Path) -> dict[str, dict[str, object]]:
    """Format -> image (file name without ending) -> what was predicted there."""
    images = json.loads((out / "predictions_images.json").read_text())["images"]
    stem_of = {image["id"]: Path(image["file_name"]).stem for image in images}
    found: dict[str, dict[str, list]] = {"coco": {stem: [] for stem in stem_of.values()}, "csv": {}}
    for row in json.loads((out / "predictions.json").read_text()):
        found["coco"][stem_of[row.pop("image_id")]].append(row)
    for line in (out / "predictions.csv").read_text().splitlines()[1:]:
        name, _, rest = line.partition(",")
        found["csv"].setdefault(Path(name).stem, []).append(rest)
    for kind, folder, ending in (("yolo", "yolo/labels", ".txt"), ("voc", "voc", ".xml")):
        files = (out / folder).rglob(f"*{ending}")
        found[kind] = {
            f.stem: [line for line in f.read_text().splitlines() if "<filename>" not in line]
            for f in files
        }
    found["labelstudio"] = {}
    for task in json.loads((out / "labelstudio.json").read_text()):
        for region in task["predictions"][0]["result"]:
            region.pop("id")
        name = unquote(task["data"]["image"].partition("?d=")[2])
        found["labelstudio"][Path(name).stem] = task["predictions"][0]["result"]
    found["cvat"] = {
        Path(image.get("name")).stem: [shape.attrib for shape in image]
        for image in ElementTree.parse(out / "cvat.xml").getroot().findall("image")
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--source", type=Path, required=True, help="a VOC devkit with 2007_trainval"
    )
    parser.add_argument("--images", type=int, default=10**6, help="only the first N images")
    parser.add_argument("--epochs", type=int, default=4, help="of the run that predicts")
    parser.add_argument("--mxrcnn", default=f"{sys.executable} -m mxrcnn")
    args = parser.parse_args()
    args.out = args.out.resolve()
    truth = first_images(all_images(args.source), args.images)
    print(f"{len(truth)} images, {sum(map(len, truth.records))} objects")
    words_of = {name: write(truth, name, args.out / "data" / name) for name in LAYOUTS}
    for name, words in words_of.items():
        kind, worst = difference(truth, words)
        assert worst <= LAYOUTS[name][3], worst
        print(f"{name:22}{kind:10}the same truth; boxes within {worst:.4f} pixels", flush=True)

    start, sides = time.time(), {}
    trained = args.out / "run"
    words = [*next(iter(words_of.values())), "--val", "0.2", "--out", trained]
    run(args.mxrcnn, "train", *words, *FCOS.split(), "--epochs", args.epochs, cwd=args.out)
    print(f"trained {args.epochs} epochs of {FCOS.split()[1]} in {time.time() - start:.0f} s")
    first = None
    for name, words in words_of.items():
        short = args.out / "runs" / name
        told = run(
            args.mxrcnn,
            "train",
            *words,
            "--val",
            "0.2",
            "--out",
            short,
            *MOMENT.split(),
            cwd=args.out,
        )
        assert "trained" in told or "test it" in told, told
        sides[name] = sides_of(short)
        assert sides[name] == sides_of(trained), f"{name}: another split"
        out = args.out / "predictions" / name
        places = [words[-1]] if "--images" in words else [words[1]]
        more = ("--save", FORMATS, "--threshold", 0.05, "--out", out)
        run(args.mxrcnn, "predict", trained, *places, *more, cwd=args.out)
        found = predicted(out)
        first = first or found
        for kind in first:
            assert found[kind] == first[kind], f"{name}: other predictions in {kind}"
        counts = ", ".join(f"{len(images)} in {kind}" for kind, images in found.items())
        boxes = sum(map(len, found["coco"].values()))
        print(f"{name:22}the same split, {boxes} boxes predicted, the same ({counts})", flush=True)
    sizes = {side: len(names) for side, names in sides_of(trained).items()}
    print(f"split {sizes}; all the same in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
