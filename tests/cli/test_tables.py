"""Results as plain-text tables."""

from coterie.cli.tables import figure_lines, plan_lines, selection_lines, transfer_lines
from coterie.config.describe import explain
from coterie.config.facts import Facts
from coterie.evaluation.model_selection import select_snapshot
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.training.profiling.estimate import Estimate, Plan


def test_a_plan() -> None:
    planner = Planner(Facts(images=5000, side=32), epochs=40)
    config = METHODS["swav"](planner)
    rows = explain(config, planner.reasons | {"temperature": "set by you"})
    explained = {path: (value, reason) for path, value, reason in rows}
    assert explained["views.crops"][0] == "2x24 + 2x16"
    assert explained["batch_size"] == ("64", "up to 256, as long as an epoch has 64 steps (78)")
    assert explained["epochs"] == ("40", "requested")
    assert explained["groups.counts"][0] == "[100]"
    assert explained["temperature"] == ("0.1", "set by you")
    estimate = Estimate(5, 0, 7200, 12, 3, 1, 0.75, 33, 3 * 2**29, 2**28, basis="33 steps, rehearsed just now")
    text = "\n".join(plan_lines(Plan(config, planner.reasons, "swav: so many images", 39, estimate)))
    assert "one per hundred of 5000 images" in text
    assert (
        "time    about 2.0 h: start 5 s, training 2.0 h, refreshes 12 s, label-free metrics 3 s, report 1 s (0.75 s per step)"
        in text
    )
    assert "filling" not in text
    assert "memory  about 1.75 GiB: 1.50 in the main process, 0.25 in loader processes" in text
    assert "from 33 steps, rehearsed just now, on this machine" in text
    gpu = Estimate(5, 0, 7200, 12, 3, 1, 0.75, 33, 3 * 2**29, 2**28, device_memory=2**31)
    assert "device  about 2.00 GiB of tensors" in plan_lines(Plan(config, planner.reasons, "swav", 39, gpu))


def test_probes() -> None:
    result = {"knn": {"k20_top1": 51.23456, "k200": 3.0}, "linear": {"top1": 60.0}}
    assert figure_lines(result) == [
        "knn  k20_top1       51.23",
        "knn  k200               3",
        "linear  top1              60",
    ]


def test_sets_are_rows_and_metrics_columns() -> None:
    table = {"voc": {"knn_top1": 50.0}, "places": {"knn_top1": 1.23456, "linear_top1": 7.0}}
    assert transfer_lines(table) == [
        "        knn_top1  linear_top1",
        "voc     50        -",
        "places  1.235     7",
    ]


def test_the_selected_snapshot_is_marked() -> None:
    log = [
        {"step": 9, "epoch": 0, "snapshot": "snapshots/a", "label_free": {"effective_rank": 3.0, "spread": 0.9}},
        {"step": 19, "epoch": 1, "snapshot": "snapshots/b", "label_free": {"effective_rank": 9.0, "spread": 0.9}},
    ]
    lines = selection_lines(select_snapshot(log, "label_free"))
    assert lines[0] == "snapshots/b"
    assert [line.split()[:2] for line in lines if "snapshots/" in line][-2:] == [
        ["snapshots/a", "0"],
        ["*", "snapshots/b"],
    ]
    assert "effective_rank" in lines[lines.index("") + 1]
