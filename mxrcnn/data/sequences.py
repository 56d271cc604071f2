"""Images that belong together by their names: frames of a video, copies that a tool made of one.

The rule for frames is conservative, because numbered files are the normal case: 000123, img_001 and
2007_000123 are no sequences. A name is a frame's if its last number follows a part that has both
letters and digits (cam3_0001, video_12_frame_004, clip7/00012) or the word frame (street_frame_9).
Frames of a sequence have that part in common, and most gaps between their numbers are equal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_FRAME = re.compile(r"(.*\D|)(\d+)(\D*)", re.DOTALL)
_WORD = re.compile(r"(frame|frm)[\W_]*$", re.IGNORECASE)
#: how Roboflow marks augmented copies of an image: street_jpg.rf.0123456789abcdef...
_COPY = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{8,}")


class Together(NamedTuple):
    """Images that belong together: indices, ascending, and what their names have in common."""

    pattern: str
    members: tuple[int, ...]


def copies(places: Sequence[str]) -> list[Together]:
    """The groups of two or more copies of one image. places: paths without ending."""
    of_source: dict[str, list[int]] = {}
    for i, place in enumerate(places):
        found = _COPY.fullmatch(place)
        if found:
            of_source.setdefault(found[1], []).append(i)
    groups = of_source.items()
    return [Together(f"{name}.rf.*", tuple(some)) for name, some in groups if len(some) > 1]


def sequences(places: Sequence[str]) -> list[Together]:
    """The sequences of two or more frames, sorted by pattern. places: paths without ending."""
    of_pattern: dict[str, list[tuple[int, int]]] = {}
    for i, place in enumerate(places):
        copy = _COPY.fullmatch(place)
        found = _FRAME.fullmatch(copy[1] if copy else place)
        if found and _names_a_source(found[1]):
            of_pattern.setdefault(f"{found[1]}*{found[3]}", []).append((int(found[2]), i))
    return [
        Together(pattern, tuple(sorted(i for _, i in frames)))
        for pattern, frames in sorted(of_pattern.items())
        if len(frames) > 1 and _regular([number for number, _ in frames])
    ]


def _names_a_source(prefix: str) -> bool:
    letters, digits = re.search(r"[^\W\d_]", prefix), re.search(r"\d", prefix)
    word = _WORD.search(prefix)
    return bool((letters and digits) or (word and prefix[: word.start()].strip("_-. /")))


def _regular(numbers: Sequence[int]) -> bool:
    """True if at least half of the gaps between neighbours are equal, as between frames."""
    ordered = sorted(set(numbers))
    gaps = Counter(after - before for before, after in zip(ordered, ordered[1:]))
    return 2 * max(gaps.values(), default=0) >= sum(gaps.values())
