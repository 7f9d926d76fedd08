"""How far an image may be downscaled, and that crops of the downscaled image are those of the full image."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image

from coterie.data.augmentation.cpu import crop_batch
from coterie.data.augmentation.jpeg_scale import crops_downscale, square_downscale
from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.data.decoding.decode import decode
from coterie.data.decoding.jpeg import downscaled_size

PLAN = ViewPlan((Crops(2, 64, (0.14, 1.0)), Crops(4, 24, (0.05, 0.14))))
ALL_VIEWS = range(PLAN.num_views)
FACTORS = (1, 2, 4, 8)


def allowed(height: int, width: int, index: int, factor: int) -> bool:
    """The rule as documented: every box of the downscaled image is as large as its view, and in the same place."""
    parameters = PLAN.sample_parameters(0, 0, np.array([index]))
    boxes, full = parameters.boxes(0, *downscaled_size(height, width, factor)), parameters.boxes(0, height, width)
    large = all(min(box[2:]) >= size for box, size in zip(boxes, PLAN.sizes, strict=True))
    return large and np.abs(np.array(boxes) * factor - np.array(full)).max() < 3 * factor


@settings(max_examples=100)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), index=st.integers(0, 10_000))
def test_it_is_the_largest_factor_that_the_rule_allows(height, width, index):
    found = crops_downscale(PLAN, PLAN.sample_parameters(0, 0, np.array([index])), 0, height, width)
    assert found == max([1, *(factor for factor in FACTORS[1:] if allowed(height, width, index, factor))])


def test_every_factor_occurs_and_so_does_a_box_that_rounding_replaces():
    found, replaced = set(), 0
    for index in range(300):
        height, width = np.random.default_rng(index).integers(60, 2500, 2).tolist()
        parameters = PLAN.sample_parameters(0, 0, np.array([index]))
        found.add(crops_downscale(PLAN, parameters, 0, height, width))
        boxes, full = (
            np.array(parameters.boxes(0, *size)) for size in (downscaled_size(height, width, 2), (height, width))
        )
        replaced += np.abs(2 * boxes - full).max() >= 6
    assert found == set(FACTORS)
    assert replaced


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_crops_of_the_downscaled_image_differ_little(name):
    """For a smooth photograph: 1.6 gray levels on average at 1/2, 3.1 at 1/4, mostly from rounded boxes."""
    file = io.BytesIO()
    Image.fromarray(load_sample_image(name)).filter(ImageFilter.GaussianBlur(3)).save(file, "JPEG", quality=95)
    full, differences = decode(file.getvalue()), {2: [], 4: []}
    for index in range(20):
        parameters = PLAN.sample_parameters(0, 0, np.array([index]))
        factor = crops_downscale(PLAN, parameters, 0, *full.shape[:2])
        if factor > 1:
            small = decode(file.getvalue(), 3, lambda height, width: factor)  # noqa: B023
            assert small.shape[:2] == downscaled_size(*full.shape[:2], factor)
            crops = (crop_batch([image], PLAN, parameters, ALL_VIEWS) for image in (full, small))
            for one, other in zip(*crops, strict=True):
                differences[factor].append(np.abs(one[0].astype(float) - other[0]).mean())
    for factor, found in differences.items():
        assert len(found) > 10
        assert np.mean(found) < 1.2 * factor
        assert np.max(found) < 4 * factor


def test_a_square():
    assert [square_downscale(side, 224) for side in (100, 224, 447.9, 448, 895, 896, 1791, 1792, 9000)] == [
        *(1, 1, 1, 2, 2, 4, 4, 8, 8)
    ]
