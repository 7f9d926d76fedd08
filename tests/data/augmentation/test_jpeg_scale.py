"""How far an image may be reduced, and that what is cut out of it then is what was cut out of it before."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image

from coterie.data.augmentation.cpu import crop_batch
from coterie.data.augmentation.jpeg_scale import crops_shrink, whole_shrink
from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.data.decoding.decode import decode
from coterie.data.decoding.jpeg import reduced

PLAN = ViewPlan((Crops(2, 64, (0.14, 1.0)), Crops(4, 24, (0.05, 0.14))))
EVERY = range(PLAN.num_views)
FACTORS = (1, 2, 4, 8)


def allowed(height: int, width: int, index: int, factor: int) -> bool:
    """The rule in its own words: every box of the reduced image is as large as its view, and where it was."""
    draws = PLAN.sample_parameters(0, 0, np.array([index]))
    boxes, whole = draws.boxes(0, *reduced(height, width, factor)), draws.boxes(0, height, width)
    large = all(min(box[2:]) >= size for box, size in zip(boxes, PLAN.sizes, strict=True))
    return large and np.abs(np.array(boxes) * factor - np.array(whole)).max() < 3 * factor


@settings(max_examples=100)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), index=st.integers(0, 10_000))
def test_it_is_the_greatest_factor_that_the_rule_allows(height, width, index):
    found = crops_shrink(PLAN, PLAN.sample_parameters(0, 0, np.array([index])), 0, height, width)
    assert found == max([1, *(factor for factor in FACTORS[1:] if allowed(height, width, index, factor))])


def test_every_factor_comes_and_so_does_a_box_that_rounding_would_replace():
    found, replaced = set(), 0
    for index in range(300):
        height, width = np.random.default_rng(index).integers(60, 2500, 2).tolist()
        draws = PLAN.sample_parameters(0, 0, np.array([index]))
        found.add(crops_shrink(PLAN, draws, 0, height, width))
        boxes, whole = (np.array(draws.boxes(0, *size)) for size in (reduced(height, width, 2), (height, width)))
        replaced += np.abs(2 * boxes - whole).max() >= 6
    assert found == set(FACTORS)
    assert replaced


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_what_is_cut_out_of_the_reduced_image_differs_little(name):
    """Of a smooth photograph: by 1.6 gray levels in the mean at a half, 3.1 at a quarter, most of it from rounded boxes."""
    file = io.BytesIO()
    Image.fromarray(load_sample_image(name)).filter(ImageFilter.GaussianBlur(3)).save(file, "JPEG", quality=95)
    whole, differences = decode(file.getvalue()), {2: [], 4: []}
    for index in range(20):
        draws = PLAN.sample_parameters(0, 0, np.array([index]))
        factor = crops_shrink(PLAN, draws, 0, *whole.shape[:2])
        if factor > 1:
            less = decode(file.getvalue(), 3, lambda height, width: factor)  # noqa: B023
            assert less.shape[:2] == reduced(*whole.shape[:2], factor)
            cuts = (crop_batch([image], PLAN, draws, EVERY) for image in (whole, less))
            for one, other in zip(*cuts, strict=True):
                differences[factor].append(np.abs(one[0].astype(float) - other[0]).mean())
    for factor, found in differences.items():
        assert len(found) > 10
        assert np.mean(found) < 1.2 * factor
        assert np.max(found) < 4 * factor


def test_the_middle_of_an_image():
    assert [whole_shrink(side, 224) for side in (100, 224, 447.9, 448, 895, 896, 1791, 1792, 9000)] == [
        *(1, 1, 1, 2, 2, 4, 4, 8, 8)
    ]
