import math

import pytest

from coterie.reporting.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw_chart, number, short
from coterie.reporting.curves import charts


def points(line):
    return [tuple(map(float, pair.split(","))) for stroke in line.strokes for pair in stroke.split()]


def chart(title, metrics, warnings=()):
    (found,) = [each for part in charts(metrics, warnings) for each in part.charts if each.title == title]
    return found


def test_a_curve_runs_between_its_ticks():
    drawn = chart("Learning rate", [{"step": step, "lr": value} for step, value in ((0, 0.0), (50, 0.5), (100, 1.0))])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert points(drawn.lines[0]) == [(LEFT, bottom), ((LEFT + right) / 2, (TOP + bottom) / 2), (right, TOP)]
    assert [tick.text for tick in drawn.y_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert drawn.x_ticks[-1].text == "100 steps"
    assert drawn.lines[0].last == "1"


@pytest.mark.parametrize("missing", [math.nan, math.inf, None, "broken", True])
def test_what_is_no_number_breaks_the_curve(missing):
    values = [1.0, 2.0, missing, 3.0, 4.0, missing, 5.0]
    drawn = chart("Speed", [{"step": step, "images_per_second": value} for step, value in enumerate(values)])
    assert [len(stroke.split()) for stroke in drawn.lines[0].strokes] == [2, 2]
    assert len(drawn.lines[0].dots) == 1
    assert drawn.lines[0].last == "5"


def test_one_line_of_figures_is_a_dot():
    drawn = chart("Spread of the embeddings", [{"step": 4, "spread": 0.7}])
    assert drawn.lines[0].strokes == ()
    assert len(drawn.lines[0].dots) == 1


def test_nothing_logged_draws_nothing():
    assert charts([]) == ()
    assert charts([{"step": 3}, {"step": 4, "lr": math.nan}, {"lr": 1.0}]) == ()


def test_a_long_curve_is_thinned_and_keeps_its_spikes():
    metrics = [{"step": step, "loss_over_ln_k": 0.5} for step in range(20_000)]
    metrics[14_321]["loss_over_ln_k"] = 0.9
    (line,) = chart("Loss / ln K", metrics).lines
    drawn = points(line)
    assert len(drawn) <= 402
    highest = min(y for _, y in drawn)
    assert sum(y == highest for _, y in drawn) == 1
    assert highest < min(y for _, y in drawn if y != highest) - 10


def test_warnings_are_marked_in_the_curves_of_health_at_their_step():
    metrics = [{"step": step, "loss_over_ln_k": 0.99, "lr": 0.1} for step in (0, 100)]
    (mark,) = chart("Loss / ln K", metrics, [(50, "it collapsed"), (5000, "later than the log")]).marks
    assert mark.text == "it collapsed"
    assert mark.at == (LEFT + WIDTH - RIGHT) / 2
    assert chart("Learning rate", metrics, [(50, "it collapsed")]).marks == ()


def test_a_knn_probe_draws_one_curve_for_each_k():
    figures = {f"k{k}_t{t}_top{top}": k + 1.0 for k in (1, 20, 200) for t in (0.07, 0.1) for top in (1, 5)}
    drawn = chart("kNN, %", [{"step": 9, "knn": figures}, {"step": 19, "knn": figures}])
    assert [(line.name, line.last) for line in drawn.lines] == [("k = 1", "2"), ("k = 20", "21"), ("k = 200", "201")]


def test_all_groups_are_a_line_to_reach():
    drawn = chart("Groups", [{"step": 1, "groups_used": 3, "groups": 60, "perplexity": 2.5}])
    assert [line.name for line in drawn.lines] == ["used", "perplexity"]
    assert drawn.reference.text == "all 60"
    assert drawn.reference.at == TOP


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567.8, "1,234,568"), (56.74, "56.7"), (0.01234, "0.0123"), (1.23e-5, "1.2e-05"), (-2.5, "-2.5"),
     (123.4, "123"), (math.nan, "nan")],
)  # fmt: skip
def test_numbers_keep_the_digits_that_count(value, text):
    assert number(value) == text


def test_label_free_figures_have_curves_of_their_own_and_are_no_probe():
    looks = [
        {"step": step, "label_free": {"rankme": 10.0 + step, "effective_rank": 5.0, "alpha_req": 1.2, "new_figure": 3}}
        for step in (0, 10)
    ]
    parts = {part.title: part.charts for part in charts(looks, [(4, "it collapsed")])}
    assert list(parts) == ["Without labels"]
    rank, alpha, new = parts["Without labels"]
    assert [line.name for line in rank.lines] == ["RankMe", "effective rank"]
    assert [len(each.marks) for each in (rank, alpha, new)] == [1, 1, 1]
    assert alpha.reference.text == "1"
    assert new.title == "New figure"


def test_parts_without_a_curve_are_left_out():
    assert [part.title for part in charts([{"step": 1, "spread": 0.5, "lr": 0.1}])] == [
        "Is it learning?", "Learning rate and speed",
    ]  # fmt: skip


def test_a_name_keeps_its_color_and_a_drawing_need_not_begin_at_zero():
    drawn = draw_chart(
        "kNN",
        "",
        {"second": [(0, 50.0), (4e6, 52.0)]},
        (0, 4e6),
        unit="images",
        colors=["first", "second"],
        from_zero=False,
    )
    assert drawn.lines[0].color == 1
    assert drawn.y_ticks[0].text == "50"
    assert [tick.text for tick in drawn.x_ticks] == ["0", "1M", "2M", "3M", "4M images"]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (2500, "2,500"), (12500, "12.5k"), (3e6, "3M"), (2e9, "2G")])
def test_ticks_are_short(value, text):
    assert short(value) == text
