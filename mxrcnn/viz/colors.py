"""The colours of classes, in photos and in plots."""

from __future__ import annotations

# Okabe and Ito's colours without black, then Paul Tol's "muted" ones: colour-blind readers can tell
# both sets apart.
PALETTE = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#332288"),
    *("#88CCEE", "#44AA99", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499"),
)
DARK, LIGHT, GREY = (17, 17, 17), (255, 255, 255), "#9aa0a6"

Color = tuple[int, int, int]


def palette_color(index: int) -> str:
    """Colour number 0, 1, ... of the palette, which starts again after its last."""
    return PALETTE[index % len(PALETTE)]


def class_color(class_index: int) -> Color:
    """The colour (red, green, blue) of class 1, 2, ...: always the same."""
    code = palette_color(class_index - 1)
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def ink(background: Color) -> Color:
    """The text colour, dark or light, that stands out more on a background (Rec. 709 luma)."""
    r, g, b = background
    return DARK if 0.2126 * r + 0.7152 * g + 0.0722 * b > 130 else LIGHT
