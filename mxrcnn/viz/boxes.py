"""Photos with boxes on them: detections, ground truth, or both side by side.

Letters: H, W height and width of an image; boxes are xyxy in its pixels, continuous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from mxrcnn.viz.colors import DARK, LIGHT, Color, class_color, ink
from mxrcnn.viz.labels import Rect, clip_text, image_font, place_label, shorten, text_extent, write
from symnet.geometry.masks import decode

if TYPE_CHECKING:
    from mxrcnn.data.records import Detections, ImageRecord

HEADER, GAP = (32, 33, 36), 4  # of a comparison: the titles' background, pixels between the panes


@dataclass(frozen=True)
class _Mark:
    """One box to draw: its rectangle, text, colour, whether it is dashed, and its mask (H, W)."""

    box: Rect
    text: str
    color: Color
    dashed: bool = False
    mask: np.ndarray | None = None


def draw_detections(
    image: np.ndarray, detections: Detections, class_names: Sequence[str], threshold: float = 0.5
) -> Image.Image:
    """The image (H, W, 3) uint8 RGB with the detections of at least `threshold` on it.

    Better detections lie over worse ones. Masks are tinted and outlined. Raises ValueError for
    another kind of image and IndexError for a class without a name.
    """
    shown = detections[np.asarray(detections.scores) >= threshold]
    marks = []
    for i in np.argsort(-np.asarray(shown.scores), kind="stable"):
        k = int(shown.classes[i])
        text = f"{_class_name(class_names, k)} {shown.scores[i]:.2f}"
        mask = None if shown.masks is None else shown.masks[i]
        marks.append(_mark(image, shown.boxes[i], text, k, False, mask))
    return _draw(image, marks)


def draw_ground_truth(
    image: np.ndarray, record: ImageRecord, class_names: Sequence[str]
) -> Image.Image:
    """The image (H, W, 3) uint8 RGB with its objects; difficult ones and crowds are dashed.

    Raises as `draw_detections` does.
    """
    marks = []
    for i in range(len(record)):
        k = int(record.classes[i])
        kinds = [n for n in ("difficult", "crowd") if getattr(record, n)[i]]
        text = _class_name(class_names, k) + (f" ({', '.join(kinds)})" if kinds else "")
        mask = None if record.masks is None else record.masks[i]
        marks.append(_mark(image, record.boxes[i], text, k, bool(kinds), mask))
    return _draw(image, marks)


def draw_comparison(
    image: np.ndarray,
    record: ImageRecord,
    detections: Detections,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> Image.Image:
    """Ground truth on the left, detections of at least `threshold` on the right, each with a title.

    Raises as `draw_detections` does.
    """
    shown = int((np.asarray(detections.scores) >= threshold).sum())
    found = draw_detections(image, detections, class_names, threshold)
    panes = (
        (draw_ground_truth(image, record, class_names), f"ground truth: {len(record)}"),
        (found, f"detections: {shown} at score {threshold:g} or more"),
    )
    height, width = image.shape[:2]
    font = image_font(height, width)
    header = math.ceil(2 * text_extent(font, "Ag")[1])
    out = Image.new("RGB", (2 * width + GAP, height + header), HEADER)
    pen = ImageDraw.Draw(out)
    for pane, (picture, title) in enumerate(panes):
        left = pane * (width + GAP)
        out.paste(picture, (left, header))
        fitting = shorten(title, font, width - header // 2)
        right = left + header // 2 + text_extent(font, fitting)[0]
        write(pen, (left, 0, right, header), fitting, font, LIGHT)
    return out


def _class_name(class_names: Sequence[str], k: int) -> str:
    if not 1 <= k <= len(class_names):
        raise IndexError(f"class {k} has no name among {len(class_names)}")
    return clip_text(class_names[k - 1], 40)


def _mark(image: np.ndarray, box: np.ndarray, text: str, k: int, dashed: bool, mask: Any) -> _Mark:
    """The mark of an object of class k; mask: a COCO segmentation (polygons or RLE), or None."""
    bits = decode(mask, *image.shape[:2]) if mask else None
    return _Mark(tuple(map(float, box)), text, class_color(k), dashed, bits)


def _draw(image: np.ndarray, marks: Sequence[_Mark]) -> Image.Image:
    """Draw the marks, the first on top: masks, then boxes, then labels that avoid each other."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"image of shape {image.shape} and type {image.dtype}, not (H, W, 3) uint8"
        )
    line = max(2, round(min(image.shape[:2]) / 200))
    out = Image.fromarray(_tinted(image, marks, line - 1))
    pen = ImageDraw.Draw(out)
    for mark in reversed(marks):
        _draw_box(pen, mark, line, out.size)
    font = image_font(*image.shape[:2])
    taken: list[Rect] = []
    labels = [place_label(mark.box, mark.text, font, line, out.size, taken) for mark in marks]
    for mark, (rect, text) in reversed(list(zip(marks, labels))):
        pen.rectangle(rect, fill=mark.color)
        write(pen, rect, text, font, ink(mark.color))
    return out


