from typing import Any

import pytest

from coterie.errors import BadRun
from coterie.evaluation.model_selection import RANKED, looks, select, stale

SOUND = {"spread": 0.8, "perplexity": 60.0, "stability": 0.7, "rankme": 20.0}


def look(place: int, *values: float, knn: float | None = None, **more: float) -> dict[str, Any]:
    """A line of the log; ``values`` are the figures that decide, in their order."""
    record: dict[str, Any] = {
        "step": 100 * place - 1,
        "epoch": 10 * place - 1,
        "label_free": SOUND | dict(zip(RANKED, values, strict=False)) | more,
        "snapshot": f"snapshots/epoch-{10 * place:04d}.safetensors",
    }
    return record if knn is None else record | {"knn": {"k1_t0.07_top1": 0.0, "k20_t0.07_top1": knn}}


def test_the_best_mean_rank_is_taken() -> None:
    records = [look(1, 10, 0.1), look(2, 40, 0.6), look(3, 50, 0.3), look(4, 20, 0.5)]  # ranks: 0 3 .. 2 .. 1
    chosen = select(records)
    assert (chosen.snapshot, chosen.step, chosen.epoch) == ("snapshots/epoch-0020.safetensors", 199, 19)
    assert [each.score for each in chosen.table] == pytest.approx([0, 5 / 6, 4 / 6, 0.5])
    assert "place 2 of 4; perplexity_share 0.6, place 1 of 4" in chosen.reasons[0]
    assert "effective_rank alone would take step 299" in chosen.reasons[1]
    assert "no proof" in chosen.reasons[-1]


def test_other_lines_of_the_log_do_not_matter_nor_does_their_order() -> None:
    records = [look(3, 3, 0.3), {"step": 150, "epoch": 2, "loss": 3.0}, look(1, 1, 0.1), look(2, 9, 0.9)]
    assert select(records).step == 199
    assert [each.step for each in select(records).table] == [99, 199, 299]


def test_equal_looks_give_the_later() -> None:
    assert select([look(1, 5, 0.5), look(2, 5, 0.5), look(3, 4, 0.4)]).step == 199
    assert select([look(1, 5, 0.4), look(2, 4, 0.5), look(3, 3, 0.3)]).step == 199
    table = select([look(1, 5, 0.2), look(2, 5, 0.1), look(3, 1, 0.3)]).table  # an equal one is half worse
    assert [each.score for each in table] == pytest.approx([(0.75 + 0.5) / 2, (0.75 + 0) / 2, (0 + 1) / 2])


def test_what_seems_collapsed_is_left_out_and_told() -> None:
    records = [
        look(1, 99, 0.99, spread=0.02),
        look(2, 4, 0.4),
        look(3, 98, 0.98, perplexity_share=0.01),
        look(4, 3, 0.3),
    ]
    chosen = select(records)
    assert chosen.step == 199
    assert chosen.reasons[0] == (
        "2 of 4 looks seem collapsed and are left out (step 99: spread 0.020, below 0.1; "
        "step 299: perplexity_share 0.010, below 0.02)."
    )
    assert [each.score is None for each in chosen.table] == [True, False, True, False]
    assert "Each of these figures alone" in " ".join(chosen.reasons)


def test_one_group_of_few_is_a_collapse_though_its_share_is_large() -> None:
    records = [
        look(1, 9, 0.9, perplexity=1.0, perplexity_share=0.1),
        look(2, 1, 0.1, perplexity=1.9, perplexity_share=0.95),
    ]
    assert select(records).step == 199
    assert "perplexity 1.000, below 1.5" in select(records).reasons[0]


def test_where_all_seem_collapsed_it_says_so() -> None:
    chosen = select([look(1, 5, 0.5, spread=0.01), look(2, 4, 0.4, spread=0.02)])
    assert chosen.step == 99
    assert "nothing to rely on" in chosen.reasons[0]


def test_the_last_look_being_the_best_is_told() -> None:
    assert any("longer training" in reason for reason in select([look(1, 1, 0.1), look(2, 2, 0.2)]).reasons)
    assert not any("longer training" in reason for reason in select([look(1, 2, 0.2), look(2, 1, 0.1)]).reasons)


def test_a_method_without_groups_is_judged_by_what_it_has() -> None:
    records = [look(1, 10), look(2, 30), look(3, 20)]
    chosen = select(records)
    assert chosen.step == 199
    assert "the best effective_rank" in chosen.reasons[0]
    partly = [look(1, 10, 0.9), look(2, 30), look(3, 20, 0.1)]  # a figure that one look has not is left out for all
    assert select(partly).step == 199


def test_a_single_look_is_taken_and_no_comparison_is_claimed() -> None:
    chosen = select([look(1, 10, 0.2)])
    assert chosen.step == 99
    assert "nothing was compared" in chosen.reasons[0]


