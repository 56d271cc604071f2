"""A synthetic data set: coloured shapes on textured ground, on disk as Pascal VOC and as COCO.

A class is a shape in shades of its own hue, so that a small network learns it in minutes. Size,
place and ground do not depend on the class. Boxes and masks are those of the visible pixels: later
objects cover earlier ones. The folder:

    VOC2007/{Annotations,ImageSets/Main,JPEGImages,SegmentationObject}
    annotations/instances_{split}.json
"""

from __future__ import annotations

import colorsys
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mxrcnn.data.records import DataError
from mxrcnn.files import atomic_folder, atomic_write
from symnet.geometry.masks import encode

SHAPES = ("circle", "cross", "square", "star", "triangle")
MARKER = "synthetic.json"
VERSION = 5  # raise it whenever the pixels or the annotations change

MIN_SIDE = 64  # of an image
SMALLEST, LARGEST = 48, 120  # longest side of an object's box, in pixels, before covering
LARGEST_SHARE = 0.62  # of the image's shorter side
MAX_OBJECTS = 4
EMPTY_SHARE = 0.05  # share of images without objects
TRUNCATED_SHARE = 0.1  # share of objects that may cross the image's edge
HUE_SPREAD = 0.05  # standard deviation around the class's hue; the full circle is 1
MAX_TILT = 0.35  # radians, to either side
TRIES = 12  # places tried for an object
DIFFICULT_BELOW = 0.4  # visible share below which an object is difficult
OVERLAP_LIMIT = 0.85  # share of an object that a later one must leave visible
LOOSE_SHARE, LOOSE_LIMIT = 0.05, 0.2  # some objects may cover more: their share and their limit
SMOOTH = 3  # oversampling, for smooth edges
JPEG_QUALITY = 92


class _Shape(NamedTuple):
    """An object as drawn: alpha (H, W) float32, mask (H, W) bool, colour (3,) of 0-255."""

    name: str
    alpha: np.ndarray
    mask: np.ndarray
    colour: np.ndarray
    truncated: bool


class _Scene(NamedTuple):
    """An image (H, W, 3) uint8, and the name, visible mask (H, W) and flags of each object."""

    pixels: np.ndarray
    names: list[str]
    masks: list[np.ndarray]
    difficult: list[bool]
    truncated: list[bool]


def ensure_synthetic(
    root: str | Path,
    num_train: int = 400,
    num_test: int = 100,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
) -> Path:
    """Write the synthetic data set into folder `root` unless it is there already; returns root.

    It has the VOC image sets `2007_train` and `2007_test`, and the COCO ones `train` and `test`.
    size is (height, width) in pixels. The folder appears whole or not at all.
    Raises DataError if root holds anything else, even a data set made with other arguments.
    """
    root = Path(root)
    wanted = {"version": VERSION, "num_train": num_train, "num_test": num_test}
    wanted.update({"size": list(size), "seed": seed})
    if _is_written(root, wanted):
        return root
    try:
        with atomic_folder(root) as folder:
            write_synthetic(folder, num_train, seed, "train", size)
            write_synthetic(folder, num_test, seed, "test", size)
            (folder / MARKER).write_text(json.dumps(wanted), encoding="utf-8")
    except OSError:
        if not _is_written(root, wanted):  # by another process meanwhile
            raise
    return root


def write_synthetic(
    root: str | Path,
    num_images: int,
    seed: int,
    split: str = "train",
    size: tuple[int, int] = (192, 256),
) -> Path:
    """Draw `num_images` images of `size` (height, width) as an image set in `root`; returns root.

    The same seed and split give the same files. Image i does not depend on num_images, and splits
    never share images. The list and the JSON file are written last, so an interrupted call leaves
    files but no image set.
    Raises ValueError for a bad size, number or split, DataError if root has this split already.
    """
    if num_images < 1 or min(size) < MIN_SIDE:
        raise ValueError(f"{num_images} images of {size}: need 1 or more of {MIN_SIDE} pixels")
    if not split.isidentifier():
        raise ValueError(f"split {split!r} is not a plain word")
    root = Path(root)
    voc = root / "VOC2007"
    listing = voc / "ImageSets" / "Main" / f"{split}.txt"
    if listing.exists():
        raise DataError(listing, "exists already; give another split or folder")
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages", "SegmentationObject"):
        (voc / folder).mkdir(parents=True, exist_ok=True)
    coco = _empty_coco(split)
    stems = [f"{split}_{index:06d}" for index in range(1, num_images + 1)]
    for index, stem in enumerate(stems, start=1):
        scene = _draw_scene(np.random.default_rng([seed, zlib.crc32(split.encode()), index]), size)
        _write_voc(voc, stem, scene)
        _append_coco(coco, index, f"{stem}.jpg", scene)
    with atomic_write(root / "annotations" / f"instances_{split}.json") as file:
        json.dump(coco, file)
    with atomic_write(listing) as file:
        file.writelines(f"{stem}\n" for stem in stems)
    return root


