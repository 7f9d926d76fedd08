import numpy as np
import pytest

from coterie.data.sources.labels import LabelMatrix, encode_labels, encode_multilabels, one_hot


@pytest.mark.parametrize(
    ("values", "names", "numbers", "classes"),
    [
        ([3, 0, -1, 3], (), [3, 0, -1, 3], ("0", "1", "2", "3")),
        ([3, 0, -7, None], (), [3, 0, -1, -1], ("0", "1", "2", "3")),
        ([0, 2, 0, 2], ("a", "b"), [0, 2, 0, 2], ("a", "b", "2")),
        ([0, 0], ("a", "b", "c"), [0, 0], ("a", "b", "c")),
        (["dog", "cat", None, "dog"], (), [1, 0, -1, 1], ("cat", "dog")),
        (["dog", "", "cat"], (), [1, -1, 0], ("cat", "dog")),
        (["cat", 10, 9], (), [2, 0, 1], ("10", "9", "cat")),  # one name: all are
        ([2_000_000_000, 7, 2_000_000_000, -1], (), [0, 1, 0, -1], ("2000000000", "7")),  # identifiers
        ([1_000_000], ("a",), [1_000_000], ("a", *map(str, range(1, 1_000_001)))),
    ],
)
def test_classes_are_numbered(values, names, numbers, classes):
    labels, found = encode_labels(iter(values), names)
    assert (labels.tolist(), found) == (numbers, classes)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("values", [[], [None, None], [-1, -5]])
def test_without_any_label_there_are_no_classes(values):
    assert encode_labels(values, ("a", "b")) == (None, ())


def test_training_and_test_sets_agree_on_integers():
    assert encode_labels([0, 2])[0].tolist() == [0, 2]
    assert encode_labels([0, 1, 2])[0].tolist() == [0, 1, 2]


def test_one_hot_rows():
    matrix = one_hot(np.array([1, -1, 0]), ("a", "b"))
    assert matrix.rows.tolist() == [[False, True], [False, False], [True, False]]
    assert (matrix.known.tolist(), matrix.classes) == ([True, False, True], ("a", "b"))


def test_multilabels_are_known_if_they_say_anything():
    matrix = encode_multilabels([["dog", "cat"], [], None, ["cat", ""], [None]])
    assert matrix.classes == ("cat", "dog")
    assert matrix.rows.tolist() == [[True, True], [False, False], [False, False], [True, False], [False, False]]
    assert matrix.known.tolist() == [True, True, False, True, False]
    assert encode_multilabels([[1, -1], [-1], [0]]).known.tolist() == [True, False, True]
    assert encode_multilabels([[], None, [-1]]) is None
    assert encode_multilabels([[1], [0, 1]], ("a", "b")).classes == ("a", "b")


def test_rows_are_selected_in_order():
    matrix = one_hot(np.array([1, -1, 0]), ("a", "b"))[np.array([2, 1])]
    assert (matrix.rows.tolist(), matrix.known.tolist()) == ([[True, False], [False, False]], [True, False])


def test_columns_are_matched_by_name():
    matrix = encode_multilabels([["a", "b"], ["c"]])
    arranged = matrix.with_classes(("c", "new", "a"))
    assert arranged.rows.tolist() == [[False, False, True], [True, False, False]]
    assert arranged.classes == ("c", "new", "a")
    assert matrix.with_classes(matrix.classes) is matrix
    twice = LabelMatrix(np.eye(3, dtype=bool), np.ones(3, dtype=bool), ("crane", "bird", "crane"))
    assert twice.with_classes(("bird", "crane")).rows.tolist() == [[False, True], [True, False], [False, True]]
