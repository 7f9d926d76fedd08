"""Groups x assignment x target x {batch, epoch}: each cell trains, stays in use and goes on bitwise, or says why it cannot."""

import re

import pytest
import torch

from coterie.config.overrides import known_paths, parse_override, set_path
from coterie.config.toml import from_dict
from coterie.errors import BadConfig
from tests.faults.running import assert_same
from tests.matrix.cells import CARRIED, CELLS, REFUSED, Cell, settings_of
from tests.matrix.running import SAVED, STEPS, Run, effective_rank, knn_score, resumed, untrained_knn_score, whole


def share_in_use(run: Run, cell: Cell) -> float:
    """Groups that were somebody's best in the last epoch; where the batch is the groups: in its worst step."""
    last = run.used[-STEPS:]
    if cell.groups == "batch":  # other groups at each step; with Identity one head over all views, else one a view
        return min(
            len(used) / count for step in last for used, count in zip(step, run.config.group_counts, strict=True)
        )
    return min(
        len(set().union(*(step[head] for step in last))) / count for head, count in enumerate(run.config.group_counts)
    )


@pytest.mark.parametrize("cell", CARRIED, ids=str)
def test_trains_without_collapse(cell: Cell) -> None:
    run = whole(cell)
    assert torch.stack(run.losses).isfinite().all()
    assert all(value.isfinite().all() for value in run.parts.student.state_dict().values())
    assert share_in_use(run, cell) >= 1 / 2
    assert effective_rank(run) >= 4
    assert knn_score(run.parts.student.encoder.backbone) > untrained_knn_score()


@pytest.mark.parametrize("cell", CARRIED, ids=str)
def test_goes_on_bitwise_from_the_middle_of_an_epoch(cell: Cell) -> None:
    straight = whole(cell)
    again = resumed(cell, straight.saved)
    assert len(again.losses) == len(straight.losses) - SAVED
    assert_same(again.losses, straight.losses[SAVED:], "losses")
    assert_same(again.everything(), straight.everything())


@pytest.mark.parametrize("cell", REFUSED, ids=str)
def test_a_refused_cell_says_why_and_what_to_do(cell: Cell) -> None:
    """In one line that begins with a path; and whoever does what the lines say gets settings that are read."""
    settings = settings_of(cell)
    for _ in range(2):
        with pytest.raises(BadConfig) as raised:
            from_dict(settings)
        said = str(raised.value)
        assert "\n" not in said
        assert said.split()[0].rstrip(":") in known_paths(settings)
        mends = re.findall(r"[a-z_.]+=[a-z']+", said)
        assert mends, said
        for mend in mends:
            set_path(settings, *parse_override(mend))
        try:
            from_dict(settings)
        except BadConfig:
            continue
        return
    pytest.fail(f"the mends do not lead to settings that are read: {said}")


def test_fewer_than_a_third_are_refused() -> None:
    assert len(CELLS) == 80
    assert len(REFUSED) + len(CARRIED) == len(CELLS)
    assert 3 * len(REFUSED) < len(CELLS)


@pytest.mark.parametrize("assignment", ["nearest", "softmax"])
@pytest.mark.parametrize("when", ["batch", "epoch"])
def test_learned_groups_that_nothing_spreads_are_refused(assignment: str, when: str) -> None:
    """Without the regularizer six epochs left 2 (nearest, each batch) to 8 (softmax, teacher, labels) of 16 groups in use."""
    settings = settings_of(Cell("learned", assignment, "same", when))
    assert from_dict(settings).mean_entropy > 0
    with pytest.raises(BadConfig, match=rf"assignment\.kind is '{assignment}'.*--set mean_entropy=1"):
        from_dict(settings | {"mean_entropy": 0.0})