def _is_written(root: Path, wanted: dict[str, Any]) -> bool:
    """True if root has the wanted data set, False if it is empty or missing; else DataError."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(root, f"exists, but is no synthetic data set: no {MARKER}") from None
    except ValueError as error:
        raise DataError(marker, f"broken marker of a synthetic data set: {error}") from error
    if found != wanted:
        raise DataError(
            root,
            f"holds a synthetic data set with other parameters: {found}, wanted {wanted}; "
            "choose another folder or remove this one",
        )
    return True


# Drawing


def _draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> _Scene:
    ground = _draw_ground(rng, size)
    shapes = _place_shapes(rng, size)
    pixels = ground
    for shape in shapes:
        pixels = pixels + shape.alpha[:, :, None] * (shape.colour - pixels)
    pixels = pixels + rng.uniform(2, 7) * rng.standard_normal((*size, 1), np.float32)
    visible = _visible_masks([shape.mask for shape in shapes])
    shares = [seen.sum() / shape.mask.sum() for seen, shape in zip(visible, shapes)]
    return _Scene(
        pixels=np.clip(np.rint(pixels), 0, 255).astype(np.uint8),
        names=[shape.name for shape in shapes],
        masks=visible,
        difficult=[bool(share < DIFFICULT_BELOW) for share in shares],
        truncated=[shape.truncated for shape in shapes],
    )


def _draw_ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A muted colour with soft patches and stripes: (H, W, 3) float32."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, wavelength, phase = rng.uniform((0, 6, 0), (np.pi, 60, 2 * np.pi))
    along = x * np.cos(angle) + y * np.sin(angle)
    stripes = rng.uniform(0, 12) * np.sin(2 * np.pi * along / wavelength + phase)
    coarse = rng.normal(0, 14, (6, 8)).astype(np.float32)
    patches = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    colour = rng.uniform(70, 185) + rng.normal(0, 12, 3)
    return (colour + (stripes + patches)[:, :, None]).astype(np.float32)


def _place_shapes(rng: np.random.Generator, size: tuple[int, int]) -> list[_Shape]:
    """Up to MAX_OBJECTS shapes that leave enough of each other visible."""
    wanted = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_OBJECTS + 1))
    shapes: list[_Shape] = []
    for _ in range(wanted):
        limit = LOOSE_LIMIT if rng.random() < LOOSE_SHARE else OVERLAP_LIMIT
        name = str(rng.choice(SHAPES))
        for _ in range(TRIES):
            shape = _draw_shape(rng, size, name)
            if _leaves_enough(shape, shapes, limit):
                shapes.append(shape)
                break
    return shapes


def _leaves_enough(new: _Shape, shapes: list[_Shape], limit: float) -> bool:
    """True if the visible share of every earlier shape that the new one covers stays >= limit."""
    before = _visible_masks([shape.mask for shape in shapes])
    for shape, seen in zip(shapes, before):
        left = (seen & ~new.mask).sum()
        if left < seen.sum() and left < limit * shape.mask.sum():
            return False
    return True


def _visible_masks(masks: list[np.ndarray]) -> list[np.ndarray]:
    """The masks (H, W) without what later masks cover."""
    visible = []
    covered = np.zeros_like(masks[0]) if masks else None
    for mask in reversed(masks):
        visible.append(mask & ~covered)
        covered = covered | mask
    return visible[::-1]


def _colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """A random shade of the class's hue, (3,) RGB 0-255. Hue alone nearly determines the class."""
    hue = (SHAPES.index(name) / len(SHAPES) + rng.normal(0, HUE_SPREAD)) % 1.0
    saturation, value = rng.uniform((0.6, 0.5), 1.0)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def _draw_shape(rng: np.random.Generator, size: tuple[int, int], name: str) -> _Shape:
    """A shape of random shade, size, tilt and place, with smooth edges."""
    height, width = size
    points = _rotate(_outline(name), rng.uniform(-MAX_TILT, MAX_TILT))
    largest = min(LARGEST, LARGEST_SHARE * min(size))
    extent = rng.uniform(min(SMALLEST, 0.5 * largest), largest)
    points = points * extent / np.ptp(points, axis=0).max()

    over = 0.25 * extent if rng.random() < TRUNCATED_SHARE else 0.0
    low = -points.min(axis=0) - over
    high = np.array([width, height]) - points.max(axis=0) + over
    points = points + rng.uniform(low, high)
    outside = (points < 0).any() or (points > (width, height)).any()

    alpha = _fill(points, size)
    return _Shape(name, alpha, alpha >= 0.5, _colour(rng, name), bool(outside))


