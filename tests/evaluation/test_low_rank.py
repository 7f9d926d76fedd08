"""Features that vary along a handful of directions are warned of, and healthy ones are not."""

import json
from pathlib import Path

import pytest

from coterie.evaluation.low_rank import PATIENCE_SNAPSHOTS, low_rank_warning

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "labelfree"


def log(*ranks: float) -> list[dict]:
    return [
        {"step": step, "epoch": step, "label_free": {"effective_rank": rank}, "snapshot": f"{step}"}
        for step, rank in enumerate(ranks)
    ]


@pytest.mark.parametrize(
    ("ranks", "last", "warned"),
    [
        ((1.2,), False, False),  # early in training
        ((1.2,), True, True),
        ((1.2, 1.2), False, False),
        ((1.2, 1.3, 1.2), False, True),
        ((1.2, 1.2, 3.4), True, False),  # it passed
        ((5.0, 1.2, 1.2), False, False),
        ((5.0, 1.2), True, True),
        ((15.0, 14.0, 13.0), True, False),
        ((0.0,), True, True),  # one point
        ((), True, False),
    ],
)
def test_some_snapshots_in_a_row_or_the_last_one(ranks: tuple[float, ...], last: bool, warned: bool) -> None:
    text = low_rank_warning(log(*ranks), 128, 1000, last=last)
    assert (text is not None) == warned
    if text is not None:
        assert f"only about {ranks[-1]:.1f} of 128 directions" in text
        assert "learning_rate.peak" in text
        assert "\n" not in text


def test_few_features_or_images_have_a_low_rank_anyway() -> None:
    assert low_rank_warning(log(1.3), 8, 1000, last=True) is None
    assert low_rank_warning(log(1.3), 128, 12, last=True) is None
    assert low_rank_warning(log(1.3), 128, 18, last=True) is not None


@pytest.mark.parametrize("method", ["simclr", "smog", "sela_v2"])
def test_the_benchmark_runs_whose_rank_is_sound_are_never_warned_of(method: str) -> None:
    lines = [json.loads(line) for line in (RESULTS / f"{method}_seed0.jsonl").read_text().splitlines()[2:]]
    ranks = [line["features"]["effective_rank"] for line in lines]
    assert len(ranks) > PATIENCE_SNAPSHOTS
    for count in range(1, len(ranks) + 1):
        assert low_rank_warning(log(*ranks[:count]), 96, 1000, last=count == len(ranks)) is None
