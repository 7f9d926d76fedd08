"""JPEG files decoded by simplejpeg (the extra ``fast``), where it is installed.

It is the same library as Pillow's, libjpeg-turbo, with the same settings, and gives the same pixels to the last bit; it only
takes a quarter less time. Whatever it refuses or so much as warns of is left to Pillow, so a damaged file is judged alike
with and without it.
"""

import numpy as np

from coterie.data.decoding.pixels import Pixels

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

SMALLEST_REDUCED = 8
"""The least side of an image that is decoded at a reduced size: below it, several of the library's scales give one size."""
_SPACES = {"L": "GRAY", "RGB": "RGB"}


def decode_jpeg(data: bytes, mode: str, height: int, width: int, factor: int = 1) -> Pixels | None:
    """Decode a JPEG file whose header has been read, and its size checked.

    Args:
        data: the file.
        mode: Pillow's name for what it holds.
        height: of the whole image, as its header has it.
        width: likewise.
        factor: 1, 2, 4 or 8: by how much the image is divided in decoding, rounding sides up.

    Returns:
        ``[H, W, C]``, uint8, as stored (not turned); or None: Pillow is to decode it.
    """
    if simplejpeg is None or mode not in _SPACES:
        return None
    channels, (height, width) = 1 if mode == "L" else 3, reduced(height, width, factor)
    least = {"min_height": height, "min_width": width} if factor > 1 else {}
    space = np.empty((height, width, channels), dtype=np.uint8)  # no more, whatever a second header says
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, _SPACES[mode], buffer=space, strict=True, **least)
    except MemoryError:
        raise
    except Exception:  # of a broken file; Pillow says what is wrong with it
        return None
    return pixels if pixels.shape == space.shape else None


def reduced(height: int, width: int, factor: int) -> tuple[int, int]:
    """The size of an image that is decoded at ``1 / factor``."""
    return -(-height // factor), -(-width // factor)
