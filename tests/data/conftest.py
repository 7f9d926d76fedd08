from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data import pictures


@pytest.fixture(scope="session")
def photo() -> Callable[..., np.ndarray]:
    return pictures.photo


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    return pictures.encoded


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """cat/0.png .. cat/2.png, dog/0.png, dog/1.png: five different images."""
    root = tmp_path / "animals"
    for seed, name in enumerate(["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.encoded(pictures.photo(seed)))
    return root
