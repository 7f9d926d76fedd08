"""Each colour operation against torchvision's on a PIL image, given the same factor."""

import numpy as np
import pytest
import torchvision.transforms.functional as F
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from coterie.data import colors

LEVELS = np.array([*range(0, 256, 3), 1, 254], dtype=np.uint8)


def every_third_colour() -> np.ndarray:
    red, green, blue = np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij")
    return np.stack([red, green, blue], axis=-1).reshape(len(LEVELS), -1, 3)


IMAGES = {
    "astronaut": data.astronaut(),
    "china": load_sample_image("china.jpg"),
    "noise": np.random.default_rng(0).integers(0, 256, size=(120, 97, 3), dtype=np.uint8),
    "colours": every_third_colour(),
    "one_pixel": np.array([[[200, 3, 100]]], dtype=np.uint8),
    "grey": np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3),
}


@pytest.fixture(params=IMAGES, scope="module")
def image(request) -> np.ndarray:
    return IMAGES[request.param]


def planes_of(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


def difference(planes: np.ndarray, theirs: Image.Image) -> np.ndarray:
    assert (planes == np.round(planes)).all()
    assert planes.min() >= 0
    assert planes.max() <= 255
    return np.abs(planes - planes_of(np.asarray(theirs)))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 0.7391, 1.0, 1.3, 1.5, 1.8, 3.0])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colors.brighten, F.adjust_brightness),
        (colors.contrast, F.adjust_contrast),
        (colors.saturate, F.adjust_saturation),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_the_three_stretches_are_torchvisions_to_the_last_bit(image, ours, theirs, factor):
    planes = planes_of(image)
    ours(planes, factor)
    assert difference(planes, theirs(Image.fromarray(image), factor)).max() == 0


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.0371, -0.001, 0.001, 0.0834, 0.15, 0.2, 0.5])
def test_a_turned_hue_is_torchvisions_but_for_one_value_in_a_hundred_thousand(image, turn):
    planes = planes_of(image)
    colors.turn_hue(planes, turn)
    found = difference(planes, F.adjust_hue(Image.fromarray(image), turn))
    assert found.max() <= 1
    assert found.mean() <= 1e-5


def test_luma_is_torchvisions_grayscale_to_the_last_bit(image):
    grey = colors.luma(planes_of(image))
    assert difference(np.stack([grey] * 3), F.to_grayscale(Image.fromarray(image), 3)).max() == 0


def test_solarize_is_torchvisions_to_the_last_bit(image):
    planes = planes_of(image)
    colors.solarize(planes)
    assert difference(planes, F.solarize(Image.fromarray(image), 128)).max() == 0
