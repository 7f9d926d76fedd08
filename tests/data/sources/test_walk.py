import os
from pathlib import Path

import numpy as np
import pytest

from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.walk import walk
from coterie.errors import UserError
from tests.data.sources.helpers import write


def plainly(root: Path) -> list[bytes]:
    """All images, found and sorted in the plainest way."""
    found = [os.fsencode(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in found if is_image_name(path) and b"/." not in b"/" + path)


def test_every_image_once_in_byte_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    parts = ["a", "a-b", "a.png", "b", ".hidden", "\u00e9", "z z", "0", "~"]
    ends = [".png", ".PNG", ".jpeg", ".Jpg", ".txt", "", ".tiff", ".png.bak", "/x.webp"]
    for _ in range(300):
        depth = int(generator.integers(1, 4))
        path = (
            "/".join(str(generator.choice(parts)) for _ in range(depth))
            + f"_{generator.integers(9)}{generator.choice(ends)}"
        )
        if not (tmp_path / path).exists() and all(not parent.is_file() for parent in (tmp_path / path).parents):
            write(tmp_path, path)
    found = [name for run in walk(os.fsencode(tmp_path)) for name in run]
    assert found == plainly(tmp_path)
    assert len(found) > 50


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("1.png 2.png .3.png", "1.png 2.png"),
        (".1.png 2.jpg 3.png", "2.jpg 3.png"),
        ("1.png 2.txt", "1.png"),
        ("1.jpeg 2.jpeg", "1.jpeg 2.jpeg"),
        ("xpng 1.png", "1.png"),
        (".png .jpg", ""),
        ("a.txt b.txt", ""),
    ],
)
def test_one_folder(given: str, found: str, tmp_path: Path) -> None:
    write(tmp_path, *given.split())
    assert [name.decode() for run in walk(os.fsencode(tmp_path)) for name in run] == found.split()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot list this folder: No such file"):
        list(walk(os.fsencode(tmp_path / "x")))
