"""Texts on photos: fonts, sizes, and places where labels do not cover each other."""

from __future__ import annotations

from typing import Any

from PIL import ImageDraw, ImageFont

from mxrcnn.viz.colors import Color

Rect = tuple[float, float, float, float]


def clip_text(text: str, length: int) -> str:
    """The text on one line, cut to at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def image_font(height: int, width: int) -> Any:
    """A font of a size that suits an image of that size."""
    try:
        return ImageFont.load_default(size=max(10, round(min(height, width) / 30)))
    except (TypeError, ImportError):  # Pillow before 10.1 or without FreeType: one bitmap font
        return ImageFont.load_default()


def text_extent(font: Any, text: str) -> tuple[float, float]:
    """Width of this text and height of any text, in pixels."""
    x1, _, x2, _ = font.getbbox(text)
    _, y1, _, y2 = font.getbbox("Ag|")
    return x2 - x1, y2 - y1


def write(pen: ImageDraw.ImageDraw, rect: Rect, text: str, font: Any, color: Color) -> None:
    """Write text into the middle of a rectangle. Bitmap fonts have no anchors, so compute it."""
    (w, h), left, top = text_extent(font, text), font.getbbox(text)[0], font.getbbox("Ag|")[1]
    x, y = (rect[0] + rect[2] - w) / 2 - left, (rect[1] + rect[3] - h) / 2 - top
    pen.text((round(x), round(y)), text, color, font)


def shorten(text: str, font: Any, room: float) -> str:
    """The text, or as much of it as fits into `room` pixels with an ellipsis."""
    if text_extent(font, text)[0] <= room:
        return text
    while text and text_extent(font, text + "...")[0] > room:
        text = text[:-1]
    return text + "..." if text else ""


def place_label(
    box: Rect, text: str, font: Any, line: int, size: tuple[int, int], taken: list[Rect]
) -> tuple[Rect, str]:
    """The rectangle of a box's label, added to `taken`, and the text, cut to the image's width.

    size: (width, height) of the image. line: thickness of the box. Of a few places at the box, the
    label takes the first that covers no earlier label, or else the one that covers least.
    """
    width, height = size
    text = shorten(text, font, width - 4)
    w, h = text_extent(font, text)
    w, h = w + 0.6 * h, 1.35 * h
    x1, y1, x2, y2 = box
    spots = [
        (x, y)
        for x in (x1, x2 - w)
        for y in (y1 - h, y1 + line, y2 - h - line, y2)
        if 0 <= y <= height - h
    ] or [(x1, y1)]
    rects = []
    for x, y in spots:
        left, top = max(0.0, min(x, width - w)), max(0.0, min(y, height - h))
        rects.append((left, top, min(left + w, width) - 1, min(top + h, height) - 1))
    best = min(rects, key=lambda rect: sum(_common_area(rect, other) for other in taken))
    taken.append(best)
    return best, text


def _common_area(a: Rect, b: Rect) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return max(w, 0.0) * max(h, 0.0)
