"""Training on tiles beside training on whole images: `python -m tests.tiled_training FOLDER`.

Draws large canvases in FOLDER: drawn test images at random places, a few of them enlarged, on grey
ground. Trains Faster R-CNN on them with --tile and, in about the same time, without; tests both by
`mxrcnn test`, and prints COCO's AP. About 6 minutes of one core. Fails if tiles are no better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mxrcnn.data.images import read_image
from mxrcnn.data.records import ImageRecord
from mxrcnn.data.synthetic import SHAPES, write_synthetic
from mxrcnn.data.voc import load_voc

SIZE, SMALL = (2000, 3000), (192, 256)
#: drawn images on a canvas, and how much larger each is; a place is always left for the next
ENLARGED = (4, 3, 2, *[1] * 27)
CANVASES = {"train": 5, "val": 2}
#: how much better COCO's AP has to be with tiles
LEAST_GAIN = 0.05
TILES = ["--tile", "256"]
WHOLE = ["--set", "short_side=640", "long_side=960"]
NETWORK = ["--network", "faster_rcnn_vgg16", "--preset", "quick"]


def paste(records: list[ImageRecord], rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    """A canvas with drawn images, none over another, and its objects in COCO's form."""
    canvas = np.clip(rng.normal(128, 6, (*SIZE, 3)), 0, 255).astype(np.uint8)
    taken = np.zeros(SIZE, bool)
    objects = []
    for record, factor in zip(records, ENLARGED):
        height, width = (side * factor for side in SMALL)
        while True:
            top, left = (int(rng.integers(0, s - h)) for s, h in zip(SIZE, (height, width)))
            place = np.s_[top : top + height, left : left + width]
            if not taken[place].any():
                break
        taken[place] = True
        image = Image.fromarray(read_image(record.path))
        canvas[place] = image.resize((width, height), Image.Resampling.BICUBIC)
        for box, k, difficult in zip(record.boxes * factor, record.classes, record.difficult):
            x1, y1, x2, y2 = (box + np.float32([left, top, left, top])).tolist()
            entry: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": int(k)}
            entry.update(area=(x2 - x1) * (y2 - y1), iscrowd=0, ignore=int(difficult))
            objects.append(entry)
    return canvas, objects


def draw(folder: Path) -> Path:
    """The canvases as a COCO data set in FOLDER/canvases."""
    root = folder / "canvases"
    for number, (split, count) in enumerate(CANVASES.items()):
        file = root / "annotations" / f"instances_{split}.json"
        if file.exists():
            continue
        drawn = folder / f"drawn_{split}"
        if not drawn.is_dir():
            write_synthetic(drawn, count * len(ENLARGED), 11 + number, "small", SMALL)
        records = load_voc(str(drawn), "2007_small", SHAPES).records
        rng = np.random.default_rng(number)
        images, objects = [], []
        for k in range(count):
            canvas, found = paste(list(records[k * len(ENLARGED) :]), rng)
            path = root / split / f"canvas{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(canvas).save(path, quality=92)
            images.append(dict(id=k, file_name=path.name, height=SIZE[0], width=SIZE[1]))
            objects += [
                {**one, "image_id": k, "id": len(objects) + i} for i, one in enumerate(found)
            ]
        kinds = [{"id": k, "name": name} for k, name in enumerate(SHAPES, 1)]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(images=images, annotations=objects, categories=kinds)))
    return root


def run(folder: Path, name: str, epochs: int, words: list[str]) -> tuple[dict[str, float], float]:
    """Train and test by the commands, unless it is done; the report's metrics, and the seconds."""
    report = folder / name / "test_val" / "report.json"
    took = folder / f"{name}.seconds"
    if not report.exists():
        start = time.perf_counter()
        where = ["--data", "canvases", "--epochs", str(epochs), "--out", name, "--val-every", "0"]
        _command(folder, "train", *NETWORK, *where, *words)
        took.write_text(str(time.perf_counter() - start))
        _command(folder, "test", name, "--imageset", "val", "--out", f"{name}/test_val")
    return json.loads(report.read_text())["metrics"], float(took.read_text())


def _command(folder: Path, *words: str) -> None:
    print("mxrcnn", *words, flush=True)
    subprocess.run([sys.executable, "-m", "mxrcnn", *words], cwd=folder, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=1, help="with tiles")
    parser.add_argument("--whole-epochs", type=int, default=10, help="without, for the same time")
    args = parser.parse_args()
    folder = args.folder.resolve()
    draw(folder)
    rows = {
        "whole": run(folder, "whole", args.whole_epochs, WHOLE),
        "tiles": run(folder, "tiles", args.epochs, TILES),
    }
    names = ("AP", "AP50", "APm", "APl")
    print(f"{'':<8}{'seconds':>9}", *(f"{name:>8}" for name in names))
    for kind, (metrics, seconds) in rows.items():
        print(f"{kind:<8}{seconds:>9.0f}", *(f"{metrics[name]:>8.3f}" for name in names))
    gain = rows["tiles"][0]["AP"] - rows["whole"][0]["AP"]
    return 0 if gain >= LEAST_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
