import math
from pathlib import Path
from typing import Any

import pytest

from coterie.errors import BadRun, UserError
from coterie.reporting.comparison import (
    ComparedRuns,
    ComparisonRow,
    compare_folders,
    compare_runs,
    write_comparison,
)
from tests.reporting.test_run_figures import a_folder, a_log, a_run


def row(found: ComparedRuns, section: str, name: str) -> ComparisonRow:
    (rows,) = [each.rows for each in found.sections if each.title == section]
    (wanted,) = [each for each in rows if each.name == name]
    return wanted


# -- folders -----------------------------------------------------------------------------------------------------------


def test_complete_folders_are_compared(tmp_path: Path) -> None:
    found = compare_folders([a_folder(tmp_path / "one"), a_folder(tmp_path / "two")])
    assert found.names == ("one", "two")
    assert found.remarks == ()
    assert row(found, "The run", "parameters, million").cells == (112 / 1e6, 112 / 1e6)
    assert row(found, "The run", "images").cells == (1000, 1000)
    assert row(found, "Is it learning?", "loss / ln K").cells == (0.9, 0.9)


def test_folders_of_the_same_name_get_longer_names(tmp_path: Path) -> None:
    paths = [a_folder(tmp_path / part / "run") for part in ("a", "b")]
    assert compare_folders(paths).names == ("a/run", "b/run")


def test_damaged_and_unfinished_runs_are_compared_with_a_remark(tmp_path: Path) -> None:
    torn, new = a_folder(tmp_path / "torn", steps=20), a_folder(tmp_path / "new", steps=None)
    with (torn / "metrics.jsonl").open("a") as file:
        file.write('{"step": 29, "ep\n{"step": 39, "epoch": 1, "loss_over_ln_k": 0.5}\n')
    (torn / "model.safetensors").write_bytes(b"no weights")
    (new / "run.json").unlink()
    (new / "model.safetensors").unlink()
    found = compare_folders([torn, new])
    damaged, *unfinished = found.remarks
    assert "line 3" in damaged
    assert str(torn / "metrics.jsonl") in damaged
    assert unfinished == [
        "torn is unfinished: 20 of 40 steps are saved",
        "new has no checkpoint yet: its latest figures are those of its log",
    ]
    assert row(found, "Is it learning?", "loss / ln K").cells == (0.5, 0.9)
    assert not any(each.name == "parameters, million" for section in found.sections for each in section.rows)


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    one = a_folder(tmp_path / "one")
    with pytest.raises(UserError, match="two runs or more"):
        compare_folders([one])
    with pytest.raises(UserError, match="named twice"):
        compare_folders([one, tmp_path / "one" / "." / "checkpoint" / ".."])
    with pytest.raises(BadRun, match="nothing"):
        compare_folders([one, tmp_path / "nothing"])


# -- the table ---------------------------------------------------------------------------------------------------------


def test_figures_stand_side_by_side() -> None:
    two = a_run("two", log=a_log(knn=60.0, loss=0.8), evaluation={"linear": {"top1": 70.0}})
    found = compare_runs([a_run("one"), two])
    assert found.names == ("one", "two")
    assert row(found, "Is it learning?", "loss / ln K").cells == (0.9, 0.8)
    assert row(found, "The run", "epochs").cells == (2, 2)
    assert row(found, "Cost", "time of the steps").cells == ("20 s", "20 s")
    assert row(found, "Latest label-free metrics", "RankMe").cells == (51.0, 61.0)
    assert row(found, "Probes", "Linear, top 1").cells == (None, 70.0)
    knn = row(found, "Latest probe during training", "kNN, k = 20")
    assert (knn.cells, knn.best) == ((50.0, 60.0), 1)
    assert (
        found.answer == "two is the best of the 2 that were probed: kNN, k = 20 is 60 (latest probe during training)."
    )
    assert found.remarks == ()
    assert found.settings == ()


def test_settings_that_differ_are_listed_without_those_of_speed() -> None:
    other: dict[str, Any] = {
        "run": {"workers": 4},
        "groups": {"kind": "kmeans", "counts": [60, 30]},
        "clip_grad_norm": 1.0,
    }
    found = {each.name: each.cells for each in compare_runs([a_run(), a_run("two", settings=other)]).settings}
    assert found == {
        "groups.kind": ("learned", "kmeans"),
        "groups.counts": ("60", "60, 30"),
        "clip_grad_norm": (None, 1.0),
    }


