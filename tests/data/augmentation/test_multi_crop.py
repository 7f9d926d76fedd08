import dataclasses

import pytest

from coterie.data.augmentation.multi_crop import Augmentation, Crops
from coterie.errors import BadConfig


def test_the_defaults_of_augmentation_are_swavs():
    assert dataclasses.astuple(Augmentation()) == (0.5, 0, 0, 0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 0.5, (0.1, 2.0), 0)


def test_each_group_of_crops_has_an_augmentation_of_its_own():
    first, second = Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14), augmentation=Augmentation(flip=0.0))
    assert (first.augmentation.flip, second.augmentation.flip) == (0.5, 0.0)
    assert first.ratio == (3 / 4, 4 / 3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_probabilities_may_be_zero_or_one(value):
    names = ("flip", "vertical_flip", "rotation", "jitter", "grayscale", "blur", "solarize")
    made = Augmentation(**dict.fromkeys(names, value))
    assert {getattr(made, name) for name in names} == {value}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "augmentation.flip cannot be 1.5; it is a probability: give a number from 0 to 1"),
        ({"blur": -0.1}, "augmentation.blur cannot be -0.1"),
        ({"solarize": float("nan")}, "augmentation.solarize cannot be nan"),
        ({"brightness": -1.0}, "augmentation.brightness cannot be -1.0"),
        ({"saturation": float("inf")}, "augmentation.saturation cannot be inf"),
        ({"hue": 0.6}, "augmentation.hue cannot be 0.6; it is a share of the color circle"),
        ({"blur_radius": (2.0, 0.1)}, "augmentation.blur_radius cannot be (2.0, 0.1)"),
        ({"blur_radius": (0.0, 1.0)}, "augmentation.blur_radius cannot be (0.0, 1.0)"),
    ],
)
def test_invalid_augmentations_are_refused(settings, message):
    with pytest.raises(BadConfig) as error:
        Augmentation(**settings)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "crops.count cannot be 0; it is the number of views per image: give 1 or more"),
        ({"size": 0}, "crops.size cannot be 0"),
        ({"scale": (0.5, 0.1)}, "crops.scale cannot be (0.5, 0.1); it is a range: give two numbers"),
        ({"scale": (0.5, 1.1)}, "crops.scale cannot be (0.5, 1.1)"),
        ({"ratio": (0.0, 1.0)}, "crops.ratio cannot be (0.0, 1.0)"),
    ],
)
def test_invalid_crops_are_refused(settings, message):
    with pytest.raises(BadConfig) as error:
        Crops(**({"count": 2, "size": 224, "scale": (0.14, 1.0)} | settings))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
