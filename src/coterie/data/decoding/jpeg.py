"""JPEG decoding by simplejpeg (the extra ``fast``), where it is installed.

It uses the same library as Pillow, libjpeg-turbo, with the same settings, and gives the same pixels to the last bit in
three quarters of the time. Whatever it refuses, or so much as warns about, is left to Pillow, so that a damaged file is
treated the same with and without it.
"""

import numpy as np

from coterie.data.decoding.pixels import PixelArray

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

MIN_DOWNSCALED_SIDE = 8
"""Smallest side of an image that is downscaled in decoding: below, several of the library's scales give the same size."""
_COLOR_SPACES = {"L": "GRAY", "RGB": "RGB"}


def decode_jpeg(
    data: bytes, mode: str, height: int, width: int, factor: int = 1, *, gray: bool = False
) -> PixelArray | None:
    """Decode a JPEG file whose header was read and whose size was checked.

    Args:
        data: The file.
        mode: Pillow's name of its color mode.
        height: Height of the full image, from its header.
        width: Width of the full image, from its header.
        factor: 1, 2, 4 or 8: divides height and width, rounding up.
        gray: Decode only the luma of a colored file.

    Returns:
        ``[H, W, C]``, uint8, in the stored orientation; None if Pillow has to decode the file.
    """
    if simplejpeg is None or mode not in _COLOR_SPACES:
        return None
    mode = "L" if gray else mode
    channels, (height, width) = 1 if mode == "L" else 3, downscaled_size(height, width, factor)
    minimum = {"min_height": height, "min_width": width} if factor > 1 else {}
    buffer = np.empty((height, width, channels), dtype=np.uint8)  # no more than this, whatever a second header says
    try:
        pixels: PixelArray = simplejpeg.decode_jpeg(data, _COLOR_SPACES[mode], buffer=buffer, strict=True, **minimum)
    except MemoryError:
        raise
    except Exception:  # the file is broken; Pillow says what is wrong with it
        return None
    return pixels if pixels.shape == buffer.shape else None


def downscaled_size(height: int, width: int, factor: int) -> tuple[int, int]:
    """Height and width of an image decoded at ``1 / factor``."""
    return -(-height // factor), -(-width // factor)
