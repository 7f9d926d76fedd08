"""Small pictures and image files."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image


def photo(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth random picture, so that lossy formats stay close to it."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def deep_photo() -> np.ndarray:
    """A picture of 16 bits, [24, 32, 3], with more than 256 values."""
    return photo(3).astype(np.uint16) * 257 + np.arange(32, dtype=np.uint16)[None, :, None] % 2


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A file in one of Pillow's formats."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    """A TIFF file written by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def deep_png(pixels: np.ndarray, passes: bool = False) -> bytes:
    """A PNG file of 16 bits: gray and alpha, RGB or RGBA ``[H, W, 2 to 4]``; in the seven passes of Adam7 if ``passes``."""
    height, width, samples = pixels.shape
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = [pixels[top::down, left::right] for left, top, right, down in steps] if passes else [pixels]
    rows = b"".join(bytes(1) + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, passes)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data
