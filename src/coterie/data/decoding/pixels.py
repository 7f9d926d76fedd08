"""Arrays of pixels: their size, their orientation and their channels."""

import re

import numpy as np
from jaxtyping import UInt

from coterie.errors import BadImage

PIXEL_LIMIT = 2**27  # 134 million: more pixels than this are not decoded (a Sentinel-2 tile has 121 million)
BYTE_LIMIT = 2**30  # nor are images of many channels that would take more bytes than this

Pixels = UInt[np.ndarray, "_ _ _"]  # rows, columns, channels


def check_size(height: int, width: int, bytes_a_pixel: int = 1) -> None:
    """Refuse a decompression bomb, before anything is decoded.

    Raises:
        BadImage: the image has more than `PIXEL_LIMIT` pixels or takes more than `BYTE_LIMIT` bytes.
    """
    if height * width > PIXEL_LIMIT:
        raise BadImage(f"{width} x {height} pixels, more than the limit of {PIXEL_LIMIT} pixels an image")
    if height * width * bytes_a_pixel > BYTE_LIMIT:
        size = height * width * bytes_a_pixel
        raise BadImage(f"{size} bytes when decoded, more than the limit of {BYTE_LIMIT} bytes an image")


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn an image so that it stands as it was seen, from its EXIF orientation (1 to 8; others change nothing)."""
    if orientation in (5, 6, 7, 8):  # stored with rows for columns
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Gray from color by ITU-R 601-2 luma (Pillow's rule), color from gray by repeating; others must fit.

    Raises:
        BadImage: the image has another number of channels.
    """
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if (found, channels) == (1, 3):
        return pixels.repeat(3, axis=2)
    if (found, channels) == (3, 1):
        weighted = pixels.astype(np.uint64) @ np.array([19595, 38470, 7471], dtype=np.uint64)
        return ((weighted + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    noun = "channel" if found == 1 else "channels"
    raise BadImage(f"{found} {noun} where {channels} are wanted (views.channels)")


def damaged(error: Exception) -> BadImage:
    """What is said of a file whose decoder gave up: one line, the same each time."""
    if "imagecodecs" in str(error):  # tifffile's own words
        return BadImage("a compression that needs one more package: pip install imagecodecs")
    detail = re.sub(r"<?[\w.]*( object)? at 0x\w+>?", "", " ".join(str(error).split()))[:120].strip()
    return BadImage(f"cut short or damaged ({detail or type(error).__name__})")
