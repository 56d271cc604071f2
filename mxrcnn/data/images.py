"""Image files: size from the header, pixels as RGB, and names that stay in their folder.

Only the formats below are opened, whatever a file's suffix: other readers of Pillow are unsafe
(EPS starts Ghostscript). The limit against decompression bombs is an argument of each call, not
Pillow's process-wide limit. (Pillow's plugins for GIF, TIFF and WebP check that one too: beyond
twice PIL.Image.MAX_IMAGE_PIXELS, 179 megapixels, they refuse files.)
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from mxrcnn.config import MAX_IMAGE_PIXELS
from mxrcnn.data.records import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
ORIENTATION_TAG = 0x0112
SIDEWAYS = (5, 6, 7, 8)
#: the formats that Pillow can decode at reduced size; MPO is JPEG with more pictures behind it
SCALABLE = ("JPEG", "MPO")
LONGEST_NAME = 255

#: (height, width) of an image -> the (height, width) that its pixels are needed at
Needed = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Decoded:
    """An image's pixels (h, w, 3) uint8 RGB, and its own size (height, width).

    reduced: 1, or 2, 4 or 8 if the pixels are that many times fewer on each side, see `reduction`.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    reduced: int = 1


def image_size(
    path: str | Path, exif_orientation: bool = False, max_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[int, int]:
    """(height, width) of an image file in pixels, from its header alone.

    With `exif_orientation`, the size after turning the image upright, as `read_image` does.
    Raises DataError for a missing file, a header that cannot be read, or more than max_pixels
    pixels (0: no limit).
    """
    with opened(path, max_pixels) as image:
        width, height = image.size
        turned = exif_orientation and image.getexif().get(ORIENTATION_TAG) in SIDEWAYS
    return (width, height) if turned else (height, width)


def orientation(path: str | Path) -> int:
    """The EXIF orientation of an image file, 1 (upright) to 8. Raises DataError."""
    with opened(path, max_pixels=0) as image:
        return image.getexif().get(ORIENTATION_TAG, 1)


def read_image(
    path: str | Path, exif_orientation: bool = False, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """The pixels of an image file, (H, W, 3) uint8 RGB.

    Grey, palette and CMYK images become RGB. An alpha channel is dropped, not blended. 16-bit grey
    keeps its high byte. With `exif_orientation` the image is turned upright first.
    Raises DataError for a file that is missing, truncated, undecodable, or of more than max_pixels
    pixels (0: no limit), and MemoryError if there is not enough memory for its pixels.
    """
    return decode_image(path, exif_orientation, max_pixels).pixels


def decode_image(
    path: str | Path | BinaryIO,
    exif_orientation: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
    needed: Needed | None = None,
) -> Decoded:
    """An image file's pixels, as `read_image` gives them, or fewer of a large JPEG.

    needed: gives the (height, width) at which the pixels are needed, from that of the image. See
    `reduction`. path may be an open file. Raises DataError and MemoryError as `read_image` does.
    """
    with opened(path, max_pixels) as image:
        factor = 1
        if needed is not None and image.format in SCALABLE:
            width, height = image.size
            turned = exif_orientation and image.getexif().get(ORIENTATION_TAG) in SIDEWAYS
            size = (width, height) if turned else (height, width)
            factor = reduction(size, needed(*size))
            if factor > 1 and image.draft(None, (width // factor, height // factor)) is None:
                factor = 1
        pixels = as_rgb(path, image, exif_orientation)
        height, width = pixels.shape[:2]
        return Decoded(pixels, (height * factor, width * factor), factor)


def reduction(size: tuple[int, int], needed: tuple[int, int]) -> int:
    """How many times fewer pixels a side a JPEG is decoded to: 8, 4 or 2 if possible, else 1.

    size, needed: (height, width) of the image, and where its pixels are needed. Both sides must be
    multiples of the factor, so that pixels stay where they are, and at least `needed` after it.
    libjpeg then computes the low frequencies only: about the mean of each square of pixels.
    """
    for factor in (8, 4, 2):
        if all(s % factor == 0 and s >= factor * n for s, n in zip(size, needed)):
            return factor
    return 1


def decoder() -> str:
    """What decodes JPEGs here: Pillow's version, and that of its libjpeg."""
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {features.version_module('pil')}, {library}"


def scalable(path: str | Path) -> bool:
    """Whether a file is of a format that is decoded at reduced size. Raises DataError."""
    with opened(path, max_pixels=0) as image:
        return image.format in SCALABLE


def path_inside(folder: Path, name: str) -> Path:
    """`folder / name`, for a name read from a data file.

    Raises ValueError for a name that is empty, absolute or has a `..` part, by POSIX or Windows
    rules, or is too long. Links are followed: a data set may link folders on another disk.
    """
    ways = PurePosixPath(name), PureWindowsPath(name)
    absolute = any(way.drive or way.root for way in ways)
    too_long = any(len(part) > LONGEST_NAME for part in ways[0].parts)
    upwards = any(".." in way.parts for way in ways)
    if absolute or upwards or too_long or "\0" in name or not ways[0].name:
        raise ValueError(f"{name[:LONGEST_NAME]!r} is not a file name inside {folder}")
    return folder / name


def size_error(
    path: str | Path, found: tuple[float, float], stated: tuple[float, float], upright: bool
) -> DataError:
    """The error for an image of another (height, width) than its annotation states.

    upright: whether the image was turned by its EXIF orientation. If that explains the difference,
    the error names the setting to change.
    """
    sizes = " but annotated as ".join(
        f"{width:g} x {height:g}" for height, width in (found, stated)
    )
    advice = ""
    if found == stated[::-1]:
        advice = "; exif_orientation cannot help, as the file has no such tag: correct one of them"
        if orientation(path) in SIDEWAYS:
            keeps = "keeps images as they are stored" if upright else "turns images upright"
            advice = f"; --set exif_orientation={'false' if upright else 'true'} {keeps}"
    return DataError(path, f"the file is {sizes} pixels{advice}")


def check_pixels(path: str | Path, height: int, width: int, limit: int) -> None:
    """DataError for an image of more pixels than the limit; 0 is none."""
    if limit and width * height > limit:
        raise DataError(
            path,
            f"{width} x {height} pixels: over the limit of {limit} against decompression bombs; "
            "--set max_image_pixels raises it (0: no limit)",
        )


@contextmanager
def opened(
    path: str | Path | BinaryIO,
    max_pixels: int = MAX_IMAGE_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> Iterator[Image.Image]:
    """Open an image and read its header; whatever Pillow raises inside becomes a DataError.

    path: a file's path, or the open file itself. MemoryError stays one, as it is not the file's
    fault, but names the file.
    """
    try:
        with _strict(), _file(path) as file, _open(file, path, formats) as image:
            check_pixels(path, image.height, image.width, max_pixels)
            yield image
    except DataError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: not enough memory to read it ({error})") from error
    except FileNotFoundError:
        raise DataError(path, "no such image file") from None
    except Image.DecompressionBombError as error:
        raise DataError(
            path,
            f"{error} That is Pillow's limit for GIF, TIFF and WebP: set "
            "PIL.Image.MAX_IMAGE_PIXELS in the process, or store the image as PNG or JPEG",
        ) from None
    except Exception as error:  # on broken files Pillow's readers raise nearly anything
        kind = "image" if formats is FORMATS else " or ".join(formats)
        raise DataError(path, f"not a readable {kind}: {error}") from error


def _file(path: str | Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return nullcontext(path) if hasattr(path, "read") else Path(path).open("rb")


def _open(
    file: BinaryIO, path: str | Path | BinaryIO, formats: Sequence[str]
) -> ImageFile.ImageFile:
    """Image.open without its check against decompression bombs.

    That check has one limit for the whole process, which other threads may rely on.
    """
    head, problem = file.read(16), f"it does not begin like {', '.join(formats)}"
    for name in formats:
        for load_plugins in (Image.preinit, Image.init):
            if name not in Image.OPEN:
                load_plugins()
        factory, accepts = Image.OPEN[name]
        try:
            if accepts is None or accepts(head) is True:
                file.seek(0)
                return factory(file, str(path))
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            problem = f"broken {name} header ({error})"
    raise UnidentifiedImageError(problem)


_lock = threading.Lock()
_readers = 0
_flag_before = False


@contextmanager
def _strict() -> Iterator[None]:
    """Inside, Pillow raises on truncated images, in all threads, whatever the process has set.

    Some packages, such as gluoncv, make Pillow fill missing pixels with grey. Pillow reads its
    global flag while it decodes. So the flag stays off while any thread reads here, and the last
    thread to leave restores it.
    """
    global _readers, _flag_before
    with _lock:
        _flag_before = ImageFile.LOAD_TRUNCATED_IMAGES or (_readers > 0 and _flag_before)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES |= _flag_before


def as_rgb(path: str | Path | BinaryIO, image: Image.Image, upright: bool = False) -> np.ndarray:
    """The pixels (H, W, 3) uint8 RGB of an image of any mode, converted as in `read_image`.

    path: the name in a DataError. upright: turn the image as its EXIF tag says.
    """
    image.load()
    if upright and image.getexif().get(ORIENTATION_TAG, 1) != 1:  # else it would be copied
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return np.array(image)
    if image.mode == "F":
        raise DataError(path, "floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        return _from_wide_grey(path, np.asarray(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _from_wide_grey(path: str | Path, grey: np.ndarray) -> np.ndarray:
    """The high byte of integer grey (H, W) in 0..65535, three times: (H, W, 3) uint8."""
    if grey.min() < 0 or grey.max() > 65535:
        raise DataError(path, f"grey values {grey.min()}..{grey.max()} are outside 0..65535")
    return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
