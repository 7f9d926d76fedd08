import math
from typing import Any

import pytest

from coterie.reporting.chart import LEFT, RIGHT, TOP, WIDTH, Chart
from coterie.reporting.curves import label_free_log, named_curves, probe_curves, run_charts


def chart(title: str, log: list[dict[str, Any]], warnings: list[tuple[int, str]] | None = None) -> Chart:
    (found,) = [each for group in run_charts(log, warnings or ()) for each in group.charts if each.title == title]
    return found


@pytest.mark.parametrize("missing", [math.nan, math.inf, None, "broken", True])
def test_a_value_that_is_not_a_number_breaks_the_curve(missing: object) -> None:
    values = [1.0, 2.0, missing, 3.0]
    log = [{"step": step, "images_per_second": value} for step, value in enumerate(values)]
    (curve,) = chart("Speed", log).curves
    assert [len(stroke.split()) for stroke in curve.strokes] == [2]
    assert len(curve.dots) == 1
    assert named_curves(log, {"images_per_second": "speed"})["speed"][3] == (3, 3)


def test_a_log_of_one_line_is_drawn_as_dots() -> None:
    (curve,) = chart("Spread of the embeddings", [{"step": 4, "spread": 0.7}]).curves
    assert (curve.strokes, len(curve.dots)) == ((), 1)


def test_an_empty_log_draws_nothing() -> None:
    assert run_charts([]) == ()
    assert run_charts([{"step": 3}, {"step": 4, "lr": math.nan}, {"lr": 1.0}]) == ()


def test_warnings_are_marked_in_the_charts_of_health_at_their_step() -> None:
    log = [{"step": step, "loss_over_ln_k": 0.99, "lr": 0.1} for step in (0, 100)]
    (mark,) = chart("Loss / ln K", log, [(50, "it collapsed"), (5000, "later than the log")]).marks
    assert mark.text == "it collapsed"
    assert mark.at == (LEFT + WIDTH - RIGHT) / 2
    assert chart("Learning rate", log, [(50, "it collapsed")]).marks == ()


def test_a_regularizer_has_its_place_beside_the_loss() -> None:
    lines = [
        {"step": 1, "loss": 5.0, "regularization": 1.0, "regularizer_gradient": 0.25, "loss_over_ln_k": 0.9},
        {"step": 2, "loss": 4.0, "regularization": -0.5, "regularizer_gradient": 0.5, "loss_over_ln_k": 0.9},
        {"step": 3, "loss": math.nan, "regularization": math.nan, "regularizer_gradient": None, "loss_over_ln_k": 0.9},
    ]
    parts = chart("Parts of the loss", lines)
    assert [(curve.name, curve.last) for curve in parts.curves] == [("predictions", "4.5"), ("regularizer", "-0.5")]
    share = chart("The regularizer's share", lines)
    assert [curve.last for curve in share.curves] == ["50"]
    assert share.reference is not None
    titles = [each.title for group in run_charts(lines) for each in group.charts]
    assert titles == ["Loss / ln K", "Parts of the loss", "The regularizer's share"]
    plain = [{key: value for key, value in line.items() if key != "regularization"} for line in lines]
    plain = [{key: value for key, value in line.items() if key != "regularizer_gradient"} for line in plain]
    assert [each.title for group in run_charts(plain) for each in group.charts] == ["Loss / ln K"]


def test_a_knn_probe_draws_one_curve_for_each_k() -> None:
    metrics = {f"k{k}_t{t}_top{top}": k + 1.0 for k in (1, 20, 200, 500) for t in (0.07, 0.1) for top in (1, 5)}
    drawn = chart("kNN, %", [{"step": 9, "knn": metrics}, {"step": 19, "knn": metrics}])
    assert [(curve.name, curve.last) for curve in drawn.curves] == [
        ("k = 1", "2"), ("k = 20", "21"), ("k = 200", "201"),  # at most three
    ]  # fmt: skip
    first = {"k20_t0.07_top1": 1.0, "k20_t0.1_top1": 2.0, "k20_t0.07_top5": 3.0}
    assert probe_curves([{"step": 3, "knn": first}]) == {"kNN": {"k = 20": [(3, 1)]}}


def test_all_groups_are_the_reference_of_the_groups_in_use() -> None:
    drawn = chart("Groups", [{"step": 1, "groups_used": 3, "groups": 60, "perplexity": 2.5}])
    assert [curve.name for curve in drawn.curves] == ["used", "perplexity"]
    assert drawn.reference is not None
    assert (drawn.reference.text, drawn.reference.at) == ("all 60", TOP)


def test_label_free_metrics_have_charts_of_their_own_and_are_not_a_probe() -> None:
    metrics = {"effective_rank": 5.0, "alpha_req": 1.2, "perplexity_share": 0.5, "new_metric": 3}
    log = [{"step": step, "label_free": {"rankme": 10.0 + step} | metrics} for step in (0, 10)]
    groups = {group.title: group.charts for group in run_charts(log, [(4, "it collapsed")])}
    assert list(groups) == ["Label-free metrics"]
    rank, alpha, new = groups["Label-free metrics"]
    assert [curve.name for curve in rank.curves] == ["RankMe", "effective rank"]
    assert [len(each.marks) for each in (rank, alpha, new)] == [1, 1, 1]
    assert alpha.reference is not None
    assert alpha.reference.text == "1"
    assert new.title == "New metric"
    assert [line["step"] for line in label_free_log([*log, {"step": 11, "label_free": "none"}])] == [0, 10]


def test_groups_without_a_chart_are_left_out() -> None:
    assert [group.title for group in run_charts([{"step": 1, "spread": 0.5, "lr": 0.1}])] == [
        "Is it learning?", "Learning rate and speed",
    ]  # fmt: skip
