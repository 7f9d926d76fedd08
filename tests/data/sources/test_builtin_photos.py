import socket
import sys

import numpy as np
import pytest

from coterie.data.sources.builtin_photos import PHOTOGRAPHS, load_photograph, photo_patches, regions
from coterie.errors import UserError

COUNT = 12 * len(PHOTOGRAPHS)


@pytest.fixture(scope="module")
def sets():
    return {split: photo_patches(split, COUNT) for split in ("train", "test")}


def test_the_network_is_not_used(monkeypatch):
    def refuse(*_):
        raise AssertionError("the built-in photographs went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in PHOTOGRAPHS:
        load_photograph(name)


def test_shapes_balance_and_names(sets):
    train = sets["train"]
    assert train.images.shape == (COUNT, 32, 32, 1)
    assert train.images.dtype == np.uint8
    assert (np.bincount(train.labels, minlength=len(train.classes)) == 12).all()
    assert len(set(train.names) | set(sets["test"].names)) == 2 * COUNT
    assert all(name.endswith(train.classes[label]) for name, label in zip(train.names, train.labels, strict=True))


def test_training_and_test_patches_share_no_pixel(sets):
    covered = {}
    for split, patches in sets.items():
        for label, (left, upper, right, lower) in zip(patches.labels, patches.boxes, strict=True):
            width, height = load_photograph(patches.classes[label]).size
            assert 0 <= left < right <= width
            assert 0 <= upper < lower <= height
            mask = covered.setdefault((split, label), np.zeros((height, width), bool))
            mask[upper:lower, left:right] = True
    for label in range(len(PHOTOGRAPHS)):
        assert covered["train", label].any()
        assert not (covered["train", label] & covered["test", label]).any()


def test_no_pixel_outside_its_band_reaches_a_patch(sets, monkeypatch):
    """With all bands of the test split blackened, the training patches stay the same."""

    def without_test_bands(name):
        photograph = load_photograph(name)
        for box in regions(*photograph.size, "test"):
            photograph.paste(0, box)
        return photograph

    monkeypatch.setattr("coterie.data.sources.builtin_photos.load_photograph", without_test_bands)
    assert np.array_equal(photo_patches("train", COUNT).images, sets["train"].images)
    assert not np.array_equal(photo_patches("test", COUNT).images, sets["test"].images)


def test_a_patch_depends_on_seed_split_and_index_only(sets):
    again = photo_patches("train", 40)
    assert np.array_equal(again.images, sets["train"].images[:40])
    assert again.names == sets["train"].names[:40]
    assert not np.array_equal(photo_patches("train", 40, seed=1).images, again.images)


def test_patches_show_the_content_of_their_boxes(sets):
    """Up to brightness and contrast: with the wrong photograph or box they would not correlate."""
    train = sets["train"]
    for index in range(0, COUNT, 7):
        cut = load_photograph(train.classes[train.labels[index]]).crop(tuple(int(edge) for edge in train.boxes[index]))
        expected = np.asarray(cut.resize((32, 32)), float).ravel()
        clipped = np.isin(train.images[index], (0, 255)).mean()
        if clipped < 0.1:
            assert np.corrcoef(expected, train.images[index].ravel())[0, 1] > 0.9


def test_patches_are_not_flat(sets):
    deviation = sets["train"].images.astype(float).std(axis=(1, 2, 3))
    assert np.quantile(deviation, 0.02) > 4


def test_every_photograph_has_the_gray_levels_of_one(sets):
    for name in PHOTOGRAPHS:
        pixels = np.asarray(load_photograph(name))
        assert min(pixels.shape) >= 150
        assert len(np.unique(pixels)) > 100, f"{name} has too few gray levels for a photograph"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("validation", 10), "train or test"),
        (("train", 0), "at least 1"),
        (("train", 10, 200), "smaller size"),
    ],
)
def test_invalid_arguments_are_one_plain_line(arguments, words):
    with pytest.raises(UserError, match=words) as error:
        photo_patches(*arguments)
    assert "\n" not in str(error.value)


def test_a_missing_photograph_is_named(monkeypatch):
    monkeypatch.setitem(PHOTOGRAPHS, "moon", ("skimage", "data", "no_such_moon.png"))
    with pytest.raises(UserError, match=r"no_such_moon\.png"):
        photo_patches("train", 1)


@pytest.mark.parametrize(
    ("package", "fix"),
    [("skimage", r"scikit-image.*pip install 'coterie\[demo\]'"), ("sklearn", "install scikit-learn")],
)
def test_a_missing_package_is_named_with_the_fix(package, fix, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what find_spec and import take for "not installed"
    with pytest.raises(UserError, match=fix) as error:
        photo_patches("train", 1)
    assert "\n" not in str(error.value)
