from typing import Any

import pytest

from coterie.errors import BadRun
from coterie.evaluation.model_selection import RANKED, plateau_reason, select_snapshot, snapshot_records

SOUND = {"spread": 0.8, "perplexity": 60.0, "stability": 0.7, "rankme": 20.0}


def a_snapshot(place: int, *values: float, knn: float | None = None, **more: float) -> dict[str, Any]:
    """A line of the log; ``values`` are the metrics that decide, in their order."""
    record: dict[str, Any] = {
        "step": 100 * place - 1,
        "epoch": 10 * place - 1,
        "label_free": SOUND | dict(zip(RANKED, values, strict=False)) | more,
        "snapshot": f"snapshots/epoch-{10 * place:04d}.safetensors",
    }
    return record if knn is None else record | {"knn": {"k1_t0.07_top1": 0.0, "k20_t0.07_top1": knn}}


def test_the_best_mean_rank_is_taken() -> None:
    records = [
        a_snapshot(1, 10, 0.1),
        a_snapshot(2, 40, 0.6),
        a_snapshot(3, 50, 0.3),
        a_snapshot(4, 20, 0.5),
    ]  # ranks: 0 3 .. 2 .. 1
    chosen = select_snapshot(records)
    assert (chosen.snapshot, chosen.step, chosen.epoch) == ("snapshots/epoch-0020.safetensors", 199, 19)
    assert [each.score for each in chosen.table] == pytest.approx([0, 5 / 6, 4 / 6, 0.5])
    assert "place 2 of 4; perplexity_share 0.6, place 1 of 4" in chosen.reasons[0]
    assert "effective_rank alone would select step 299" in chosen.reasons[1]
    assert "not proof" in chosen.reasons[-1]


def test_other_lines_of_the_log_and_their_order_do_not_matter() -> None:
    records = [
        a_snapshot(3, 3, 0.3),
        {"step": 150, "epoch": 2, "loss": 3.0},
        a_snapshot(1, 1, 0.1),
        a_snapshot(2, 9, 0.9),
    ]
    assert select_snapshot(records).step == 199
    assert [each.step for each in select_snapshot(records).table] == [99, 199, 299]


def test_of_equal_snapshots_the_latest_is_taken() -> None:
    assert select_snapshot([a_snapshot(1, 5, 0.5), a_snapshot(2, 5, 0.5), a_snapshot(3, 4, 0.4)]).step == 199
    assert select_snapshot([a_snapshot(1, 5, 0.4), a_snapshot(2, 4, 0.5), a_snapshot(3, 3, 0.3)]).step == 199
    table = select_snapshot(
        [a_snapshot(1, 5, 0.2), a_snapshot(2, 5, 0.1), a_snapshot(3, 1, 0.3)]
    ).table  # an equal one is half worse
    assert [each.score for each in table] == pytest.approx([(0.75 + 0.5) / 2, (0.75 + 0) / 2, (0 + 1) / 2])


def test_snapshots_that_look_collapsed_are_left_out_with_a_reason() -> None:
    records = [
        a_snapshot(1, 99, 0.99, spread=0.02),
        a_snapshot(2, 4, 0.4),
        a_snapshot(3, 98, 0.98, perplexity_share=0.01),
        a_snapshot(4, 3, 0.3),
    ]
    chosen = select_snapshot(records)
    assert chosen.step == 199
    assert chosen.reasons[0] == (
        "2 of 4 snapshots look collapsed and are left out (step 99: spread 0.020, below 0.1; "
        "step 299: perplexity_share 0.010, below 0.02)."
    )
    assert [each.score is None for each in chosen.table] == [True, False, True, False]
    assert "Each of these metrics alone" in " ".join(chosen.reasons)


def test_one_group_of_few_is_a_collapse_though_its_share_is_large() -> None:
    records = [
        a_snapshot(1, 9, 0.9, perplexity=1.0, perplexity_share=0.1),
        a_snapshot(2, 1, 0.1, perplexity=1.9, perplexity_share=0.95),
    ]
    assert select_snapshot(records).step == 199
    assert "perplexity 1.000, below 1.5" in select_snapshot(records).reasons[0]