def test_labels_are_compared_with_and_decide_only_if_asked() -> None:
    records = [look(1, 10, 0.1, knn=50.0), look(2, 30, 0.3, knn=44.0), look(3, 20, 0.2)]
    chosen = select(records)
    assert chosen.step == 199
    assert "would take step 99: 50.0 %, against 44.0 % here" in chosen.reasons[-1]
    assert select(records, by="knn").step == 99
    assert (
        select(records, by="knn").reasons[0].startswith("Step 99 (epoch 9) has the best kNN accuracy (kNN accuracy 50")
    )
    agreeing = [look(1, 10, 0.1, knn=40.0), look(2, 30, 0.3, knn=44.0)]
    assert "agrees: 44.0 %" in select(agreeing).reasons[-1]
    elsewhere = [look(1, 10, 0.1, knn=40.0), look(2, 30, 0.3)]
    assert "not asked at this step" in select(elsewhere).reasons[-1]


def test_a_probe_of_the_same_step_may_be_a_line_of_its_own() -> None:
    records = [look(1, 1, 0.1), {"step": 99, "epoch": 9, "knn": {"k20_t0.07_top1": 33.0}}, look(2, 2, 0.2)]
    assert [each.knn for each in looks(records)] == [33.0, None]


@pytest.mark.parametrize(
    ("records", "by", "message"),
    [
        ([], "label_free", "no checkpoint to choose"),
        ([{"step": 5, "epoch": 0, "loss": 1.0}], "label_free", "no checkpoint to choose"),
        ([{"step": 5, "epoch": 0, "knn": {"k20_t0.07_top1": 3.0}}], "knn", "no checkpoint to choose"),
        ([look(1, 1, 0.1) | {"snapshot": None}], "label_free", "no checkpoint to choose"),
        ([look(1)], "label_free", "effective_rank or perplexity_share"),
        ([look(1, float("nan")), look(2, 3.0)], "label_free", "effective_rank or perplexity_share"),
        ([look(1, 1, 0.1)], "knn", "--probe"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(records: list[dict[str, Any]], by: Any, message: str) -> None:
    with pytest.raises(BadRun, match=message) as caught:
        select(records, by=by)
    assert "\n" not in str(caught.value)


def history(values: list[float], stability: float = 0.75, **more: float) -> list[dict[str, Any]]:
    return [look(n + 1, 100 * value, value, stability=stability, **more) for n, value in enumerate(values)]


RISING = [0.1, 0.2, 0.28, 0.35, 0.4, 0.44, 0.47, 0.5, 0.52, 0.55]
PLATEAU = [0.1, 0.2, 0.3, 0.4, 0.45, 0.46, 0.461, 0.46, 0.462, 0.461]


def first_stop(records: list[dict[str, Any]], **options: Any) -> int | None:
    return next((n for n in range(len(records) + 1) if stale(records[:n], **options)), None)


def test_a_rising_run_goes_on() -> None:
    assert first_stop(history(RISING)) is None


def test_a_plateau_stops_once_it_is_as_long_as_the_patience() -> None:
    assert first_stop(history(PLATEAU)) == 9  # looks 6 to 9 are alike
    assert first_stop(history(PLATEAU), patience=2) == 8
    assert first_stop(history(PLATEAU), tolerance=0.05) == 8
    assert first_stop(history(PLATEAU), patience=5) is None
    said = stale(history(PLATEAU)[:9])
    assert said is not None
    assert "over the last 3 looks at least 75 %" in said
    assert "effective_rank by 0.4 %" in said


def test_a_plateau_whose_neighbors_still_change_goes_on() -> None:
    assert first_stop(history(PLATEAU, stability=0.4)) is None
    records = history(PLATEAU)
    records[7]["label_free"]["stability"] = 0.3
    assert stale(records[:9]) is None
    del records[7]["label_free"]["stability"]
    assert stale(records[:9]) is None


def test_a_run_that_falls_goes_on_until_it_lies_still() -> None:
    falling = [0.5, 0.48, 0.47, 0.46, 0.45, 0.45, 0.45]
    assert first_stop(history(falling)) == 5  # it does not improve, and its neighbors stay
    assert first_stop(history(falling, stability=0.2)) is None


def test_a_rise_after_a_dip_is_a_rise() -> None:
    assert stale(history([0.5, 0.5, 0.5, 0.3, 0.35, 0.4, 0.45])) is None
    assert stale(history([0.1, 0.2, 0.3, 0.40, 0.46, 0.42, 0.39])) is None  # and so is one that was lost again


def test_a_collapsing_run_is_not_called_stale() -> None:
    records = history([0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], stability=0.2)
    assert first_stop(records) is None
    for record in records[4:]:
        record["label_free"] |= {"spread": 0.01, "stability": 0.99}
    assert first_stop(records) is None


def test_nothing_is_stale_in_the_first_looks() -> None:
    flat = history([0.5] * 10)
    assert first_stop(flat) == 5
    assert first_stop(flat, patience=1) == 5
    assert first_stop(flat, patience=6) == 8
    assert stale([]) is None


def test_without_the_figures_that_decide_nothing_is_said() -> None:
    assert stale([look(n, stability=0.99) for n in range(1, 11)]) is None
