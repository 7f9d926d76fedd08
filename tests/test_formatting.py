import math

import pytest

from coterie.formatting import (
    counted,
    format_cell,
    format_duration,
    format_number,
    format_tick,
    is_number,
    metric_name,
    metric_title,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567.8, "1,234,568"), (56.74, "56.7"), (0.01234, "0.0123"), (1.23e-5, "1.2e-05"), (-2.5, "-2.5"),
     (123.4, "123"), (-0.2, "-0.2"), (math.nan, "nan"), (-math.inf, "-inf")],
)  # fmt: skip
def test_numbers_keep_their_significant_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (2500, "2,500"), (12500, "12.5k"), (-3e6, "-3M"), (2e9, "2G"), (0.25, "0.25")]
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert format_tick(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (172700, "48.0 h"),
        (1e6, "11.6 days"),
    ],
)
def test_durations_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (3, "3"), (0.5, "0.5"), (True, "True"), ("resnet18", "resnet18"), (math.nan, "nan")],
)
def test_cells_show_numbers_dashes_and_texts(value: object, text: str) -> None:
    assert format_cell(value) == text


@pytest.mark.parametrize(
    ("value", "answer"),
    [(3, True), (-0.5, True), (True, False), (math.nan, False), (math.inf, False), (None, False), ("3", False)],
)
def test_only_finite_numbers_are_numbers(value: object, answer: bool) -> None:
    assert is_number(value) is answer


def test_metrics_are_spelled_as_people_write_them() -> None:
    assert [metric_name(key) for key in ("knn", "nmi", "top5", "recall10", "kmeans_nmi", "mean_per_class")] == [
        "kNN", "NMI", "top 5", "recall 10", "k-means NMI", "mean per class",
    ]  # fmt: skip
    assert [metric_title(key) for key in ("knn", "linear", "alpha-ReQ", "effective rank")] == [
        "kNN", "Linear", "alpha-ReQ", "Effective rank",
    ]  # fmt: skip


def test_one_of_a_thing_is_not_many() -> None:
    assert [counted(number, "epoch") for number in (0, 1, 2, "1", "1.5")] == [
        "0 epochs", "1 epoch", "2 epochs", "1 epoch", "1.5 epochs",
    ]  # fmt: skip
