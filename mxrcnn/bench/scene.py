"""The test scene: a configuration for an image size, and JPEG files with five objects each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mxrcnn.config import Config, make_config, override, parse_settings
from mxrcnn.data.images import image_size
from mxrcnn.data.records import Dataset, ImageRecord
from mxrcnn.data.synthetic import MIN_SIDE, write_synthetic

#: short side of a detector's config -> the usual size (height, width) for benchmarks
DEFAULT_SIZES = {600: (600, 1000), 800: (800, 1066)}
#: files are smaller than the network's input, as those of COCO and VOC
FILE_SCALE = 0.6
NUM_FILES = 8
#: small, so that the parameters, and with them the work, hardly change
LEARNING_RATE = 1e-6
#: xyxy of the objects, as fractions of the image's sides
BOXES = (
    (0.01, 0.02, 0.20, 0.50),
    (0.30, 0.17, 0.70, 0.83),
    (0.50, 0.08, 0.90, 0.67),
    (0.05, 0.50, 0.40, 0.98),
    (0.60, 0.50, 0.99, 0.97),
)


def default_size(network: str) -> tuple[int, int]:
    """The usual size (height, width) for a network."""
    side = make_config(network).data.short_side
    return DEFAULT_SIZES.get(side, (side, side * 4 // 3))


def bench_config(network: str, words: Sequence[str], size: tuple[int, int], precision: str):
    """The network's default config, with settings `words`, for network inputs of that size."""
    config = override(make_config(network), parse_settings(words))
    fixed = {
        "data.short_side": min(size),
        "data.long_side": 0,
        "train.batch_size": 1,
        "train.lr": LEARNING_RATE,
        "train.warmup_steps": 0,
        "train.precision": "fp32" if precision == "int8" else precision,
    }
    return override(config, fixed)


def write_files(folder: Path, size: tuple[int, int]) -> None:
    """Write JPEG files that are resized to network inputs of that size."""
    stored = tuple(max(MIN_SIDE, round(FILE_SCALE * side)) for side in size)
    write_synthetic(folder, NUM_FILES, seed=0, size=stored)


def open_files(folder: Path, config: Config) -> Dataset:
    """The files as a data set: five objects each, of classes 1 to 5 at most."""
    classes = 1 + np.arange(len(BOXES)) % (config.model.num_classes - 1)
    paths = sorted(folder.glob("VOC2007/JPEGImages/*.jpg"))
    names = tuple(f"class {number}" for number in range(1, config.model.num_classes))
    return Dataset("bench", names, tuple(_record(path, classes) for path in paths))


def _record(path: Path, classes: np.ndarray) -> ImageRecord:
    height, width = image_size(path)
    boxes = (np.array(BOXES) * ([width, height] * 2)).astype(np.float32)
    never = np.zeros(len(boxes), bool)
    masks = tuple([[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist())
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return ImageRecord(
        path.stem, path, height, width, boxes, classes, never, never, never, areas, masks
    )
