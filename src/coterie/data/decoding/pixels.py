"""Arrays of pixels: their size, orientation and channels."""

import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped, UInt

from coterie.errors import BadImage

PIXEL_LIMIT = 2**27  # 134 million: images of more pixels are not decoded (a Sentinel-2 tile has 121 million)
BYTE_LIMIT = 2**30  # images of many channels that take more bytes are not decoded

LARGEST_VALUE = 1e30  # of an image; beyond are marks of missing data
UNKNOWN_RANGE = (
    "{} values, whose range is not known; set views.range to two numbers, or to auto to have them measured, or scale all "
    "images alike to 16 bits (docs/pretrain.md)"
)
_BLOCK = 2**18  # pixels that are converted at a time: floating-point copies of all would take gigabytes

PixelArray = UInt[np.ndarray, "_ _ _"]  # rows, columns, channels
Stored = Shaped[np.ndarray, "_ _ _"]  # rows, columns, samples, of any type
Depth = np.dtype[np.uint8] | np.dtype[np.uint16]
ValueRange = tuple[float, float]
"""The values, of a type whose range is not known, that become 0 and 1: the lowest and the highest that matter."""
Limits = ValueRange | Callable[[Stored], ValueRange]
"""A range, or a function that is given the values of an image and returns one."""


def check_size(height: int, width: int, bytes_per_pixel: int = 1) -> None:
    """Refuse a decompression bomb before anything is decoded.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        bytes_per_pixel: Bytes of all channels of a pixel.

    Raises:
        BadImage: The image has more than `PIXEL_LIMIT` pixels or takes more than `BYTE_LIMIT` bytes.
    """
    if height * width > PIXEL_LIMIT:
        raise BadImage(f"{width} x {height} pixels, more than the limit of {PIXEL_LIMIT} pixels per image")
    check_bytes(height * width * bytes_per_pixel)


def check_bytes(size: int) -> None:
    """Refuse an image that takes more than `BYTE_LIMIT` bytes.

    Raises:
        BadImage: It does.
    """
    if size > BYTE_LIMIT:
        raise BadImage(f"{size} bytes when decoded, more than the limit of {BYTE_LIMIT} bytes per image")


def apply_orientation(pixels: PixelArray, orientation: int) -> PixelArray:
    """Turn an image upright by its EXIF orientation (1 to 8; other values change nothing)."""
    if orientation in (5, 6, 7, 8):  # rows are stored as columns
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def convert_channels(pixels: PixelArray, channels: int) -> PixelArray:
    """Convert color to gray by ITU-R 601-2 luma (like Pillow), and gray to color by repeating.

    Raises:
        BadImage: The image has another number of channels, which cannot be converted.
    """
    present = pixels.shape[2]
    if present == channels:
        return pixels
    if (present, channels) == (1, 3):
        return pixels.repeat(3, axis=2)
    if (present, channels) == (3, 1):
        return _gray(pixels)
    noun = "channel" if present == 1 else "channels"
    raise BadImage(f"{present} {noun} where {channels} are needed (views.channels)")


def _gray(pixels: PixelArray) -> PixelArray:
    """Some rows at a time, which stay in the processor's cache: a third of the time of all at once."""
    gray = np.empty((*pixels.shape[:2], 1), pixels.dtype)
    rows = max(1, 2**16 // pixels.shape[1])
    for first in range(0, len(pixels), rows):
        red, green, blue = np.moveaxis(pixels[first : first + rows].astype(np.uint32), 2, 0)
        gray[first : first + rows, :, 0] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return gray


def by_rows(convert: Callable[[Stored], np.ndarray], stored: Stored, channels: int, dtype: Depth) -> PixelArray:
    """Convert some rows at a time."""
    pixels = np.empty((*stored.shape[:2], channels), dtype)
    rows = max(1, _BLOCK // stored.shape[1])
    for first in range(0, len(stored), rows):
        pixels[first : first + rows] = convert(stored[first : first + rows])
    return pixels


def scaled(stored: Stored, limits: Limits) -> PixelArray:
    """Scale values of any type to 16 bits; those outside of the limits become these, and what is not a number 0."""
    low, high = limits(stored) if callable(limits) else limits

    def convert(rows: Stored) -> np.ndarray:
        shares = (np.nan_to_num(rows.astype(np.float64), nan=low) - low) / (high - low)
        codes: np.ndarray = np.rint(shares.clip(0, 1) * 65535)
        return codes

    return by_rows(convert, stored, stored.shape[2], np.dtype(np.uint16))


def damaged_image(error: Exception) -> BadImage:
    """The error for a file whose decoder failed: one line, always the same for the same file."""
    detail = re.sub(r"<?[\w.]*( object)? at 0x\w+>?", "", " ".join(str(error).split()))[:120].strip()
    if "imagecodecs" in detail:  # tifffile's own words
        return BadImage(f"{detail}: pip install 'coterie[tiff]', or pip install imagecodecs")
    if isinstance(error, NotImplementedError) or re.search("not supported|unsupported|unknown|cannot handle", detail):
        return BadImage(f"stored in a way that is not supported ({detail})")
    kind = "truncated" if "truncated" in detail else "truncated or damaged"
    return BadImage(f"{kind} ({detail or type(error).__name__})")
