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


def view_of(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def blurred(view: np.ndarray, sigma: float) -> np.ndarray:
    """Blur one view alone."""
    views = view[None].copy()
    blur(views, np.array([sigma]))
    return views[0]


def pillows(image: np.ndarray, sigma: float) -> np.ndarray:
    return view_of(np.asarray(Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.GaussianBlur(sigma))))


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.float64) - other)


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 0.731, 1.0, 1.2345, 2**0.5, 1.5, 1.9, 2.0, 3.3, 7.0])
@pytest.mark.parametrize("name", IMAGES)
def test_it_matches_pillow(name, sigma):
    errors = difference(blurred(view_of(IMAGES[name]), sigma), pillows(IMAGES[name], sigma))
    assert errors.max() <= 2
    assert errors.mean() <= 0.5


def test_at_random_radii_hardly_a_value_differs():
    differing = [
        (blurred(view_of(NOISE), sigma) != pillows(NOISE, sigma)).mean()
        for sigma in np.random.default_rng(1).uniform(0.1, 2.0, size=20).tolist()
    ]
    assert np.mean(differing) < 1e-3


@pytest.mark.parametrize("reach", [0, 1, 2, 4])
@pytest.mark.parametrize("side", [1, 2, 7, 18, 50])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_many_views_at_once_give_the_same_as_each_alone(reach, side, dtype):
    generator = np.random.default_rng(side)
    sigmas = np.array([sigma for sigma in generator.uniform(0.1, 6.0, 200) if box_filter(sigma)[0] == reach][:9])
    views = generator.integers(0, 256, (len(sigmas), 3, side, side), dtype=np.uint8)
    views = views if dtype == np.uint8 else views.astype(dtype) / 255
    alone = np.stack([blurred(view, sigma) for view, sigma in zip(views, sigmas.tolist(), strict=True)])
    blur(views[2:5], sigmas[2:5])
    assert (views[2:5] == alone[2:5]).all()
    assert (views[5:] != alone[5:]).any() or side == 1
    blur(views[5:], sigmas[5:])
    assert (views[5:] == alone[5:]).all()


def test_values_in_zero_to_one_are_not_rounded():
    view = view_of(NOISE) / np.float32(255)
    ours = blurred(view, 1.5)
    assert len(np.unique(ours)) > 1000
    assert difference(ours, pillows(NOISE, 1.5) / 255).max() < 2 / 255
    assert np.allclose(blurred(view * 0.5, 1.5), ours * 0.5, atol=1e-6)
    assert np.allclose(blurred(np.full_like(view, 0.7), 1.5), 0.7, atol=1e-5)