def _outline(name: str) -> np.ndarray:
    """The corners of a shape around (0, 0): (P, 2) x, y."""
    if name == "circle":
        return _ring(48)
    if name == "triangle":
        return _ring(3)
    if name == "square":
        return _rotate(_ring(4), np.pi / 4)
    if name == "star":
        return _ring(10) * np.tile([[1.0], [0.42]], (5, 1))
    arm, reach = 0.3, 1.0
    quarter = np.array([[arm, arm], [arm, reach], [-arm, reach]])
    return np.concatenate([_rotate(quarter, k * np.pi / 2) for k in range(4)])


def _ring(count: int) -> np.ndarray:
    angles = np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel that the polygon (P, 2) covers: (H, W) float32 in 0..1."""
    height, width = size
    left, top = np.floor(points.min(axis=0)).astype(int).clip(0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int), (width, height))
    patch = Image.new("L", ((right - left) * SMOOTH, (bottom - top) * SMOOTH))
    corners = (points - (left, top)) * SMOOTH - 0.5
    ImageDraw.Draw(patch).polygon([tuple(corner) for corner in corners.tolist()], fill=255)
    alpha = np.zeros(size, np.float32)
    alpha[top:bottom, left:right] = np.asarray(patch.reduce(SMOOTH), np.float32) / 255
    return alpha


# Writing


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box x1, y1, x2, y2 of the pixels of mask (H, W)."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write_voc(voc: Path, stem: str, scene: _Scene) -> None:
    """Write the image, its XML file and its segmentation, whose pixels are object numbers."""
    Image.fromarray(scene.pixels).save(voc / "JPEGImages" / f"{stem}.jpg", quality=JPEG_QUALITY)
    (voc / "Annotations" / f"{stem}.xml").write_text(_voc_xml(stem, scene), encoding="utf-8")
    numbers = np.zeros(scene.pixels.shape[:2], np.uint8)
    for number, mask in enumerate(scene.masks, start=1):
        numbers[mask] = number
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette(_PALETTE)
    picture.save(voc / "SegmentationObject" / f"{stem}.png", compress_level=1)


_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128]


def _voc_xml(stem: str, scene: _Scene) -> str:
    height, width = scene.pixels.shape[:2]
    lines = [
        "<annotation>",
        f"  <folder>VOC2007</folder><filename>{stem}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>1</segmented>",
    ]
    for name, mask, difficult, truncated in zip(*scene[1:]):
        x1, y1, x2, y2 = _box(mask)
        lines += [
            f"  <object><name>{name}</name><pose>Unspecified</pose>"
            f"<truncated>{int(truncated)}</truncated><difficult>{int(difficult)}</difficult>",
            f"    <bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _empty_coco(split: str) -> dict[str, Any]:
    info = {"description": f"synthetic shapes, {split}"}
    kinds = [{"id": k, "name": n, "supercategory": "shape"} for k, n in enumerate(SHAPES, start=1)]
    return {"info": info, "licenses": [], "images": [], "categories": kinds, "annotations": []}


def _append_coco(coco: dict[str, Any], image_id: int, file_name: str, scene: _Scene) -> None:
    height, width = scene.pixels.shape[:2]
    image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
    coco["images"].append(image)
    for name, mask, difficult in zip(scene.names, scene.masks, scene.difficult):
        x1, y1, x2, y2 = _box(mask)
        number, kind = len(coco["annotations"]) + 1, SHAPES.index(name) + 1
        entry = {"id": number, "image_id": image_id, "category_id": kind}
        entry.update({"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(mask.sum())})
        entry.update({"iscrowd": 0, "ignore": int(difficult), "segmentation": encode(mask)})
        coco["annotations"].append(entry)
