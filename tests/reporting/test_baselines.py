"""A run beside its baselines, as its page shows it."""

from typing import Any

from coterie.evaluation.results import KNN_METRIC
from coterie.reporting.baselines import beside_tables, latest_bars
from coterie.reporting.verdict import verdict


def figures(knn: float, linear: float) -> dict[str, dict[str, float]]:
    return {"knn": {KNN_METRIC: knn}, "linear": {"top1": linear}}


def entry(knn: float, baselines: bool = True, **asked: Any) -> dict[str, Any]:
    beside = {"raw pixels": figures(10, 20), "untrained network": figures(30, 40)} if baselines else {}
    return {"asked": asked, "date": "2026-11-29", "figures": figures(knn, 60), "baselines": beside}


def content(*entries: dict[str, Any]) -> dict[str, Any]:
    return {**entries[-1]["figures"], "entries": list(entries)}


def test_the_latest_evaluation_is_drawn_last_and_highlighted() -> None:
    bars = latest_bars(content(entry(50, train=["a"]), entry(55, train=["b"]), entry(80, set="voc", train=["c"])))
    assert bars is not None
    assert bars.figures == (("raw pixels", 10), ("untrained network", 30), ("this run", 55))
    assert bars.title == "Accuracy on labeled images, kNN"
    assert latest_bars(content(entry(50, baselines=False))) is None
    assert latest_bars({"knn": {KNN_METRIC: 3.0}}) is None


def test_a_table_for_each_pair_of_images() -> None:
    found = content(
        entry(50, train=["/data/a"], test=["/data/b/test"]),
        entry(55, train=["/data/a"], test=["/data/b/test"], seed=1),
        entry(70, train=["x"], test=[]),
        entry(80, set="voc", train=["c"]),
        entry(90, baselines=False, train=["y"]),
    )
    tables = list(beside_tables(found))
    assert [table.title for table in tables] == [f"Beside baselines, %, on {name}" for name in ("b/test", "x", "voc")]
    assert tables[0].header == ("", "kNN", "linear")
    assert tables[0].rows == (("raw pixels", 10, 20), ("untrained network", 30, 40), ("this run", 55, 60))


def test_the_page_says_what_is_reached_without_training() -> None:
    answer = verdict([], content(entry(50, train=["a"]))).answer
    assert answer == (
        "Accuracy on labeled images: kNN 50.0 %, linear classifier 60.0 %. With kNN, raw pixels reach 10.0 % and the "
        "untrained network 30.0 %."
    )
