"""The blur against Pillow's at the same radius."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from coterie.data.blur import blur

NOISE = np.random.default_rng(0).integers(0, 256, size=(96, 131, 3), dtype=np.uint8)
IMAGES = {
    "astronaut": np.ascontiguousarray(data.astronaut()[:224, 100:324]),
    "noise": NOISE,
    "black_and_white": (NOISE > 127).astype(np.uint8) * 255,
    "narrow": NOISE[:, :2],
    "one_pixel": NOISE[:1, :1],
}


def planes_of(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


def pillows(image: np.ndarray, sigma: float) -> np.ndarray:
    return planes_of(np.asarray(Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.GaussianBlur(sigma))))


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 0.731, 1.0, 1.2345, 2**0.5, 1.5, 1.9, 2.0, 3.3, 7.0])
@pytest.mark.parametrize("name", IMAGES)
def test_it_is_pillows(name, sigma):
    blurred = blur(planes_of(IMAGES[name]), sigma, whole=True)
    difference = np.abs(blurred - pillows(IMAGES[name], sigma))
    assert (blurred == np.round(blurred)).all()
    assert difference.max() <= 2
    assert difference.mean() <= 0.5


def test_at_a_drawn_radius_hardly_a_value_differs():
    differing = [
        (blur(planes_of(NOISE), sigma, whole=True) != pillows(NOISE, sigma)).mean()
        for sigma in np.random.default_rng(1).uniform(0.1, 2.0, size=20).tolist()
    ]
    assert np.mean(differing) < 1e-3


def test_its_input_stays_as_it_is():
    planes = planes_of(NOISE)
    blur(planes, 1.7, whole=True)
    assert (planes == planes_of(NOISE)).all()


def test_values_that_are_not_whole_are_not_rounded():
    planes = planes_of(NOISE) / np.float32(255)
    blurred = blur(planes, 1.5, whole=False)
    assert len(np.unique(blurred)) > 1000
    assert np.abs(blurred - pillows(NOISE, 1.5) / 255).max() < 2 / 255
    assert np.allclose(blur(planes * 0.5, 1.5, whole=False), blurred * 0.5, atol=1e-6)
    assert np.allclose(blur(np.full_like(planes, 0.7), 1.5, whole=False), 0.7, atol=1e-5)
