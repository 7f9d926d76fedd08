"""What is drawn: a pure function of seed, epoch, index and view; distributed as torchvision's draws are."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom, chisquare, ks_2samp
from torchvision import transforms as T

from coterie.data.augmentation.crops import Augmentation, Crops
from coterie.data.augmentation.parameters import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    TRIES,
    ViewParameters,
    sample_parameters,
)

SWAV = (Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14)))
DRAWN = [field.name for field in fields(ViewParameters) if field.name != "ratios"]
MANY = 4000
LIKELY = 1e-3  # a test with this seed either passes for good or fails for good


def rows(draws: ViewParameters, chosen) -> dict[str, np.ndarray]:
    return {name: getattr(draws, name)[chosen] for name in DRAWN}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in DRAWN)


@given(
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=8),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(-1, 10_000),
)
def test_an_image_gets_the_same_views_in_any_batch(indices, seed, epoch):
    together = sample_parameters(SWAV, seed, epoch, np.array(indices))
    for row, index in enumerate(indices):
        alone = sample_parameters(SWAV, seed, epoch, np.array([index]))
        assert same(rows(together, [row]), rows(alone, [0]))
        assert together.boxes(row, 300, 400) == alone.boxes(0, 300, 400)


def test_seed_epoch_index_and_view_each_change_everything():
    start = rows(sample_parameters(SWAV, 1, 1, np.array([5])), 0)
    for other in (
        sample_parameters(SWAV, 2, 1, np.array([5])),
        sample_parameters(SWAV, 1, 2, np.array([5])),
        sample_parameters(SWAV, 1, 1, np.array([6])),
    ):
        for name in ("sides", "corners", "brightness", "contrast", "saturation", "hue"):
            assert (start[name] != getattr(other, name)[0]).all(), name
    for name in ("corners", "brightness", "contrast", "saturation", "hue"):
        assert len(np.unique(start[name][:, 0] if name == "corners" else start[name])) >= 8, name


def test_the_filling_pass_has_an_epoch_of_its_own():
    filling = sample_parameters(SWAV, 0, -1, np.arange(3))
    assert not any(
        same(rows(filling, 0), rows(sample_parameters(SWAV, 0, epoch, np.arange(3)), 0)) for epoch in range(50)
    )


def test_the_number_of_a_view_decides_and_not_the_group_that_it_is_in():
    one_group = sample_parameters((Crops(8, 32, (0.14, 1.0)),), 3, 0, np.arange(4))
    for groups in ((Crops(2, 32, (0.14, 1.0)), Crops(6, 32, (0.14, 1.0))), (Crops(8, 64, (0.14, 1.0)),)):
        assert same(rows(one_group, slice(None)), rows(sample_parameters(groups, 3, 0, np.arange(4)), slice(None)))


def test_one_probability_changes_no_other_draw():
    plain = sample_parameters((Crops(4, 32, (0.2, 1.0)),), 0, 0, np.arange(50))
    turned = sample_parameters(
        (Crops(4, 32, (0.2, 1.0), augmentation=Augmentation(rotation=1.0)),), 0, 0, np.arange(50)
    )
    assert turned.quarter_turns.min() >= 1
    assert all(np.array_equal(getattr(plain, n), getattr(turned, n)) for n in DRAWN if n != "quarter_turns")


def test_what_is_off_is_not_drawn_and_what_is_certain_always():
    off = Augmentation(**dict.fromkeys(("flip", "jitter", "grayscale", "blur"), 0.0))
    draws = sample_parameters((Crops(3, 32, (0.2, 1.0), augmentation=off),), 0, 0, np.arange(MANY))
    for name in ("flip", "vertical_flip", "quarter_turns", "jitter", "grayscale", "blur", "solarize"):
        assert not getattr(draws, name).any(), name
    names = ("flip", "vertical_flip", "rotation", "jitter", "grayscale", "blur", "solarize")
    certain = Augmentation(**dict.fromkeys(names, 1.0))
    draws = sample_parameters((Crops(3, 32, (0.2, 1.0), augmentation=certain),), 0, 0, np.arange(MANY))
    for name in ("flip", "vertical_flip", "quarter_turns", "jitter", "grayscale", "blur", "solarize"):
        assert getattr(draws, name).all(), name


def test_a_strength_of_nothing_leaves_the_factor_at_one():
    still = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    draws = sample_parameters((Crops(2, 32, (0.2, 1.0), augmentation=still),), 0, 0, np.arange(100))
    assert (draws.brightness == 1).all()
    assert (draws.contrast == 1).all()
    assert (draws.saturation == 1).all()
    assert (draws.hue == 0).all()


@pytest.mark.parametrize(("name", "probability"), [("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)])
@pytest.mark.parametrize("view", [0, 5])
def test_coins_fall_as_often_as_they_should(name, probability, view):
    heads = int((getattr(sample_parameters(SWAV, 0, 0, np.arange(MANY)), name)[:, view] != 0).sum())
    assert LIKELY < binom.cdf(heads, MANY, probability) < 1 - LIKELY


def test_the_rarer_coins_too():
    rare = Augmentation(vertical_flip=0.3, rotation=0.6, solarize=0.2)
    draws = sample_parameters((Crops(1, 32, (0.2, 1.0), augmentation=rare),), 0, 0, np.arange(MANY))
    for heads, probability in ((draws.vertical_flip, 0.3), (draws.quarter_turns > 0, 0.6), (draws.solarize, 0.2)):
        assert LIKELY < binom.cdf(int(heads.sum()), MANY, probability) < 1 - LIKELY
    assert chisquare(np.bincount(draws.quarter_turns[draws.quarter_turns > 0])[1:]).pvalue > LIKELY


def test_coins_do_not_lean_on_each_other():
    draws = sample_parameters(SWAV, 0, 0, np.arange(MANY))
    numbers = np.stack(
        [
            *(getattr(draws, name)[:, 0] for name in ("flip", "jitter", "grayscale", "brightness", "contrast")),
            *(getattr(draws, name)[:, 0] for name in ("saturation", "hue", "blur")),
            *(draws.brightness[:, view] for view in (1, 2)),
            draws.sides[:, 0, 0, 0],
            draws.corners[:, 0, 0, 0],
            draws.corners[:, 0, 0, 1],
            draws.corners[:, 0, 1, 0],
        ]
    ).astype(np.float64)
    apart = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(apart).max() < 4 / math.sqrt(MANY)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (32, 32), (200, 900), (900, 200)])
@pytest.mark.parametrize("group", SWAV, ids=["large", "small"])
def test_boxes_are_distributed_as_torchvisions(height, width, group):
    draws = sample_parameters((group,), 0, 0, np.arange(MANY))
    ours = np.array([draws.boxes(row, height, width)[0] for row in range(MANY)])
    torch.manual_seed(0)
    image = Image.new("L", (width, height))
    theirs = np.array([T.RandomResizedCrop.get_params(image, group.scale, group.ratio) for _ in range(MANY)])
    for part in range(4):
        assert ks_2samp(ours[:, part], theirs[:, part]).pvalue > LIKELY, part
    assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > LIKELY
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > LIKELY
    assert ks_2samp(ours[:, 0] + ours[:, 2], theirs[:, 0] + theirs[:, 2]).pvalue > LIKELY


def test_color_factors_and_their_order_are_distributed_as_torchvisions():
    draws = sample_parameters(SWAV, 0, 0, np.arange(MANY))
    torch.manual_seed(0)
    jitter = T.ColorJitter(0.8, 0.8, 0.8, 0.2)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs = [T.ColorJitter.get_params(*ranges) for _ in range(MANY)]
    for place, name in enumerate(("brightness", "contrast", "saturation", "hue"), start=1):
        drawn = getattr(draws, name)[:, 0]
        assert ks_2samp(drawn, [found[place] for found in theirs]).pvalue > LIKELY, name
    orders, counts = np.unique(draws.order[:, 0], axis=0, return_counts=True)
    assert len(orders) == 24
    assert chisquare(counts).pvalue > LIKELY
    assert {BRIGHTNESS, CONTRAST, SATURATION, HUE} == set(range(4))


def test_blur_radii_are_uniform():
    drawn = sample_parameters(SWAV, 0, 0, np.arange(MANY)).blur[:, 0]
    assert ks_2samp(drawn[drawn > 0], np.random.default_rng(0).uniform(0.1, 2.0, MANY)).pvalue > LIKELY


@settings(max_examples=300)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    index=st.integers(0, 10**6),
    scale=st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1)).map(sorted).map(tuple),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted).map(tuple),
)
def test_every_box_lies_in_the_image(height, width, index, scale, ratio):
    draws = sample_parameters((Crops(2, 32, scale, ratio),), 0, 0, np.array([index]))
    for top, left, box_height, box_width in draws.boxes(0, height, width):
        assert 1 <= box_height <= height - top
        assert 1 <= box_width <= width - left
        assert top >= 0
        assert left >= 0


def test_without_a_fit_the_middle_is_taken_as_torchvision_does():
    never = (Crops(1, 32, (1.0, 1.0), (0.9, 0.9)),)
    image = Image.new("L", (1000, 10))
    theirs = T.RandomResizedCrop.get_params(image, (1.0, 1.0), (0.9, 0.9))
    assert sample_parameters(never, 0, 0, np.array([0])).boxes(0, 10, 1000)[0] == theirs
    theirs = T.RandomResizedCrop.get_params(Image.new("L", (10, 1000)), (1.0, 1.0), (0.9, 0.9))
    assert sample_parameters(never, 0, 0, np.array([0])).boxes(0, 1000, 10)[0] == theirs


def test_a_later_try_is_taken_when_the_first_does_not_fit():
    draws = sample_parameters((Crops(1, 32, (0.3, 1.0)),), 0, 0, np.arange(200))
    assert draws.sides.shape == (200, 1, TRIES, 2)
    area = 200 * 500
    widths = np.rint(draws.sides[:, 0, :, 0] * math.sqrt(area))
    heights = np.rint(draws.sides[:, 0, :, 1] * math.sqrt(area))
    fits = (widths <= 500) & (heights <= 200)
    later = np.flatnonzero(~fits[:, 0] & fits.any(axis=1))
    assert len(later) > 20
    for row in later.tolist():
        taken = fits[row].argmax()
        assert draws.boxes(row, 200, 500)[0][2:] == (heights[row, taken], widths[row, taken])


def test_the_boxes_of_some_views_are_those_of_all():
    """No try fits into the long image, so that the ratio of each view's own group decides."""
    draws = sample_parameters(
        (Crops(2, 32, (1.0, 1.0), (0.9, 0.9)), Crops(2, 32, (1.0, 1.0), (2.0, 2.0))), 0, 0, np.arange(3)
    )
    boxes = draws.boxes(1, 10, 1000)
    assert [width for _, _, _, width in boxes] == [9, 9, 20, 20]
    assert draws.boxes(1, 10, 1000, (3, 0)) == [boxes[3], boxes[0]]
