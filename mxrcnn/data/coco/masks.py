"""The segmentations of COCO annotations: polygons and RLE as they are, pictures made into RLE."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from mxrcnn.data.coco.document import Entry, are_numbers, is_int
from mxrcnn.data.coco.images import CocoImage
from mxrcnn.data.images import opened, path_inside
from mxrcnn.data.records import DataError
from symnet.geometry.masks import check_segmentation, encode


def read_mask(entry: Entry) -> Any:
    """The segmentation as it is, None for none; DataError if it has no known form."""
    mask = entry.values.get("segmentation")
    if mask is None or mask == []:
        return None
    if isinstance(mask, str):
        good = True
    elif isinstance(mask, dict) and "png" in mask:
        good = isinstance(mask["png"], str) and is_int(mask.get("value"))
    elif isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        good = are_numbers(size) and len(size) == 2
        good = good and (isinstance(counts, str) or are_numbers(counts))
    else:
        good = isinstance(mask, list) and all(
            are_numbers(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask
        )
    if not good:
        raise entry.error("segmentation", "is neither polygons of x, y nor RLE nor a PNG")
    return mask


class MaskPictures:
    """Turns segmentations that name PNG files into RLE; `used`: whether there were any.

    Keeps the last picture, as the objects of an image usually share one.
    """

    def __init__(self, folders: Sequence[Path], max_pixels: int) -> None:
        self.used = False
        self._folders = folders
        self._max_pixels = max_pixels
        self._last: tuple[Path | None, Any] = None, None

    def fold(self, entry: Entry, mask: Any, image: CocoImage) -> Any:
        """The segmentation, as RLE if it was a picture; DataError if it does not fit the image."""
        where, size = f"{entry.where}.segmentation", (image.height, image.width)
        if isinstance(mask, str):
            name, value = mask, None
        elif isinstance(mask, dict) and "png" in mask:
            name, value = mask["png"], mask["value"]
        else:
            try:
                if mask is not None:
                    check_segmentation(mask, *size)
            except ValueError as error:
                raise DataError(entry.path, f"{where}: {error}") from None
            return mask
        try:
            places = [path_inside(folder, name) for folder in self._folders]
        except ValueError as error:
            raise DataError(entry.path, f"{where}: {error}") from error
        file = next((place for place in places if isfile(place)), None)
        if file is None:
            raise DataError(entry.path, f"{where}: there is no {short(name)}")
        if self._last[0] != file:
            self._last = file, _picture_values(file, size, self._max_pixels)
        values = self._last[1]
        if values.shape != size:
            raise _wrong_size(file, values.shape, size)
        bits = values != 0 if value is None else values == value
        if not bits.any():
            raise DataError(entry.path, f"{where}: no pixel of {file} is the object's")
        self.used = True
        return encode(bits)


def _picture_values(file: Path, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """The values (H, W) of a PNG's pixels: palette indices as they are, colours as one number."""
    with opened(file, max_pixels, ("PNG",)) as picture:
        if picture.size != size[::-1]:  # before its pixels, which may be many, are read
            raise _wrong_size(file, picture.size[::-1], size)
        values = np.asarray(picture)
    if values.ndim == 2:
        return values
    if values.shape[2] == 2:  # grey, and an alpha channel that says nothing
        return values[:, :, 0]
    red, green, blue = (values[:, :, k].astype(np.int32) for k in range(3))
    return red + 256 * green + 65536 * blue


def _wrong_size(file: Path, found: tuple[int, int], wanted: tuple[int, int]) -> DataError:
    sides = " and the image ".join(f"{width} x {height}" for height, width in (found, wanted))
    return DataError(file, f"the mask is {sides} pixels")
