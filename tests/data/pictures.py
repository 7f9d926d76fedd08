"""Small pictures and image files."""

import io

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
