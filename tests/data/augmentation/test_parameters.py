"""View parameters are a pure function of seed, epoch, index and view, distributed like torchvision's."""

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

from coterie.data.augmentation.multi_crop import Augmentation, Crops
from coterie.data.augmentation.parameters import (
    BRIGHTNESS,
    CONTRAST,
    CROP_ATTEMPTS,
    HUE,
    SATURATION,
    ViewParameters,
    sample_parameters,
)

SWAV = (Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14)))
FIELDS = [field.name for field in fields(ViewParameters) if field.name != "ratios"]
COUNT = 4000
SIGNIFICANCE = 1e-3  # with a fixed seed, a test always passes or always fails


def rows(parameters: ViewParameters, chosen) -> dict[str, np.ndarray]:
    return {name: getattr(parameters, name)[chosen] for name in FIELDS}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in FIELDS)


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


def test_the_filling_pass_is_an_epoch_of_its_own():
    filling = sample_parameters(SWAV, 0, -1, np.arange(3))
    assert not any(
        same(rows(filling, 0), rows(sample_parameters(SWAV, 0, epoch, np.arange(3)), 0)) for epoch in range(50)
    )


def test_parameters_depend_on_the_view_number_not_on_its_group():
    one_group = sample_parameters((Crops(8, 32, (0.14, 1.0)),), 3, 0, np.arange(4))
    for groups in ((Crops(2, 32, (0.14, 1.0)), Crops(6, 32, (0.14, 1.0))), (Crops(8, 64, (0.14, 1.0)),)):
        assert same(rows(one_group, slice(None)), rows(sample_parameters(groups, 3, 0, np.arange(4)), slice(None)))


def test_one_probability_changes_no_other_parameter():
    plain = sample_parameters((Crops(4, 32, (0.2, 1.0)),), 0, 0, np.arange(50))
    turned = sample_parameters(
        (Crops(4, 32, (0.2, 1.0), augmentation=Augmentation(rotation=1.0)),), 0, 0, np.arange(50)
    )
    assert turned.quarter_turns.min() >= 1
    assert all(np.array_equal(getattr(plain, n), getattr(turned, n)) for n in FIELDS if n != "quarter_turns")


def test_probabilities_zero_and_one():
    off = Augmentation(**dict.fromkeys(("flip", "jitter", "grayscale", "blur"), 0.0))
    parameters = sample_parameters((Crops(3, 32, (0.2, 1.0), augmentation=off),), 0, 0, np.arange(COUNT))
    for name in ("flip", "vertical_flip", "quarter_turns", "jitter", "grayscale", "blur", "solarize"):
        assert not getattr(parameters, name).any(), name
    names = ("flip", "vertical_flip", "rotation", "jitter", "grayscale", "blur", "solarize")
    certain = Augmentation(**dict.fromkeys(names, 1.0))
    parameters = sample_parameters((Crops(3, 32, (0.2, 1.0), augmentation=certain),), 0, 0, np.arange(COUNT))
    for name in ("flip", "vertical_flip", "quarter_turns", "jitter", "grayscale", "blur", "solarize"):
        assert getattr(parameters, name).all(), name


def test_strength_zero_gives_factor_one():
    still = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    parameters = sample_parameters((Crops(2, 32, (0.2, 1.0), augmentation=still),), 0, 0, np.arange(100))
    assert (parameters.brightness == 1).all()
    assert (parameters.contrast == 1).all()
    assert (parameters.saturation == 1).all()
    assert (parameters.hue == 0).all()


