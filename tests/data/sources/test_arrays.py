import pickle

import numpy as np
import pytest

from coterie.data.decoding.decode import decode
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.source import ImageSource, labels
from coterie.errors import NoImages, UserError
from tests.data.pictures import photo

IMAGES = np.stack([photo(seed) for seed in range(3)])


def names(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_images_are_returned_as_they_were_given():
    source = Arrays(IMAGES)
    assert isinstance(source, ImageSource)
    assert len(source) == 3
    np.testing.assert_array_equal(decode(source[2]), IMAGES[2])
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source[index]
    sizes = [np.zeros((height, 5), np.uint16) for height in (2, 3)]
    assert [Arrays(sizes)[index].shape for index in range(2)] == [(2, 5), (3, 5)]


def test_labels_are_names_or_numbers():
    named = Arrays(IMAGES, labels=["dog", None, "cat"])
    assert (named.classes, labels(named).tolist()) == (("cat", "dog"), [1, -1, 0])
    assert [named.label(index) for index in range(3)] == [1, None, 0]
    numbered = Arrays(list(IMAGES), labels=np.array([1, 0, 1]), classes=("a", "b"))
    assert (numbered.classes, labels(numbered).tolist()) == (("a", "b"), [1, 0, 1])
    assert Arrays(IMAGES).classes == ()
    assert Arrays(IMAGES, labels=[None] * 3).label(0) is None


def test_names_are_given_or_row_numbers():
    assert names(Arrays(IMAGES)) == ["00000000", "00000001", "00000002"]
    assert names(Arrays(IMAGES, names=["x", "y", "\udcff"])) == ["x", "y", r"\xff"]


def test_arrays_can_be_pickled():
    source = pickle.loads(pickle.dumps(Arrays(IMAGES, labels=["dog", None, "cat"], names=["x", "y", "z"])))
    assert (names(source), source.classes, source.label(2)) == (["x", "y", "z"], ("cat", "dog"), 0)
    np.testing.assert_array_equal(source[1], IMAGES[1])


def test_numbers_of_labels_and_names_must_match():
    with pytest.raises(UserError, match="2 labels for 3 images: give one each"):
        Arrays(IMAGES, labels=[0, 1])
    with pytest.raises(UserError, match="4 names for 3 images"):
        Arrays(IMAGES, names=list("abcd"))
    with pytest.raises(NoImages, match="no images in these arrays"):
        Arrays([])
