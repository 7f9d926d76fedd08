import math

import pytest

from coterie.reporting.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_CURVE_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Curve,
    draw_chart,
    round_ticks,
)


def points(curve: Curve) -> list[tuple[float, ...]]:
    return [tuple(map(float, pair.split(","))) for stroke in curve.strokes for pair in stroke.split()]


def test_a_curve_runs_between_its_ticks() -> None:
    chart = draw_chart("title", "note", {"rate": [(0, 0.0), (50, 0.5), (100, 1.0)]}, (0, 100))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert points(chart.curves[0]) == [(LEFT, bottom), ((LEFT + right) / 2, (TOP + bottom) / 2), (right, TOP)]
    assert [(tick.at, tick.text) for tick in chart.y_ticks][:2] == [
        (bottom, "0"),
        (bottom - (bottom - TOP) / 4, "0.25"),
    ]
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert [tick.text for tick in chart.x_ticks] == ["0", "25", "50", "75", "100 steps"]
    assert chart.curves[0].last == "1"


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_breaks_the_curve(missing: float) -> None:
    values = [1.0, 2.0, missing, 3.0, 4.0, missing, 5.0]
    (curve,) = draw_chart("", "", {"a": list(enumerate(values))}, (0, 6)).curves
    assert [len(stroke.split()) for stroke in curve.strokes] == [2, 2]
    assert len(curve.dots) == 1
    assert curve.last == "5"


def test_a_single_value_is_a_dot_and_may_be_the_only_step() -> None:
    (curve,) = draw_chart("", "", {"a": [(4.0, 0.7)]}, (4, 4)).curves
    assert curve.strokes == ()
    assert curve.dots[0][0] == LEFT


def test_a_long_curve_is_thinned_out_and_keeps_its_spikes_and_gaps() -> None:
    values = [0.5] * 20_000
    values[14_321], values[7_000] = 0.9, math.nan
    (curve,) = draw_chart("", "", {"loss": list(enumerate(values))}, (0, 20_000)).curves
    drawn = points(curve)
    assert len(drawn) <= MAX_CURVE_POINTS + 2
    highest = min(y for _, y in drawn)
    assert sum(y == highest for _, y in drawn) == 1
    assert highest < min(y for _, y in drawn if y != highest) - 10
    assert len(curve.strokes) == 2


def test_a_name_keeps_its_color_and_the_y_axis_need_not_begin_at_zero() -> None:
    curves = {"second": [(0, 50.0), (4e6, 52.0)]}
    chart = draw_chart("kNN", "", curves, (0, 4e6), unit="images", colors=["first", "second"], from_zero=False)
    assert chart.curves[0].color == 1
    assert chart.y_ticks[0].text == "50"
    assert [tick.text for tick in chart.x_ticks] == ["0", "1M", "2M", "3M", "4M images"]
    assert draw_chart("kNN", "", curves, (0, 4e6)).y_ticks[0].text == "0"


def test_a_reference_is_always_in_sight_and_warnings_outside_the_span_are_not() -> None:
    chart = draw_chart(
        "",
        "",
        {"a": [(0, 1.0), (100, 2.0)]},
        (0, 100),
        reference=(8.0, "all 8"),
        warnings=[(50, "here"), (500, "later")],
    )
    assert chart.reference is not None
    assert (chart.reference.at, chart.reference.text) == (TOP, "all 8")
    assert [(mark.at, mark.text) for mark in chart.marks] == [((LEFT + WIDTH - RIGHT) / 2, "here")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 97.0, [0.0, 25.0, 50.0, 75.0, 100.0]),
        (-3.0, 9.0, [-5.0, 0.0, 5.0, 10.0]),
        (5.0, 5.0, [4.0, 6.0, 8.0, 10.0]),
        (0.0, 0.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_ticks_are_round_and_cover_all_values(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high, 4) == pytest.approx(ticks)
