"""Groups x assignment x target x {batch, epoch}: each cell trains without collapse and resumes bitwise, or is refused.

The default run trains the methods' cells and those that put any two kinds together; the slow set trains the others.
"""

import re

import pytest
import torch

from coterie.config.overrides import known_paths, parse_override, set_path
from coterie.config.toml import from_dict
from coterie.errors import BadConfig
from coterie.grouping.regularizers import MeanEntropy
from tests.faults.running import assert_same
from tests.matrix.cells import CELLS, REFUSED, TRAINED, Cell, every_pair_of_kinds, settings_of
from tests.matrix.running import (
    SAVED,
    STEPS,
    Run,
    effective_rank,
    knn_score,
    new_run,
    resumed,
    train,
    uninterrupted,
    untrained_knn_score,
)

FIRST = every_pair_of_kinds()
EACH = [pytest.param(cell, marks=[pytest.mark.slow] * (cell not in FIRST), id=str(cell)) for cell in TRAINED]


def share_in_use(run: Run, cell: Cell) -> float:
    """The share of groups with images in the last epoch; in its worst step where the batch is the groups."""
    last = run.used[-STEPS:]
    if cell.groups == "batch":  # new groups at each step; one head over all views with Identity, else one head per view
        return min(
            len(used) / count for step in last for used, count in zip(step, run.config.group_counts, strict=True)
        )
    return min(
        len(set().union(*(step[head] for step in last))) / count for head, count in enumerate(run.config.group_counts)
    )


@pytest.mark.parametrize("cell", EACH)
def test_trains_without_collapse(cell: Cell) -> None:
    run = uninterrupted(cell)
    assert torch.stack(run.losses).isfinite().all()
    assert all(value.isfinite().all() for value in run.parts.student.state_dict().values())
    assert share_in_use(run, cell) >= 1 / 2
    assert effective_rank(run) >= 4
    assert knn_score(run.parts.student.encoder.backbone) > untrained_knn_score()


@pytest.mark.parametrize("cell", EACH)
def test_resumes_bitwise_from_the_middle_of_an_epoch(cell: Cell) -> None:
    straight = uninterrupted(cell)
    again = resumed(cell, straight.saved)
    assert len(again.losses) == len(straight.losses) - SAVED
    assert_same(again.losses, straight.losses[SAVED:], "losses")
    assert_same(again.full_state(), straight.full_state())


REGULARIZED = {
    "coding_rate": Cell("learned", "sinkhorn", "same", "batch"),
    "variance_covariance": Cell("momentum", "nearest", "teacher", "epoch"),
    "uniformity": Cell("kmeans", "nearest", "same", "batch"),
    "koleo": Cell("batch", "identity", "same", "batch"),
}
"""A cell for each kind of regularizer but ``mean_entropy``, which some of the cells have anyway."""
SLOW = ("variance_covariance", "uniformity")  # the other two have both objectives


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in REGULARIZED]
)
def test_a_regularizer_trains_without_collapse_and_resumes_bitwise(kind: str) -> None:
    cell, settings = REGULARIZED[kind], {"kind": kind}
    run = train(new_run(cell, settings))
    assert torch.stack(run.losses).isfinite().all()
    assert share_in_use(run, cell) >= 1 / 2
    assert effective_rank(run) >= 4
    assert knn_score(run.parts.student.encoder.backbone) > untrained_knn_score()
    again = resumed(cell, run.saved, settings)
    assert_same(again.losses, run.losses[SAVED:], "losses")
    assert_same(again.full_state(), run.full_state())


@pytest.mark.parametrize("cell", REFUSED, ids=str)
def test_a_refused_cell_says_why_and_how_to_fix_it(cell: Cell) -> None:
    """In one line that starts with the path of a setting; following the lines gives settings that are accepted."""
    settings = settings_of(cell)
    for _ in range(2):
        with pytest.raises(BadConfig) as raised:
            from_dict(settings)
        message = str(raised.value)
        assert "\n" not in message
        assert message.split()[0].rstrip(":") in known_paths(settings)
        fixes = re.findall(r"[a-z_.]+=[a-z']+", message)
        assert fixes, message
        for fix in fixes:
            set_path(settings, *parse_override(fix))
        try:
            from_dict(settings)
        except BadConfig:
            continue
        return
    pytest.fail(f"the fixes do not lead to settings that are accepted: {message}")


def test_fewer_than_a_third_are_refused() -> None:
    assert len(CELLS) == 80
    assert len(REFUSED) + len(TRAINED) == len(CELLS)
    assert 3 * len(REFUSED) < len(CELLS)
    assert set(FIRST) < set(TRAINED)


@pytest.mark.parametrize("assignment", ["nearest", "softmax"])
@pytest.mark.parametrize("when", ["batch", "epoch"])
def test_learned_groups_that_nothing_spreads_are_refused(assignment: str, when: str) -> None:
    """Without the regularizer, six epochs left 2 (nearest, batch) to 8 (softmax, teacher, epoch) of 16 groups in use."""
    settings = settings_of(Cell("learned", assignment, "same", when))
    assert isinstance(from_dict(settings).regularizer, MeanEntropy)
    with pytest.raises(BadConfig, match=rf"assignment\.kind is '{assignment}'.*--set regularizer\.kind=mean_entropy"):
        from_dict({name: value for name, value in settings.items() if name != "regularizer"})