def test_if_all_look_collapsed_the_reasons_say_so() -> None:
    chosen = select_snapshot([a_snapshot(1, 5, 0.5, spread=0.01), a_snapshot(2, 4, 0.4, spread=0.02)])
    assert chosen.step == 99
    assert "not to be relied on" in chosen.reasons[0]


def test_longer_training_is_suggested_if_the_last_snapshot_is_the_best() -> None:
    assert any(
        "longer training" in reason
        for reason in select_snapshot([a_snapshot(1, 1, 0.1), a_snapshot(2, 2, 0.2)]).reasons
    )
    assert not any(
        "longer training" in reason
        for reason in select_snapshot([a_snapshot(1, 2, 0.2), a_snapshot(2, 1, 0.1)]).reasons
    )


def test_a_method_without_groups_is_compared_by_the_metrics_it_has() -> None:
    records = [a_snapshot(1, 10), a_snapshot(2, 30), a_snapshot(3, 20)]
    chosen = select_snapshot(records)
    assert chosen.step == 199
    assert "the best effective_rank" in chosen.reasons[0]
    partly = [
        a_snapshot(1, 10, 0.9),
        a_snapshot(2, 30),
        a_snapshot(3, 20, 0.1),
    ]  # a metric that one snapshot lacks is left out for all
    assert select_snapshot(partly).step == 199


def test_a_single_snapshot_is_taken_and_no_comparison_is_claimed() -> None:
    chosen = select_snapshot([a_snapshot(1, 10, 0.2)])
    assert chosen.step == 99
    assert "nothing was compared" in chosen.reasons[0]


def test_knn_accuracy_is_reported_and_decides_only_on_request() -> None:
    records = [a_snapshot(1, 10, 0.1, knn=50.0), a_snapshot(2, 30, 0.3, knn=44.0), a_snapshot(3, 20, 0.2)]
    chosen = select_snapshot(records)
    assert chosen.step == 199
    assert "would select step 99: 50.0 %, compared with 44.0 % here" in chosen.reasons[-1]
    assert select_snapshot(records, by="knn").step == 99
    assert (
        select_snapshot(records, by="knn")
        .reasons[0]
        .startswith("Step 99 (epoch 9) has the best kNN accuracy (kNN accuracy 50")
    )
    agreeing = [a_snapshot(1, 10, 0.1, knn=40.0), a_snapshot(2, 30, 0.3, knn=44.0)]
    assert "agrees: 44.0 %" in select_snapshot(agreeing).reasons[-1]
    elsewhere = [a_snapshot(1, 10, 0.1, knn=40.0), a_snapshot(2, 30, 0.3)]
    assert "no kNN probe at this step" in select_snapshot(elsewhere).reasons[-1]


def test_a_probe_of_the_same_step_may_be_a_line_of_its_own() -> None:
    records = [a_snapshot(1, 1, 0.1), {"step": 99, "epoch": 9, "knn": {"k20_t0.07_top1": 33.0}}, a_snapshot(2, 2, 0.2)]
    assert [each.knn for each in snapshot_records(records)] == [33.0, None]


@pytest.mark.parametrize(
    ("records", "by", "message"),
    [
        ([], "label_free", "no checkpoint to choose"),
        ([{"step": 5, "epoch": 0, "loss": 1.0}], "label_free", "no checkpoint to choose"),
        ([{"step": 5, "epoch": 0, "knn": {"k20_t0.07_top1": 3.0}}], "knn", "no checkpoint to choose"),
        ([a_snapshot(1, 1, 0.1) | {"snapshot": None}], "label_free", "no checkpoint to choose"),
        ([a_snapshot(1)], "label_free", "effective_rank or perplexity_share"),
        ([a_snapshot(1, float("nan")), a_snapshot(2, 3.0)], "label_free", "effective_rank or perplexity_share"),
        ([a_snapshot(1, 1, 0.1)], "knn", "--probe"),
    ],
)
def test_a_log_without_anything_to_choose_is_refused_in_one_line(
    records: list[dict[str, Any]], by: Any, message: str
) -> None:
    with pytest.raises(BadRun, match=message) as caught:
        select_snapshot(records, by=by)
    assert "\n" not in str(caught.value)


