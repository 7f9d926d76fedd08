import base64
import io

import jinja2
import numpy as np
import pytest
from PIL import Image

from coterie.reporting.comparison import ComparedRuns
from coterie.reporting.html import MAX_PNG_SIDE, render_template, sprite, thumbnail


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def decoded(uri: str) -> tuple[str, np.ndarray]:
    kind, _, data = uri.partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return kind, np.asarray(image)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 7])
def test_small_pictures_are_kept_pixel_by_pixel(channels: int | None) -> None:
    pixels = noise(MAX_PNG_SIDE, 32, channels or 1)
    expected = pixels[:, :, :3] if channels in (3, 4) else pixels[:, :, 0]
    kind, shown = decoded(thumbnail(pixels if channels else pixels[:, :, 0], 112))
    assert kind == "data:image/png;base64"
    assert np.array_equal(shown, expected)


def test_large_pictures_are_scaled_down_in_proportion() -> None:
    kind, shown = decoded(thumbnail(np.zeros((300, 600, 3), np.uint8), 112))
    assert kind == "data:image/jpeg;base64"
    assert shown.shape == (56, 112, 3)
    kind, shown = decoded(thumbnail(np.zeros((MAX_PNG_SIDE + 1, 30), np.uint8), 112))
    assert kind == "data:image/jpeg;base64"
    assert shown.shape == (MAX_PNG_SIDE + 1, 30)


@pytest.mark.parametrize(("count", "across", "down"), [(0, 1, 1), (1, 1, 1), (3, 2, 2), (7, 3, 3), (12, 3, 4)])
def test_a_sprite_has_every_picture_in_its_square_row_by_row(count: int, across: int, down: int) -> None:
    pictures = [np.full((5, 9, 3), (20 * number, 100, 255 - 20 * number), np.uint8) for number in range(count)]
    uri, *size = sprite(pictures, 16)
    assert size == [across, down]
    _, sheet = decoded(uri)
    assert sheet.shape == (16 * down, 16 * across, 3)
    for number, pixels in enumerate(pictures):
        top, left = number // across * 16, number % across * 16
        middle = sheet[top + 4 : top + 12, left + 4 : left + 12].reshape(-1, 3).astype(int)
        assert abs(middle - pixels[0, 0]).max() < 16  # JPEG, and neighbors in the same block


def test_a_template_escapes_its_values_and_does_not_hide_a_missing_one() -> None:
    found = ComparedRuns(("<b>one", "two"), "& so", (), (), ())
    page = render_template("comparison.html", side=1, found=found, warnings=[])
    assert "&lt;b&gt;one" in page
    assert "&amp; so" in page
    assert "<b>one" not in page
    with pytest.raises(jinja2.UndefinedError):
        render_template("comparison.html", side=1, warnings=[])
