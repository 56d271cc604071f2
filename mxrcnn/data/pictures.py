"""Reads the images that users pass: a file, its bytes, a PIL image, or pixels."""

from __future__ import annotations

import io
import os
from typing import Union

import numpy as np
from PIL import Image

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.images import Decoded, Needed, as_rgb, decode_image
from mxrcnn.data.records import DataError

Picture = Union[str, "os.PathLike[str]", bytes, Image.Image, np.ndarray]


def read_pixels(
    picture: Picture, upright: bool = True, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """The pixels (H, W, 3) uint8 RGB of an image.

    picture: the path of a file, a file's bytes, a PIL image, or pixels (H, W, 3) uint8 RGB, which
    are returned unchanged. upright: rotate the first three by their EXIF tag, if they have one.
    max_pixels: refuse files with more pixels (0: no limit).
    Raises DataError for images that cannot be decoded, ValueError for other arrays, and TypeError
    for anything else.
    """
    return decode_picture(picture, upright, max_pixels).pixels


def decode_picture(
    picture: Picture,
    upright: bool = True,
    max_pixels: int = MAX_IMAGE_PIXELS,
    needed: Needed | None = None,
) -> Decoded:
    """The pixels of an image as `read_pixels` gives them, or fewer of a JPEG: see `decode_image`.

    Only files and their bytes are decoded at reduced size.
    """
    if isinstance(picture, np.ndarray):
        shape = picture.shape
        if len(shape) != 3 or shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise ValueError(f"expected (H, W, 3) uint8 RGB, got {shape} {picture.dtype}")
        return Decoded(picture, shape[:2])
    if isinstance(picture, Image.Image):
        pixels = _of_image(picture, getattr(picture, "filename", "") or "PIL image", upright)
        return Decoded(pixels, pixels.shape[:2])
    if isinstance(picture, (bytes, bytearray)):
        try:
            return decode_image(io.BytesIO(picture), upright, max_pixels, needed)
        except DataError as error:
            raise DataError(f"{len(picture)} bytes", error.problem) from error
    if isinstance(picture, (str, os.PathLike)):
        return decode_image(picture, upright, max_pixels, needed)
    raise TypeError(
        f"{type(picture).__name__}: expected a path, bytes, a PIL image or an array (H, W, 3)"
    )


def _of_image(image: Image.Image, name: str, upright: bool) -> np.ndarray:
    try:
        return as_rgb(name, image, upright)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow decodes lazily, so errors of the file appear here
        raise DataError(name, f"not a readable image: {error}") from error
