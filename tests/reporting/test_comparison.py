import math

import pytest

from coterie.reporting.comparison import as_text, compared, write_comparison
from coterie.reporting.run_figures import Run, seconds


def a_log(steps=40, knn=50.0, speed=100.0, loss=0.9):
    log = [
        {"step": step, "epoch": step // 20, "loss": 3.0, "loss_over_ln_k": loss, "groups_used": 55, "groups": 60,
         "spread": 0.8, "lr": 0.1, "images_per_second": speed, "data_wait": 0.25}
        for step in range(9, steps, 10)
    ]  # fmt: skip
    log.append({"step": steps - 1, "epoch": 1, "knn": {"k1_t0.07_top1": knn - 5, "k20_t0.07_top1": knn}})
    log.append({"step": steps - 1, "epoch": 1, "label_free": {"rankme": knn + 1, "stability": 0.5}})
    return log


def a_run(name="one", *, steps=40, settings=None, **changes):
    whole = {
        "method": "swav", "data": ["images"], "epochs": 2, "batch_size": 50, "backbone": {"name": "resnet18", "width": 1.0},
        "run": {"workers": 1}, "groups": {"kind": "learned", "counts": [60]},
    } | (settings or {})  # fmt: skip
    given = {"evaluation": {}, "images": 1000, "parameters": 11_000_000, "steps": steps} | changes
    return Run(name, whole, given.pop("log", a_log(steps or 40)), **given)


def cells(found, section, line):
    (lines,) = [each.lines for each in found.sections if each.title == section]
    (wanted,) = [each for each in lines if each.name == line]
    return wanted


def test_figures_stand_side_by_side():
    found = compared([a_run("one"), a_run("two", log=a_log(knn=60.0, loss=0.8), evaluation={"linear": {"top1": 70.0}})])
    assert found.names == ("one", "two")
    assert cells(found, "Is it learning?", "loss / ln K").cells == (0.9, 0.8)
    assert cells(found, "Is it learning?", "groups used").cells == ("55 of 60", "55 of 60")
    assert cells(found, "The run", "epochs").cells == (2, 2)
    assert cells(found, "The run", "parameters, million").cells == (11.0, 11.0)
    assert cells(found, "Last look without labels", "RankMe").cells == (51.0, 61.0)
    assert cells(found, "Probes", "Linear, top 1").cells == (None, 70.0)
    knn = cells(found, "Last probe while training", "kNN, k = 20")
    assert (knn.cells, knn.best) == ((50.0, 60.0), 1)
    assert found.answer == "two is the best of the 2 that were probed: kNN, k = 20 is 60 (last probe while training)."
    assert found.remarks == ()
    assert found.settings == ()


def test_time_and_speed_come_from_the_log():
    slow = a_run(log=a_log(speed=25.0))
    assert seconds(slow) == pytest.approx(40 * 50 / 25)
    found = compared([slow, a_run("two")])
    assert cells(found, "Cost", "time of the steps").cells == ("80 s", "20 s")
    assert cells(found, "Cost", "images per second").cells == pytest.approx((25, 100))
    assert cells(found, "Cost", "waiting for data, %").cells == (25, 25)
    assert seconds(a_run(log=[])) is None


def test_the_settings_that_differ_are_told_and_those_of_speed_are_not():
    other = a_run(
        "two", settings={"run": {"workers": 4}, "groups": {"kind": "kmeans", "counts": [60, 30]}, "clip_grad_norm": 1.0}
    )
    found = {line.name: line.cells for line in compared([a_run(), other]).settings}
    assert found == {"groups.kind": ("learned", "kmeans"), "groups.counts": ("60", "60, 30"), "clip": (None, 1.0)}


def test_an_equal_or_lonely_score_is_not_the_best_and_a_setting_of_a_probe_never():
    evaluation = {"linear": {"top1": 70.0, "learning_rate": 0.1}}
    twice = compared([a_run(evaluation=evaluation), a_run("two", evaluation=evaluation)])
    assert all(line.best is None for section in twice.sections for line in section.lines)
    assert "coterie evaluate" in twice.answer
    better = compared(
        [a_run(evaluation=evaluation), a_run("two", evaluation={"linear": {"top1": 71, "learning_rate": 9}})]
    )
    assert cells(better, "Probes", "Linear, top 1").best == 1
    assert cells(better, "Probes", "Linear, learning rate").best is None


