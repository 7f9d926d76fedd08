import io

import numpy as np
import pytest
import tifffile

from coterie.data.sources.arrays import Arrays
from coterie.data.sources.open import open_source
from coterie.data.statistics import measure
from coterie.errors import NoImages


def test_mean_and_deviation_are_those_of_all_pixels():
    images = np.random.default_rng(0).integers(0, 256, (7, 20, 30, 3), dtype=np.uint8)
    images[..., 1] //= 3
    found = measure(Arrays(images))
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(found.std, images.std(axis=(0, 1, 2)) / 255, rtol=1e-12)
    assert (found.median_size, found.channels, found.bits) == ((20, 30), 3, 8)
    assert (found.sampled, found.bad) == (7, 0)


def test_every_image_counts_the_same_whatever_its_size():
    small, large = np.zeros((2, 2, 3), np.uint8), np.full((1000, 1500, 3), 255, np.uint8)
    found = measure(Arrays([small, large, large[:500]]))
    np.testing.assert_allclose(found.mean, [2 / 3] * 3)
    assert found.median_size == (500, 1500)


def test_a_large_image_is_read_on_a_grid():
    ramp = np.broadcast_to(np.linspace(0, 65535, 2000).astype(np.uint16)[None, :, None], (1500, 2000, 1))
    found = measure(Arrays([ramp]))
    np.testing.assert_allclose(found.mean, [0.5], atol=2e-3)
    np.testing.assert_allclose(found.std, [1 / 12**0.5], atol=2e-3)
    assert (found.bits, found.channels) == (16, 1)


def test_the_sample_is_even_and_always_the_same():
    images = [np.full((4, 4, 3), value, np.uint8) for value in range(200)]
    found = measure(Arrays(images), limit=10)
    np.testing.assert_allclose(found.mean[0], np.mean(range(0, 200, 20)) / 255)
    assert found.sampled == 10
    assert found == measure(Arrays(images), limit=10)


def test_one_color_can_still_be_divided_by():
    assert measure(Arrays([np.zeros((4, 4, 3), np.uint8)])).std == (1 / 255,) * 3
    assert measure(Arrays([np.zeros((4, 4), np.uint16)])).std == (1 / 65535,)


def test_channels_are_found(photo, encoded, tmp_path):
    color, gray = photo(), photo()[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((5, 8, 9), np.uint16), planarconfig="separate")
    for name, data in (("a", encoded(gray)), ("b", encoded(color)), ("c", file.getvalue())):
        (tmp_path / f"{name}.png").write_bytes(data)
    (tmp_path / "d.png").write_bytes(b"")
    path = str(tmp_path)
    assert measure(open_source(f"{path}/a.png")).channels == 1
    assert measure(open_source(f"{path}/b.png")).channels == 3
    assert measure(open_source(f"{path}/[ab].png")).channels == 3
    many = measure(open_source(f"{path}/c.png", f"{path}/d.png"))
    assert (many.channels, len(many.mean), many.bits, many.sampled, many.bad) == (5, 5, 16, 1, 1)
    assert measure(open_source(f"{path}/[ab].png"), channels=1).channels == 1
    with pytest.raises(NoImages, match="3 channels where 5 are wanted"):
        measure(open_source(f"{path}/b.png"), channels=5)


def test_16_bits_and_8_bits_are_on_one_scale(photo):
    eight = measure(Arrays([photo(1)]))
    sixteen = measure(Arrays([photo(1).astype(np.uint16) * 257]))
    np.testing.assert_allclose(eight.mean, sixteen.mean)
    np.testing.assert_allclose(eight.std, sixteen.std)
    assert measure(Arrays([photo(1), photo(1).astype(np.uint16) * 257])).bits == 16


def test_no_image_that_can_be_decoded(tmp_path):
    for name, data in (("a.jpg", b""), ("b.png", b"text")):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(NoImages, match=r"^no image can be decoded \(2 were looked at\); the first: a.jpg: an empty"):
        measure(open_source(str(tmp_path)))


def test_bad_images_are_counted(photo, encoded, tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded(photo())[: 60 if number % 3 == 0 else None])
    found = measure(open_source(str(tmp_path)))
    assert (found.sampled, found.bad) == (4, 2)
    np.testing.assert_allclose(found.mean, photo().mean(axis=(0, 1)) / 255)
