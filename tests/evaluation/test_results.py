"""Dictionaries that print as tables."""

import json
from pathlib import Path

from coterie.evaluation.results import ProbeResults, TransferResults, note_results
from coterie.logger import NullLogger


def test_probes_have_a_line_per_metric() -> None:
    results = ProbeResults({"knn": {"k20_top1": 51.23456, "k200": 3.0}, "linear": {"top1": 60.0}})
    assert results == {"knn": {"k20_top1": 51.23456, "k200": 3.0}, "linear": {"top1": 60.0}}
    assert json.loads(json.dumps(results)) == results
    assert str(results).splitlines() == [
        "knn     k20_top1  51.23",
        "knn     k200          3",
        "linear  top1         60",
    ]
    assert results._repr_html_().count("<tr>") == 3


def test_sets_are_rows_and_metrics_columns() -> None:
    results = TransferResults({"voc": {"knn_top1": 50.0}, "places": {"knn_top1": 1.23456, "linear_top1": 7.0}})
    assert str(results).splitlines() == [
        "        knn_top1  linear_top1",
        "voc     50        -",
        "places  1.235     7",
    ]


def test_an_evaluation_is_added_to_those_before(tmp_path: Path) -> None:
    for results in ({"knn": {"a": 1.0}}, {"linear": {"b": 2.0}}, {"transfer": {"voc": {}}}, {"transfer": {"inat": {}}}):
        note_results(tmp_path, results, NullLogger())
    kept = json.loads((tmp_path / "evaluation.json").read_text())
    assert kept == {"knn": {"a": 1.0}, "linear": {"b": 2.0}, "transfer": {"voc": {}, "inat": {}}}
    note_results(tmp_path / "a.safetensors", {"knn": {}}, NullLogger())
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