def test_an_equal_or_lonely_score_is_not_the_best_and_a_setting_of_a_probe_never() -> None:
    evaluation = {"linear": {"top1": 70.0, "learning_rate": 0.1}}
    twice = compare_runs([a_run(evaluation=evaluation), a_run("two", evaluation=evaluation)])
    assert all(each.best is None for section in twice.sections for each in section.rows)
    assert "coterie evaluate" in twice.answer
    better = compare_runs(
        [a_run(evaluation=evaluation), a_run("two", evaluation={"linear": {"top1": 71, "learning_rate": 9}})]
    )
    assert row(better, "Probes", "Linear, top 1").best == 1
    assert row(better, "Probes", "Linear, learning rate").best is None


def test_remarks_are_one_line_each() -> None:
    found = compare_runs(
        [
            a_run("complete"),
            a_run("stopped", steps=20, settings={"data": ["others"]}),
            a_run("new", log=[], steps=None, parameters=None),
            a_run("torn", remarks=("line 3 is damaged",)),
        ]
    )
    assert found.remarks == (
        "stopped is unfinished: 20 of 40 steps are saved",
        "new has no checkpoint yet: its latest figures are those of its log",
        "line 3 is damaged",
        "the runs did not train on the same images: compare their figures with care",
    )
    assert row(found, "The run", "epochs").cells == (2, "1 of 2", None, 2)
    assert row(found, "Is it learning?", "spread").cells == (0.8, 0.8, None, 0.8)


def test_curves_share_a_chart_over_the_number_of_images_processed() -> None:
    found = compare_runs([a_run(), a_run("empty", log=[]), a_run("two", settings={"batch_size": 100})])
    charts = {chart.title: chart for chart in found.charts}
    assert list(charts) == [
        "Loss / ln K", "Spread of the embeddings", "kNN, k = 20", "RankMe", "Stability of neighbors",
    ]  # fmt: skip
    curves = charts["Loss / ln K"].curves
    assert [(curve.name, curve.color) for curve in curves] == [("one", 0), ("two", 2)]
    ends = [float(curve.strokes[0].split()[-1].split(",")[0]) for curve in curves]
    assert ends[1] - 46 == pytest.approx(2 * (ends[0] - 46), abs=1)
    assert charts["Loss / ln K"].x_ticks[-1].text.endswith("images")


# -- as text and as a page ---------------------------------------------------------------------------------------------


def test_the_text_has_a_column_for_each_run_and_a_star_for_the_best() -> None:
    long = "/a/very/long/path/to/some/images.parquet"
    text = str(compare_runs([a_run(), a_run("two", log=a_log(knn=60.0), settings={"data": [long]})]))
    lines = text.splitlines()
    ends = {
        len(line.rstrip("* ")) for line in lines if "kNN" in line[:6] or line.lstrip().startswith(("one ", "spread"))
    }
    assert len(ends) == 1  # one column below the other
    assert any(line.split() == ["kNN,", "k", "=", "20", "50", "60*"] for line in lines)
    assert "…" + long[-23:] in text
    assert lines[-1].startswith("two is the best")
    assert max(map(len, lines)) < 100


def test_a_regularizer_is_compared_where_a_run_has_one() -> None:
    regularized = a_run("two", log=[{**line, "regularization": 0.4, "regularizer_gradient": 0.14} for line in a_log()])
    found = compare_runs([a_run(), regularized])
    assert row(found, "Is it learning?", "regularizer, part of the loss").cells == (None, 0.4)
    assert [each.title for each in found.charts][:3] == ["Loss / ln K", "Regularizer", "The regularizer's share"]
    assert [curve.name for curve in found.charts[1].curves] == ["two"]
    plain = compare_runs([a_run(), a_run("two")])
    assert not any("egularizer" in each.title for each in plain.charts)
    assert "egularizer" not in str(plain)


def test_values_that_are_not_numbers_do_no_harm(tmp_path: Path) -> None:
    log = [{"step": 3, "epoch": 0, "loss_over_ln_k": math.nan, "spread": None, "images_per_second": 0.0, "knn": "none"}]
    odd = a_run(
        "odd", log=log, evaluation={"linear": "none", "knn": {}}, settings={"batch_size": "many", "epochs": None}
    )
    found = compare_runs([odd, a_run("<b>& two")])
    write_comparison(tmp_path / "compare.html", found)
    page = (tmp_path / "compare.html").read_text()
    assert "&lt;b&gt;&amp; two" in page
    assert "<b>& two" not in page
    assert "nan" in str(found)


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    write_comparison(tmp_path / "compare.html", compare_runs([a_run(str(number)) for number in range(12)]))
    page = (tmp_path / "compare.html").read_text()
    for words in ("http:", "https:", "@import", "url(", "<script", "src="):
        assert words not in page
    assert "default-src 'none'" in page
    assert 'class="curve dashed"' in page  # the eleventh looks different from the first
