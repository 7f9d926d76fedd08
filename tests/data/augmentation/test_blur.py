"""The blur against Pillow's at the same radius."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from coterie.data.augmentation.blur import blur, box_filter

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


def blurred(planes: np.ndarray, sigma: float, *, round_values: bool = True) -> np.ndarray:
    """Blur one view alone."""
    views = planes[:, None].copy()
    blur(views, np.array([sigma]), round_values=round_values)
    return views[:, 0]


def pillows(image: np.ndarray, sigma: float) -> np.ndarray:
    return planes_of(np.asarray(Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.GaussianBlur(sigma))))


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 0.731, 1.0, 1.2345, 2**0.5, 1.5, 1.9, 2.0, 3.3, 7.0])
@pytest.mark.parametrize("name", IMAGES)
def test_it_matches_pillow(name, sigma):
    ours = blurred(planes_of(IMAGES[name]), sigma)
    difference = np.abs(ours - pillows(IMAGES[name], sigma))
    assert (ours == np.round(ours)).all()
    assert difference.max() <= 2
    assert difference.mean() <= 0.5


def test_at_random_radii_hardly_a_value_differs():
    differing = [
        (blurred(planes_of(NOISE), sigma) != pillows(NOISE, sigma)).mean()
        for sigma in np.random.default_rng(1).uniform(0.1, 2.0, size=20).tolist()
    ]
    assert np.mean(differing) < 1e-3


@pytest.mark.parametrize("reach", [0, 1, 2, 4])
@pytest.mark.parametrize("side", [1, 2, 7, 18, 50])
@pytest.mark.parametrize("round_values", [True, False])
def test_many_views_at_once_give_the_same_as_each_alone(reach, side, round_values):
    generator = np.random.default_rng(side)
    sigmas = np.array([sigma for sigma in generator.uniform(0.1, 6.0, 200) if box_filter(sigma)[0] == reach][:9])
    planes = generator.integers(0, 256, (3, len(sigmas), side, side)).astype(np.float32) / (1 if round_values else 255)
    alone = [
        blurred(planes[:, number], sigma, round_values=round_values) for number, sigma in enumerate(sigmas.tolist())
    ]
    some = planes[:, 2:5]  # planes that are not contiguous in memory
    blur(some, sigmas[2:5], round_values=round_values)
    assert (planes[:, 2:5] == np.stack(alone[2:5], axis=1)).all()
    assert (planes[:, 5:] != np.stack(alone[5:], axis=1)).any() or side == 1
    blur(planes[:, 5:], sigmas[5:], round_values=round_values)
    assert (planes[:, 5:] == np.stack(alone[5:], axis=1)).all()


def test_values_in_zero_to_one_are_not_rounded():
    planes = planes_of(NOISE) / np.float32(255)
    ours = blurred(planes, 1.5, round_values=False)
    assert len(np.unique(ours)) > 1000
    assert np.abs(ours - pillows(NOISE, 1.5) / 255).max() < 2 / 255
    assert np.allclose(blurred(planes * 0.5, 1.5, round_values=False), ours * 0.5, atol=1e-6)
    assert np.allclose(blurred(np.full_like(planes, 0.7), 1.5, round_values=False), 0.7, atol=1e-5)
