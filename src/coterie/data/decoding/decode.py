"""From the bytes of a file to pixels: the one place where images are decoded."""

import io
import logging
import re
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from coterie.data.decoding.jpeg import SMALLEST_REDUCED, decode_jpeg
from coterie.data.decoding.pixels import PIXEL_LIMIT, Pixels, check_size, damaged, upright, with_channels
from coterie.data.decoding.tiff import is_tiff, read_tiff, tiff_channels
from coterie.errors import BadImage

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what matters is raised as BadImage

# The kinds that are read, by content and not by name. Pillow knows more, some of which start other programs.
_KINDS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
Image.init()
_FORMATS = tuple(kind for kind in _KINDS if kind in Image.OPEN)
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations whose rows are stored as columns
_GRAY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")

Shrink = Callable[[int, int], int]
"""By how much an image of this height and width may be divided: 1, 2, 4 or 8."""


def decode(data: bytes | np.ndarray, channels: int = 3, shrink: Shrink | None = None) -> Pixels:
    """Decode an image.

    The EXIF orientation is applied; of an animation or a stack, the first frame is taken; a palette gives its colors;
    alpha is dropped as Pillow's ``convert("RGB")`` does; CMYK becomes RGB. 16-bit gray images (PNG, PGM, TIFF) and
    16-bit color TIFF keep their depth (a 16-bit color PNG is read with 8 bits). Values of floating point, or of 32
    bits, have no known range and are refused.

    Args:
        data: the bytes of a file of any kind in `coterie.data.sources.names.SUFFIXES`, whatever its name; or an array
            ``[H, W]`` or ``[H, W, C]``.
        channels: 1 for gray and 3 for RGB, to which other images are converted; an image must have any other number.
        shrink: asked with the upright image's height and width, says by how much it may be divided in decoding; JPEG
            files are (sides are rounded up), which takes half the time and less memory, others are not. None: nothing is.

    Returns:
        ``[H, W, channels]``, uint8, or uint16 for an image of more than 8 bits; contiguous, and the caller's own.

    Raises:
        BadImage: it cannot be decoded, or should not be (more than `PIXEL_LIMIT` pixels); the message says why.
    """
    if isinstance(data, np.ndarray):
        pixels = _checked(data)
    elif not data:
        raise BadImage("an empty file (0 bytes)")
    else:
        with warnings.catch_warnings():  # whatever Pillow warns of is either refused here or of no consequence
            warnings.simplefilter("ignore")
            stored = read_tiff(data, channels) if is_tiff(data) else None
            pixels = _read(data, channels, shrink) if stored is None else stored
        return np.require(with_channels(pixels, channels), requirements=("C", "W"))  # a copy of what is not ours
    return np.array(with_channels(pixels, channels), order="C")


def channels_of(data: bytes | np.ndarray) -> int:
    """How many channels an image has of itself: 1 if gray, 3 if colored, N for such a TIFF or array; alpha aside.

    Reads the header only.

    Raises:
        BadImage: it is no image.
    """
    if isinstance(data, np.ndarray):
        return int(_checked(data).shape[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_tiff(data):
            return tiff_channels(data)
        with _opened(data) as image:
            return 1 if image.mode in _GRAY else 3


def _checked(array: np.ndarray) -> Pixels:
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or not pixels.size or pixels.dtype not in (np.uint8, np.uint16):
        raise BadImage(f"an array {array.dtype}{list(array.shape)}; give uint8 or uint16 of [H, W] or [H, W, C]")
    return pixels


def _opened(data: bytes) -> Image.Image:
    """Read the header, and refuse a bomb."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise BadImage("not an image of a kind that can be read" if data else "an empty file (0 bytes)") from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        found = f"{pixels.group()} pixels" if pixels else "too many pixels"
        raise BadImage(f"{found}, more than the limit of {PIXEL_LIMIT} pixels an image") from error
    except MemoryError:
        raise
    except Exception as error:  # the parsers of headers may raise anything on a broken file
        raise damaged(error) from error
    check_size(image.height, image.width)
    return image


def _read(data: bytes, channels: int, shrink: Shrink | None) -> Pixels:
    """Decode what is no TIFF of a special kind, upright."""
    with _opened(data) as image:
        try:
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                return _read_jpeg(data, image, channels, shrink)
            image.load()
            pixels = _pixels(image, channels)
            return upright(pixels, _orientation(image))  # asked now: Pillow turns a TIFF by itself
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # as above
            raise damaged(error) from error


def _read_jpeg(data: bytes, image: Image.Image, channels: int, shrink: Shrink | None) -> Pixels:
    """With simplejpeg, or else with Pillow; reduced where that is allowed."""
    orientation, factor = _orientation(image), 1
    if shrink is not None and min(image.size) >= SMALLEST_REDUCED:
        width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
        factor = shrink(height, width)
    pixels = decode_jpeg(data, image.mode, image.height, image.width, factor)
    if pixels is None:
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        pixels = _pixels(image, channels)
    return upright(pixels, orientation)


def _pixels(image: Image.Image, channels: int) -> Pixels:
    if image.mode == "F":
        raise BadImage("floating-point values, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        stored = np.asarray(image)
        if stored.min() < 0 or stored.max() > 0xFFFF:
            raise BadImage("32-bit values, whose range is not known; save it with 8 or 16 bits")
        return stored.astype(np.uint16)[..., None]
    if image.mode in ("La", "RGBa"):  # colors multiplied by alpha; Pillow divides on this way only
        image = image.convert(image.mode.upper())
    wanted = {1: "L", 3: "RGB"}.get(channels, image.mode)
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the pixels worse
        return 1
