from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import UserError
from coterie.evaluation.probes.few_labels import FewLabels, few_labels, labeled_subset

LABELS = st.lists(st.integers(-1, 6), min_size=1, max_size=200).map(np.array).filter(lambda labels: (labels >= 0).any())
PINNED = [2, 5, 12, 19, 21, 26, 27, 36]
SEEDS = st.integers(-(2**63), 2**63)


def counts(labels: np.ndarray) -> dict[int, int]:
    return {number: int((labels == number).sum()) for number in np.unique(labels[labels >= 0]).tolist()}


@given(LABELS, st.integers(1, 60), SEEDS)
def test_every_class_gives_the_requested_number_or_all_it_has(labels, per_class, seed):
    positions = labeled_subset(labels, per_class=per_class, seed=seed).positions
    assert (np.diff(positions) > 0).all()
    assert counts(labels[positions]) == {number: min(per_class, had) for number, had in counts(labels).items()}
    assert (labels[positions] >= 0).all()


@given(LABELS, st.floats(0.001, 1), SEEDS)
def test_a_share_is_that_of_every_class_and_at_least_one_image(labels, share, seed):
    chosen = counts(labels[labeled_subset(labels, share=share, seed=seed).positions])
    for number, had in counts(labels).items():
        assert chosen[number] >= 1
        assert abs(chosen[number] - max(1, share * had)) <= 0.5 + 1e-6


@given(LABELS, st.lists(st.floats(0.001, 1), min_size=2, max_size=4), SEEDS)
def test_shares_are_nested(labels, shares, seed):
    found = [set(labeled_subset(labels, share=share, seed=seed).positions.tolist()) for share in sorted(shares)]
    assert all(small <= large for small, large in pairwise(found))


@given(LABELS, st.integers(1, 20), st.integers(0, 20), SEEDS)
def test_numbers_are_nested(labels, few, more, seed):
    small, large = (labeled_subset(labels, per_class=n, seed=seed).positions for n in (few, few + more))
    assert set(small.tolist()) <= set(large.tolist())


@given(LABELS, SEEDS)
def test_a_subset_is_a_pure_function_of_the_seed(labels, seed):
    first, second = (labeled_subset(labels, share=0.3, seed=seed).positions for _ in range(2))
    np.random.seed(1)  # noqa: NPY002 -- whatever the global generator says
    assert first.tolist() == second.tolist()


def test_seeds_and_classes_have_different_orders():
    labels = np.arange(4000) % 2  # the two classes alternate
    chosen = [labeled_subset(labels, per_class=100, seed=seed).positions for seed in (0, 1)]
    assert len(set(chosen[0]) & set(chosen[1])) < 40  # 10 are expected
    even, odd = (set(chosen[0][labels[chosen[0]] == number] // 2) for number in (0, 1))
    assert len(even & odd) < 25  # 5 are expected; the same order for both classes would give 100


def test_a_subset_is_the_same_on_every_machine():
    assert labeled_subset(np.arange(40) % 4, per_class=2, seed=7).positions.tolist() == PINNED


def test_all_images_of_a_class_are_equally_likely():
    labels = np.zeros(10, dtype=np.int64)
    hits = np.bincount([labeled_subset(labels, per_class=1, seed=seed).positions[0] for seed in range(1000)])
    assert len(hits) == 10
    assert hits.min() > 60
    assert hits.max() < 140


@pytest.mark.parametrize(
    ("amount", "remark"),
    [
        ({"per_class": 3}, "1 of 2 classes have fewer than 3 labeled images: all of them are used"),
        ({"share": 0.1}, "1 of 2 classes are so small that 10% of their labels is none: one image of each is used"),
        ({"per_class": 2}, None),
        ({"share": 0.5}, None),
    ],
)
def test_small_classes_get_a_remark(amount, remark):
    remarks = labeled_subset(np.array([0] * 2 + [1] * 20 + [-1] * 5), **amount).remarks
    assert remarks == (() if remark is None else (remark,))


@pytest.mark.parametrize(
    ("fraction", "few"),
    [
        ("1%", FewLabels(share=0.01)),
        (" 10 % ", FewLabels(share=0.1)),
        ("0.5%", FewLabels(share=0.005)),
        ("100%", FewLabels(share=1.0)),
        ("0.25", FewLabels(share=0.25)),
        (0.25, FewLabels(share=0.25)),
        (1, FewLabels(share=1.0)),
        (None, FewLabels(share=0.1)),
    ],
)
def test_shares_are_read(fraction, few):
    assert few_labels(fraction) == few


def test_a_number_per_class():
    assert few_labels(None, 5) == FewLabels(per_class=5)


@pytest.mark.parametrize(
    ("fraction", "per_class", "said"),
    [
        ("ten", None, "is ten: write a share of the labels, such as 1% or 0.01"),
        ("", None, "write a share"),
        ("10%%", None, "write a share"),
        ("nan%", None, "write a share"),
        ("0%", None, "is 0%: give more than 0%"),
        ("101%", None, "is 101%: give more than 0% and at most 100%"),
        (1.5, None, "is 150%: give more than 0%"),
        ("5", None, "is 5: write 5% for a share, or --labels-per-class 5"),
        (None, 0, "--labels-per-class is 0: give 1 or more"),
        (None, -3, "--labels-per-class is -3"),
        ("1%", 5, "give one of them"),
    ],
)
def test_values_that_make_no_sense_are_refused(fraction, per_class, said):
    with pytest.raises(UserError, match=said):
        few_labels(fraction, per_class)


@pytest.mark.parametrize("amount", [{}, {"share": 0.1, "per_class": 5}])
def test_share_and_number_exclude_each_other(amount):
    with pytest.raises(UserError, match="either --label-fraction"):
        labeled_subset(np.zeros(3, dtype=np.int64), **amount)


def test_no_labels_are_refused():
    with pytest.raises(UserError, match="no image has a label"):
        labeled_subset(np.full(3, -1), share=0.1)
