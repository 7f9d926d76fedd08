"""Small images for runs of a few steps."""

from pathlib import Path

import numpy as np
from PIL import Image


def small_images(folder: Path, count: int, side: int = 16) -> Path:
    """PNG files of noise in two folders, ``a`` and ``b``."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder
