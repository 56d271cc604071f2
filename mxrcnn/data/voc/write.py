"""Pascal VOC's annotation files as text. Letters: N objects of an image."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import numpy as np

#: what XML 1.0 does not allow, even escaped
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: str) -> str:
    """Text for XML, also inside quotes; characters that XML forbids become U+FFFD."""
    return html.escape(FORBIDDEN.sub("\ufffd", text))


def voc_corners(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (N, 4), continuous, as VOC's corners (N, 4) int64: 1-based, inclusive, in the image.

    A box of less than a pixel becomes one pixel.
    """
    corners = np.rint(np.asarray(boxes, np.float64).reshape(-1, 4)).astype(np.int64)
    limit = np.array([width, height])
    first = np.clip(corners[:, :2] + 1, 1, limit)
    return np.concatenate([first, np.clip(corners[:, 2:], first, limit)], axis=1)


def label_map(class_names: Sequence[str]) -> str | None:
    """The labelmap.txt that CVAT and datumaro need for classes other than VOC's own 20.

    None for names that it cannot hold: with a colon, a leading #, or `background`.
    """
    if any(":" in name or name.startswith("#") or name == "background" for name in class_names):
        return None
    lines = (f"{name}:::\n" for name in ("background", *class_names))
    return "".join(["# label:color_rgb:parts:actions\n", *lines])


def annotation_xml(
    filename: str,
    size: tuple[int, int],
    names: Sequence[str],
    boxes: np.ndarray,
    difficult: Iterable[bool] | None = None,
    truncated: Iterable[bool] | None = None,
    scores: Sequence[float] | None = None,
) -> str:
    """The XML file of an image of size (height, width).

    names: N class names; boxes (N, 4) xyxy, continuous; the others: N each, or None for none.
    """
    height, width = size
    none = [False] * len(names)
    lines = [
        "<annotation>",
        f"  <filename>{escaped(filename)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    corners = voc_corners(boxes, height, width).tolist()
    flags = (none if flag is None else flag for flag in (truncated, difficult))
    for i, (name, (x1, y1, x2, y2), cut, hard) in enumerate(zip(names, corners, *flags)):
        lines += [
            "  <object>",
            f"    <name>{escaped(name)}</name>",
            f"    <pose>Unspecified</pose><truncated>{int(cut)}</truncated>"
            f"<difficult>{int(hard)}</difficult>",
            *([] if scores is None else [f"    <score>{scores[i]:.6f}</score>"]),
            f"    <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>\n"])