def history(values: list[float], stability: float = 0.75, **more: float) -> list[dict[str, Any]]:
    return [a_snapshot(n + 1, 100 * value, value, stability=stability, **more) for n, value in enumerate(values)]


RISING = [0.1, 0.2, 0.28, 0.35, 0.4, 0.44, 0.47, 0.5, 0.52, 0.55]
PLATEAU = [0.1, 0.2, 0.3, 0.4, 0.45, 0.46, 0.461, 0.46, 0.462, 0.461]


def first_stop(records: list[dict[str, Any]], **options: Any) -> int | None:
    return next((n for n in range(len(records) + 1) if plateau_reason(records[:n], **options)), None)


def test_a_rising_run_continues() -> None:
    assert first_stop(history(RISING)) is None


def test_a_plateau_stops_once_it_is_as_long_as_the_patience() -> None:
    assert first_stop(history(PLATEAU)) == 9  # snapshots 6 to 9 are alike
    assert first_stop(history(PLATEAU), patience=2) == 8
    assert first_stop(history(PLATEAU), tolerance=0.05) == 8
    assert first_stop(history(PLATEAU), patience=5) is None
    reason = plateau_reason(history(PLATEAU)[:9])
    assert reason is not None
    assert "over the last 3 snapshots at least 75 %" in reason
    assert "effective_rank by 0.4 %" in reason


def test_a_plateau_whose_neighbors_still_change_continues() -> None:
    assert first_stop(history(PLATEAU, stability=0.4)) is None
    records = history(PLATEAU)
    records[7]["label_free"]["stability"] = 0.3
    assert plateau_reason(records[:9]) is None
    del records[7]["label_free"]["stability"]
    assert plateau_reason(records[:9]) is None


def test_a_falling_run_continues_until_its_neighbors_are_stable() -> None:
    falling = [0.5, 0.48, 0.47, 0.46, 0.45, 0.45, 0.45]
    assert first_stop(history(falling)) == 5  # it does not improve, and its neighbors stay
    assert first_stop(history(falling, stability=0.2)) is None


def test_a_rise_after_a_dip_is_a_rise() -> None:
    assert plateau_reason(history([0.5, 0.5, 0.5, 0.3, 0.35, 0.4, 0.45])) is None
    assert plateau_reason(history([0.1, 0.2, 0.3, 0.40, 0.46, 0.42, 0.39])) is None  # and so is one that was lost again


def test_a_collapsing_run_has_not_plateaued() -> None:
    records = history([0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], stability=0.2)
    assert first_stop(records) is None
    for record in records[4:]:
        record["label_free"] |= {"spread": 0.01, "stability": 0.99}
    assert first_stop(records) is None


def test_no_run_has_plateaued_with_few_snapshots() -> None:
    flat = history([0.5] * 10)
    assert first_stop(flat) == 5
    assert first_stop(flat, patience=1) == 5
    assert first_stop(flat, patience=6) == 8
    assert plateau_reason([]) is None


def test_without_the_ranked_metrics_there_is_no_plateau() -> None:
    assert plateau_reason([a_snapshot(n, stability=0.99) for n in range(1, 11)]) is None


def test_the_selected_snapshot_is_marked() -> None:
    log = [
        {"step": 9, "epoch": 0, "snapshot": "snapshots/a", "label_free": {"effective_rank": 3.0, "spread": 0.9}},
        {"step": 19, "epoch": 1, "snapshot": "snapshots/b", "label_free": {"effective_rank": 9.0, "spread": 0.9}},
    ]
    lines = str(select_snapshot(log, "label_free")).splitlines()
    assert lines[0] == "snapshots/b"
    assert [line.split()[:2] for line in lines if "snapshots/" in line][-2:] == [
        ["snapshots/a", "0"],
        ["*", "snapshots/b"],
    ]
    assert "effective_rank" in lines[lines.index("") + 1]
