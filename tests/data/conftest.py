import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def photo(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth random picture, so that lossy kinds come close."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(name="photo", scope="session")
def photo_fixture() -> Callable[..., np.ndarray]:
    return photo


@pytest.fixture(name="encoded", scope="session")
def encoded_fixture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """cat/0.png .. cat/2.png, dog/0.png, dog/1.png: five different images."""
    root = tmp_path / "animals"
    for seed, name in enumerate(["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(seed)))
    return root
