"""Small test inputs: images, VOC folders, records, configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mxrcnn.config import Config, make_config, override
from mxrcnn.data.records import Dataset, ImageRecord
from symnet import get_detector, list_detectors

#: settings of a network whose training step takes a fraction of a second
TINY = {
    "model.width": 0.125,
    "model.box_head_dim": 32,
    "model.anchor_scales": (1, 2, 4),
    "model.rpn_pre_nms_top_n_train": 300,
    "model.rpn_post_nms_top_n_train": 50,
    "model.rpn_pre_nms_top_n_test": 100,
    "model.rpn_post_nms_top_n_test": 20,
    "model.box_batch_size_per_image": 32,
    "data.short_side": 100,
    "data.long_side": 200,
    "model.trainable_layers": 5,
    "train.epochs": 1,
}


@dataclass(frozen=True)
class Picture:
    """An image to write: size (height, width), objects as (class, x1, y1, x2, y2), continuous."""

    size: tuple[int, int] = (80, 100)
    objects: Sequence[tuple[str, float, float, float, float]] = (("dog", 10, 20, 50, 60),)
    mode: str = "RGB"
    ending: str = ".jpg"


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A random image of size (height, width), in any of Pillow's modes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 255 + 255)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[:, :, 0]))
        return image
    return image.convert(mode)


def voc_xml(picture: Picture) -> str:
    """A picture's VOC annotation, with 1-based inclusive corners."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in picture.objects
    )
    height, width = picture.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def make_voc(
    root: Path, pictures: Mapping[str, Picture], split: str = "train", year: str = "2007"
) -> Path:
    """Write pictures (by stem) as a Pascal VOC folder with one image set; returns its root."""
    folder = root / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed, (stem, picture) in enumerate(pictures.items()):
        image = noise(picture.size, picture.mode, seed)
        image.save(folder / "JPEGImages" / (stem + picture.ending))
        (folder / "Annotations" / f"{stem}.xml").write_text(voc_xml(picture))
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(pictures) + "\n")
    return root


def truncate(path: Path, share: float = 0.5) -> Path:
    """Keep only the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def make_record(
    image_id: str = "a",
    size: tuple[int, int] = (80, 100),
    boxes: Sequence[Sequence[float]] = ((10, 20, 50, 60),),
    path: Path = Path("none.jpg"),
    **flags: Sequence[bool],
) -> ImageRecord:
    """A record whose objects all have class 1; flags: crowd, difficult or truncated."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(array)
    none = dict.fromkeys(("crowd", "difficult", "truncated"), np.zeros(count, bool))
    return ImageRecord(
        image_id,
        path,
        *size,
        array,
        np.ones(count, np.int64),
        areas=np.prod(array[:, 2:] - array[:, :2], axis=1),
        **{**none, **{name: np.array(flag, bool) for name, flag in flags.items()}},
    )


def make_dataset(records: Sequence[ImageRecord], class_names: Sequence[str] = ("dog",)) -> Dataset:
    """A data set of these records."""
    return Dataset("made", tuple(class_names), tuple(records))


def tiny_config(**settings: object) -> Config:
    """A config for quick tests; settings are named `data__flip=False`."""
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return override(make_config(), {**TINY, **named})


def plain_quick(network: str) -> dict[str, Any]:
    """A network's quick settings, but VGG16 as in its paper, without normalisations."""
    quick = dict(get_detector(network).quick)
    if quick.get("model.body") == "vgg16_bn":
        quick.update({"model.body": "vgg16", "model.norm": "frozen"})
    return quick


def different_networks() -> list[str]:
    """The networks without those that are another one with the quick settings of `plain_quick`."""
    found: dict[Any, str] = {}
    for network in reversed(list_detectors()):  # r50 before r101
        model = override(make_config(network), plain_quick(network)).model
        found.setdefault((get_detector(network).stride, type(model), model), network)
    return sorted(found.values())