def _tinted(image: np.ndarray, marks: Sequence[_Mark], line: int) -> np.ndarray:
    """The image with every mask in its colour, translucent, with an outline `line` pixels thick."""
    out = np.ascontiguousarray(image)
    for mark in reversed(marks):
        if mark.mask is None or not mark.mask.any():
            continue
        out = out.copy() if out is image else out
        rows, columns = (np.flatnonzero(mark.mask.any(axis=axis)) for axis in (1, 0))
        region = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        mask, pixels = mark.mask[region], out[region]
        pixels[mask] = (0.55 * pixels[mask] + 0.45 * np.array(mark.color)).round().astype(np.uint8)
        pixels[mask & ~_eroded(mask, line)] = mark.color
    return out


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask (H, W) without the pixels within `steps` of its edge."""
    inner = np.pad(mask, steps)
    for _ in range(steps):
        beside = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = inner[1:-1, 1:-1] & beside
    return inner


def _draw_box(pen: ImageDraw.ImageDraw, mark: _Mark, line: int, size: tuple[int, int]) -> None:
    """A coloured frame with a thin dark one on both sides, inside the image."""
    x1, x2 = (min(max(round(v), 0), size[0]) for v in (mark.box[0], mark.box[2]))
    y1, y2 = (min(max(round(v), 0), size[1]) for v in (mark.box[1], mark.box[3]))
    x2, y2 = max(x2, x1 + 1) - 1, max(y2, y1 + 1) - 1  # the last pixel that the box covers
    halo = max(1, line // 3)
    for grow, color, width in ((halo, DARK, line + 2 * halo), (0, mark.color, line)):
        for side in _sides(x1 - grow, y1 - grow, x2 + grow, y2 + grow, width):
            for piece in _dashes(side, 4 * line + 4) if mark.dashed else [side]:
                pen.rectangle(piece, fill=color)


def _sides(x1: int, y1: int, x2: int, y2: int, width: int) -> list[Rect]:
    """The four bars, `width` thick, along the inside of a rectangle of inclusive pixels."""
    w, h = min(width, x2 - x1 + 1) - 1, min(width, y2 - y1 + 1) - 1
    return [(x1, y1, x2, y1 + h), (x1, y2 - h, x2, y2), (x1, y1, x1 + w, y2), (x2 - w, y1, x2, y2)]


def _dashes(side: Rect, length: int) -> list[Rect]:
    """A bar cut along its longer side into dashes with gaps of the same length."""
    x1, y1, x2, y2 = (int(v) for v in side)
    if x2 - x1 >= y2 - y1:
        return [(x, y1, min(x + length - 1, x2), y2) for x in range(x1, x2 + 1, 2 * length)]
    return [(x1, y, x2, min(y + length - 1, y2)) for y in range(y1, y2 + 1, 2 * length)]