def test_of_a_knn_probe_one_figure_is_compared():
    knn = {f"k{k}_t{t}_top{top}": float(k) for k in (1, 20) for t in (0.07, 0.1) for top in (1, 5)}
    found = compared([a_run(evaluation={"knn": knn}), a_run("two", evaluation={"knn": {"k5_t0.07_top1": 3.0}})])
    assert cells(found, "Probes", "kNN, k = 20, top 1").cells == (20.0, None)


def test_what_is_wrong_with_a_run_is_one_plain_line():
    found = compared(
        [
            a_run("whole"),
            a_run("stopped", steps=20, settings={"data": ["others"]}),
            a_run("new", log=[], steps=None, parameters=None),
            a_run("torn", remarks=("line 3 is damaged",)),
        ]
    )
    assert found.remarks == (
        "stopped is unfinished: 20 of 40 steps are saved",
        "new has no checkpoint yet: its last figures are those of its log",
        "line 3 is damaged",
        "they did not learn from the same images: compare their figures with care",
    )
    assert cells(found, "The run", "epochs").cells == (2, "1 of 2", None, 2)
    assert cells(found, "Is it learning?", "spread").cells == (0.8, 0.8, None, 0.8)


def test_curves_are_laid_over_each_other_by_the_images_seen():
    found = compared([a_run(), a_run("empty", log=[]), a_run("two", settings={"batch_size": 100})])
    charts = {chart.title: chart for chart in found.charts}
    assert list(charts) == ["Loss / ln K", "Spread of the embeddings", "kNN, k = 20", "RankMe", "Neighbors stay"]
    lines = charts["Loss / ln K"].lines
    assert [(line.name, line.color) for line in lines] == [("one", 0), ("two", 2)]
    ends = [float(line.strokes[0].split()[-1].split(",")[0]) for line in lines]
    assert ends[1] - 46 == pytest.approx(2 * (ends[0] - 46), abs=1)
    assert charts["Loss / ln K"].x_ticks[-1].text.endswith("images")


def test_the_text_has_a_column_for_each_run_and_a_star_for_the_best():
    long = "/a/very/long/path/to/some/images.parquet"
    text = as_text(compared([a_run(), a_run("two", log=a_log(knn=60.0), settings={"data": [long]})]))
    lines = text.splitlines()
    ends = {
        len(line.rstrip("* ")) for line in lines if "kNN" in line[:6] or line.lstrip().startswith(("one ", "spread"))
    }
    assert len(ends) == 1  # one column under the other
    assert any(line.split() == ["kNN,", "k", "=", "20", "50", "60*"] for line in lines)
    assert "…" + long[-23:] in text
    assert lines[-1].startswith("two is the best")
    assert max(map(len, lines)) < 100


def test_figures_that_are_no_numbers_do_no_harm(tmp_path):
    log = [{"step": 3, "epoch": 0, "loss_over_ln_k": math.nan, "spread": None, "images_per_second": 0.0, "knn": "none"}]
    odd = a_run(
        "odd", log=log, evaluation={"linear": "none", "knn": {}}, settings={"batch_size": "many", "epochs": None}
    )
    found = compared([odd, a_run("<b>& two")])
    write_comparison(tmp_path / "compare.html", found)
    page = (tmp_path / "compare.html").read_text()
    assert "&lt;b&gt;&amp; two" in page
    assert "<b>& two" not in page
    assert "nan" in as_text(found)


def test_the_page_loads_nothing(tmp_path):
    write_comparison(tmp_path / "compare.html", compared([a_run(str(number)) for number in range(12)]))
    page = (tmp_path / "compare.html").read_text()
    for words in ("http:", "https:", "@import", "url(", "<script", "src="):
        assert words not in page
    assert "default-src 'none'" in page
    assert 'class="curve dashed"' in page  # the eleventh looks unlike the first