@pytest.mark.parametrize(("name", "probability"), [("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)])
@pytest.mark.parametrize("view", [0, 5])
def test_probabilities_of_the_defaults(name, probability, view):
    count = int((getattr(sample_parameters(SWAV, 0, 0, np.arange(COUNT)), name)[:, view] != 0).sum())
    assert SIGNIFICANCE < binom.cdf(count, COUNT, probability) < 1 - SIGNIFICANCE


def test_probabilities_of_vertical_flip_rotation_and_solarize():
    rare = Augmentation(vertical_flip=0.3, rotation=0.6, solarize=0.2)
    parameters = sample_parameters((Crops(1, 32, (0.2, 1.0), augmentation=rare),), 0, 0, np.arange(COUNT))
    for count, probability in (
        (parameters.vertical_flip, 0.3),
        (parameters.quarter_turns > 0, 0.6),
        (parameters.solarize, 0.2),
    ):
        assert SIGNIFICANCE < binom.cdf(int(count.sum()), COUNT, probability) < 1 - SIGNIFICANCE
    assert chisquare(np.bincount(parameters.quarter_turns[parameters.quarter_turns > 0])[1:]).pvalue > SIGNIFICANCE


def test_parameters_are_uncorrelated():
    parameters = sample_parameters(SWAV, 0, 0, np.arange(COUNT))
    numbers = np.stack(
        [
            *(getattr(parameters, name)[:, 0] for name in ("flip", "jitter", "grayscale", "brightness", "contrast")),
            *(getattr(parameters, name)[:, 0] for name in ("saturation", "hue", "blur")),
            *(parameters.brightness[:, view] for view in (1, 2)),
            parameters.sides[:, 0, 0, 0],
            parameters.corners[:, 0, 0, 0],
            parameters.corners[:, 0, 0, 1],
            parameters.corners[:, 0, 1, 0],
        ]
    ).astype(np.float64)
    correlation = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(correlation).max() < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (32, 32), (200, 900), (900, 200)])
@pytest.mark.parametrize("group", SWAV, ids=["large", "small"])
def test_boxes_are_distributed_like_torchvisions(height, width, group):
    parameters = sample_parameters((group,), 0, 0, np.arange(COUNT))
    ours = np.array([parameters.boxes(row, height, width)[0] for row in range(COUNT)])
    torch.manual_seed(0)
    image = Image.new("L", (width, height))
    theirs = np.array([T.RandomResizedCrop.get_params(image, group.scale, group.ratio) for _ in range(COUNT)])
    for part in range(4):
        assert ks_2samp(ours[:, part], theirs[:, part]).pvalue > SIGNIFICANCE, part
    assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > SIGNIFICANCE
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > SIGNIFICANCE
    assert ks_2samp(ours[:, 0] + ours[:, 2], theirs[:, 0] + theirs[:, 2]).pvalue > SIGNIFICANCE


def test_color_factors_and_their_order_are_distributed_like_torchvisions():
    parameters = sample_parameters(SWAV, 0, 0, np.arange(COUNT))
    torch.manual_seed(0)
    jitter = T.ColorJitter(0.8, 0.8, 0.8, 0.2)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs = [T.ColorJitter.get_params(*ranges) for _ in range(COUNT)]
    for place, name in enumerate(("brightness", "contrast", "saturation", "hue"), start=1):
        sampled = getattr(parameters, name)[:, 0]
        assert ks_2samp(sampled, [found[place] for found in theirs]).pvalue > SIGNIFICANCE, name
    orders, counts = np.unique(parameters.order[:, 0], axis=0, return_counts=True)
    assert len(orders) == 24
    assert chisquare(counts).pvalue > SIGNIFICANCE
    assert {BRIGHTNESS, CONTRAST, SATURATION, HUE} == set(range(4))


def test_blur_radii_are_uniform():
    sampled = sample_parameters(SWAV, 0, 0, np.arange(COUNT)).blur[:, 0]
    assert ks_2samp(sampled[sampled > 0], np.random.default_rng(0).uniform(0.1, 2.0, COUNT)).pvalue > SIGNIFICANCE


@settings(max_examples=300)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    index=st.integers(0, 10**6),
    scale=st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1)).map(sorted).map(tuple),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted).map(tuple),
)
def test_every_box_is_inside_the_image(height, width, index, scale, ratio):
    parameters = sample_parameters((Crops(2, 32, scale, ratio),), 0, 0, np.array([index]))
    for top, left, box_height, box_width in parameters.boxes(0, height, width):
        assert 1 <= box_height <= height - top
        assert 1 <= box_width <= width - left
        assert top >= 0
        assert left >= 0


def test_without_a_fit_the_center_is_used_as_in_torchvision():
    never = (Crops(1, 32, (1.0, 1.0), (0.9, 0.9)),)
    image = Image.new("L", (1000, 10))
    theirs = T.RandomResizedCrop.get_params(image, (1.0, 1.0), (0.9, 0.9))
    assert sample_parameters(never, 0, 0, np.array([0])).boxes(0, 10, 1000)[0] == theirs
    theirs = T.RandomResizedCrop.get_params(Image.new("L", (10, 1000)), (1.0, 1.0), (0.9, 0.9))
    assert sample_parameters(never, 0, 0, np.array([0])).boxes(0, 1000, 10)[0] == theirs


def test_a_later_attempt_is_used_when_the_first_does_not_fit():
    parameters = sample_parameters((Crops(1, 32, (0.3, 1.0)),), 0, 0, np.arange(200))
    assert parameters.sides.shape == (200, 1, CROP_ATTEMPTS, 2)
    area = 200 * 500
    widths = np.rint(parameters.sides[:, 0, :, 0] * math.sqrt(area))
    heights = np.rint(parameters.sides[:, 0, :, 1] * math.sqrt(area))
    fits = (widths <= 500) & (heights <= 200)
    later = np.flatnonzero(~fits[:, 0] & fits.any(axis=1))
    assert len(later) > 20
    for row in later.tolist():
        used = fits[row].argmax()
        assert parameters.boxes(row, 200, 500)[0][2:] == (heights[row, used], widths[row, used])


def test_boxes_of_some_views_equal_those_of_all():
    """No attempt fits into the long image, so the ratio of each view's own group decides."""
    parameters = sample_parameters(
        (Crops(2, 32, (1.0, 1.0), (0.9, 0.9)), Crops(2, 32, (1.0, 1.0), (2.0, 2.0))), 0, 0, np.arange(3)
    )
    boxes = parameters.boxes(1, 10, 1000)
    assert [width for _, _, _, width in boxes] == [9, 9, 20, 20]
    assert parameters.boxes(1, 10, 1000, (3, 0)) == [boxes[3], boxes[0]]
