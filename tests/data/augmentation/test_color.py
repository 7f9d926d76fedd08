"""Each color operation against torchvision's on a PIL image, given the same factor."""

import numpy as np
import pytest
import torchvision.transforms.functional as F
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from coterie.data.augmentation import color as colors

LEVELS = np.array([*range(0, 256, 3), 1, 254], dtype=np.uint8)


def every_third_color() -> np.ndarray:
    red, green, blue = np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij")
    return np.stack([red, green, blue], axis=-1).reshape(len(LEVELS), -1, 3)


IMAGES = {
    "astronaut": data.astronaut(),
    "china": load_sample_image("china.jpg"),
    "noise": np.random.default_rng(0).integers(0, 256, size=(120, 97, 3), dtype=np.uint8),
    "colors": every_third_color(),
    "one_pixel": np.array([[[200, 3, 100]]], dtype=np.uint8),
    "gray": np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3),
}


@pytest.fixture(params=IMAGES, scope="module")
def image(request) -> np.ndarray:
    return IMAGES[request.param]


def view_of(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def differs(views: np.ndarray, theirs: Image.Image) -> bool:
    return bool((views != view_of(np.asarray(theirs))).any())


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5, 0.7391, 1.0, 1.3, 1.5, 1.8, 3.0])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (colors.adjust_brightness, F.adjust_brightness),
        (colors.adjust_contrast, F.adjust_contrast),
        (colors.adjust_saturation, F.adjust_saturation),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_brightness_contrast_and_saturation_equal_torchvisions(image, ours, theirs, factor):
    views = view_of(image)
    ours(views, np.array([factor]))
    assert not differs(views, theirs(Image.fromarray(image), factor))


@pytest.mark.parametrize("shift", [-0.5, -0.2, -0.0371, -0.001, 0.001, 0.0834, 0.15, 0.2, 0.5])
def test_hue_equals_torchvisions(image, shift):
    views = view_of(image)
    colors.adjust_hue(views, np.array([shift]))
    assert not differs(views, F.adjust_hue(Image.fromarray(image), shift))


def test_luma_equals_torchvisions_grayscale(image):
    gray = colors.luma(view_of(image))
    assert not differs(np.stack([gray] * 3, axis=1), F.to_grayscale(Image.fromarray(image), 3))


def test_solarize_equals_torchvisions(image):
    views = view_of(image)
    colors.solarize(views)
    assert not differs(views, F.solarize(Image.fromarray(image), 128))


def random_factors(above: float) -> list[float]:
    return (np.random.default_rng(2).uniform(0, above, 40)).tolist()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(colors.adjust_contrast, F.adjust_contrast), (colors.adjust_saturation, F.adjust_saturation)]
)
def test_random_factors_give_torchvisions_pixels(ours, theirs):
    for factor in random_factors(2) + random_factors(10):
        views = view_of(IMAGES["noise"])
        ours(views, np.array([factor]))
        assert not differs(views, theirs(Image.fromarray(IMAGES["noise"]), factor))


NEAR_WHOLE = [np.float32(whole) / np.float32(byte) for whole, byte in ((1, 3), (85, 127), (140, 167), (200, 131))]
"""Scaled by such a factor, a difference of that byte is not quite a whole number; Pillow may round its sum with the gray."""


@pytest.mark.parametrize(
    "factor", [each for near in NEAR_WHOLE for each in (np.nextafter(near, 0), near, np.nextafter(near, 9))]
)
def test_saturation_that_almost_gives_whole_numbers_equals_torchvisions(factor):
    image = IMAGES["colors"]
    views = np.concatenate([view_of(image), view_of(255 - image)])
    colors.adjust_saturation(views, np.array([float(factor), 0.7]))
    assert not differs(views[:1], F.adjust_saturation(Image.fromarray(image), float(factor)))
    assert not differs(views[1:], F.adjust_saturation(Image.fromarray(255 - image), 0.7))


@pytest.mark.parametrize(
    "operation",
    [colors.adjust_brightness, colors.adjust_contrast, colors.adjust_saturation, colors.adjust_hue],
    ids=lambda each: each.__name__,
)
def test_many_views_at_once_give_the_same_as_each_alone(operation):
    images = [IMAGES["noise"][:60, :60], IMAGES["astronaut"][:60, :60], IMAGES["china"][100:160, 100:160]]
    factors = np.array([0.13, -0.2, 0.05] if operation is colors.adjust_hue else [0.4, 1.7, 1.0])
    together = np.concatenate([view_of(image) for image in images])
    operation(together[:2], factors[:2])
    operation(together[2:], factors[2:])
    for number, image in enumerate(images):
        alone = view_of(image)
        operation(alone, factors[[number]])
        assert (together[number] == alone[0]).all()
        assert (alone != view_of(image)).any() or factors[number] == 1


def test_the_mean_gray_of_a_large_view_is_exact():
    image = np.full((400, 500, 3), 255, dtype=np.uint8)  # the sum of its gray exceeds single precision
    image[:, ::2] = 254
    image[0, 1] = 254  # the mean is five millionths below 254.5
    views = view_of(image)
    colors.adjust_contrast(views, np.array([0.5]))
    assert not differs(views, F.adjust_contrast(Image.fromarray(image), 0.5))
