"""Facts about images follow from a sample of them."""

import numpy as np
import pytest

from coterie.config.facts import SMALL_SIDE, Facts, measure_facts
from coterie.data.sources.arrays import Arrays


def test_images_are_measured() -> None:
    images = np.zeros((10, 20, 30, 3), np.uint8)
    images[..., 0], images[::2, ..., 1] = 51, 255
    facts = measure_facts(Arrays(images), None)
    assert (facts.images, facts.side, facts.channels, facts.bits) == (10, 20, 3, 8)
    assert facts.mean == pytest.approx((0.2, 0.5, 0.0))
    assert facts.std[1] == pytest.approx(0.5)


def test_which_recipe_and_augmentation_apply() -> None:
    assert Facts(10, SMALL_SIDE).small
    assert not Facts(10, SMALL_SIDE + 1).small
    assert Facts(10, 32).color
    assert not Facts(10, 32, bits=16).color
    assert not Facts(10, 32, channels=1).color
