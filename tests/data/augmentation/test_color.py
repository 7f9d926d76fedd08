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
        (colors.adjust_brightness, F.adjust_brightness),
        (colors.adjust_contrast, F.adjust_contrast),
        (colors.adjust_saturation, F.adjust_saturation),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_brightness_contrast_and_saturation_equal_torchvisions(image, ours, theirs, factor):
    planes = planes_of(image)
    ours(planes, factor)
    assert difference(planes, theirs(Image.fromarray(image), factor)).max() == 0


@pytest.mark.parametrize("shift", [-0.5, -0.2, -0.0371, -0.001, 0.001, 0.0834, 0.15, 0.2, 0.5])
def test_hue_equals_torchvisions(image, shift):
    planes = planes_of(image)
    colors.adjust_hue(planes, shift)
    assert difference(planes, F.adjust_hue(Image.fromarray(image), shift)).max() == 0


def test_luma_equals_torchvisions_grayscale(image):
    gray = colors.luma(planes_of(image))
    assert difference(np.stack([gray] * 3), F.to_grayscale(Image.fromarray(image), 3)).max() == 0


def test_solarize_equals_torchvisions(image):
    planes = planes_of(image)
    colors.solarize(planes)
    assert difference(planes, F.solarize(Image.fromarray(image), 128)).max() == 0


@pytest.mark.parametrize(
    "operation",
    [colors.adjust_brightness, colors.adjust_contrast, colors.adjust_saturation, colors.adjust_hue],
    ids=lambda each: each.__name__,
)
def test_many_views_at_once_give_the_same_as_each_alone(operation):
    views = [IMAGES["noise"][:60, :60], IMAGES["astronaut"][:60, :60], IMAGES["china"][100:160, 100:160]]
    factors = np.array([0.13, -0.2, 0.05] if operation is colors.adjust_hue else [0.4, 1.7, 1.0])
    together = np.stack([planes_of(view) for view in views], axis=1)
    operation(together[:, :2], factors[:2, None, None])  # not contiguous in memory
    operation(together[:, 2:], factors[2:, None, None])
    for number, view in enumerate(views):
        alone = planes_of(view)
        operation(alone, float(factors[number]))
        assert (together[:, number] == alone).all()
        assert (alone != planes_of(view)).any() or factors[number] == 1


def test_the_mean_gray_of_a_large_view_is_exact():
    image = np.full((400, 500, 3), 255, dtype=np.uint8)  # the sum of its gray exceeds single precision
    image[:, ::2] = 254
    image[0, 1] = 254  # the mean is five millionths below 254.5
    planes = planes_of(image)
    colors.adjust_contrast(planes, 0.5)
    assert difference(planes, F.adjust_contrast(Image.fromarray(image), 0.5)).max() == 0
