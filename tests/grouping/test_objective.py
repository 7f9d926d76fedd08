import copy
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.grouping import objective as objectives
from coterie.grouping.assignment import Nearest, Sinkhorn, assign, label_rows
from coterie.grouping.groups import KMeansGroups, LearnedGroups, LearnedGroupsConfig, build_groups
from coterie.grouping.memory_queue import Memory, Refresh
from coterie.grouping.objective import Objective
from coterie.grouping.regularizers import MeanEntropy, mean_entropy_loss
from coterie.signals import Interrupted, listening
from coterie.types import Batch, Progress, Roles


class OneLayer(nn.Module):
    """A one-layer student: any callable works."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 6, dtype=torch.float64)

    def forward(self, views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.stack([self.layer(view.flatten(1)) for view in views])
        z = F.normalize(h, dim=-1)
        return h, z, z


def batch(views: int, size: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.arange(size),
        {v: torch.randn(size, 3, 2, 2, generator=generator, dtype=torch.float64) for v in range(views)},
    )


def groups(*counts: int, frozen: int = 0) -> LearnedGroups:
    torch.manual_seed(1)
    return build_groups(LearnedGroupsConfig(counts, frozen), 6).double()


ROLES = Roles((0, 1, 2, 3), (0, 1), (0, 1))
START = Progress(0, 10, 100)


def test_all_pairs_have_the_same_weight() -> None:
    """V views and two codes give 2 (V - 1) terms of equal weight (methods.md, section 11, 3)."""
    student, learned = OneLayer(), groups(5)
    objective = Objective(learned, Sinkhorn(), ROLES)
    result = objective(student, batch(4), START)
    center = learned.centers()[0]
    terms = []
    for target in result.targets:
        for view in range(4):
            if view != target.view:  # the oracle is torch's own loss
                terms.append(F.cross_entropy(result.z[view] @ center.T / 0.1, target.values))  # noqa: PERF401
    assert len(terms) == 6
    torch.testing.assert_close(result.loss, torch.stack(terms).mean())


def test_several_heads_of_different_size() -> None:
    student, learned = OneLayer(), groups(5, 9)
    result = Objective(learned, Sinkhorn(), ROLES)(student, batch(4), START)
    result.loss.backward()
    assert [target.values.shape[1] for target in result.targets] == [5, 5, 9, 9]
    assert all(head.grad is not None for head in learned.heads)


def test_a_full_memory_changes_the_codes_and_only_the_batch_is_returned() -> None:
    student, learned = OneLayer(), groups(5)
    objective = Objective(learned, Sinkhorn(), ROLES, memory=Memory(8, 2, 6, batch_size=8).double())
    first = objective(student, batch(4), START)
    second = objective(student, batch(4, seed=1), START)
    past, now = first.z[0], second.z[0]
    rows = torch.cat([past, now]) @ learned.centers()[0].T
    torch.testing.assert_close(second.targets[0].values, assign(Sinkhorn(), rows)[-8:])
    assert (second.targets[0].values - assign(Sinkhorn(), now @ learned.centers()[0].T)).abs().max() > 1e-4


def test_frozen_groups_do_not_move_at_all() -> None:
    student, learned = OneLayer(), groups(5, frozen=2)
    objective = Objective(learned, Sinkhorn(), ROLES)
    optimizer = torch.optim.SGD([*student.parameters(), *learned.parameters()], lr=0.1, momentum=0.9, weight_decay=0.1)
    before = learned.centers()[0].detach().clone()
    for step in range(3):
        progress = Progress(step, 10, 100)
        objective(student, batch(4, seed=step), progress).loss.backward()
        objective.after_backward(progress)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(progress)
        assert torch.equal(learned.centers()[0], before) == (step < 2)
    torch.testing.assert_close(learned.centers()[0].norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_collapsed_embeddings_get_uniform_codes_and_a_loss_of_at_least_ln_k() -> None:
    learned = groups(7)

    def constant(views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = F.normalize(torch.ones(len(views), 8, 6, dtype=torch.float64), dim=-1)
        return z, z, z

    result = Objective(learned, Sinkhorn(), ROLES)(constant, batch(4), START)
    torch.testing.assert_close(result.targets[0].values, torch.full((8, 7), 1 / 7, dtype=torch.float64))
    assert result.loss.item() >= math.log(7)


def test_the_groups_are_saved_once_and_not_by_the_objective() -> None:
    objective = Objective(groups(5), Sinkhorn(), ROLES, memory=Memory(8, 2, 6, batch_size=8))
    assert {key.split(".")[0] for key in objective.state_dict()} == {"memory"}
    assert not list(objective.parameters())


def test_half_precision_embeddings_give_float32_codes() -> None:
    learned = groups(5).float()

    def half(views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = F.normalize(torch.randn(len(views), 8, 6), dim=-1).bfloat16()
        return z, z, z

    with torch.autocast("cpu", torch.bfloat16):
        result = Objective(learned, Sinkhorn(), ROLES)(half, batch(4), START)
    assert result.loss.dtype == result.targets[0].values.dtype == torch.float32


def test_defaults_are_the_published_values() -> None:
    """methods.md, 1.2: tau is 0.1."""
    objective = Objective(groups(5), Sinkhorn(), ROLES)
    assert (objective.temperature, objective.regularizer, objective.rows_from) == (0.1, None, "student")


def test_a_regularizer_is_weighted() -> None:
    student, learned = OneLayer(), groups(5)
    plain, weighted = (Objective(learned, Sinkhorn(), ROLES, regularizer=each) for each in (None, MeanEntropy(3.0)))
    result = plain(student, batch(4), START)
    both, term = weighted(student, batch(4), START), 3 * mean_entropy_loss(result.z, learned.centers(), 0.1)
    torch.testing.assert_close(both.loss - result.loss, term)
    torch.testing.assert_close(both.regularization, term.detach())
    assert result.regularization is None


def labeled(every_epochs: int = 1) -> tuple[OneLayer, Objective]:
    refresh, memory = Refresh(every_epochs, labels=True), Memory(8, 2, 6, batch_size=8).double()
    kmeans = KMeansGroups([groups(3).centers()[0]] * 2)
    return OneLayer(), Objective(kmeans, Nearest(), ROLES, memory=memory, refresh=refresh, images=10)


def test_a_refresh_gives_each_image_of_the_memory_the_nearest_of_the_new_groups() -> None:
    student, objective = labeled()
    assert objective.needs_fill()
    objective.fill(student, [(START, batch(4))])
    assert not objective.needs_fill()
    assert objective.refresh_due(START)
    before = [each.clone() for each in objective.groups.centers()]
    objective.refresh(START)
    z = student([batch(4).views[0], batch(4).views[1]])[1].detach()
    for head, centers in enumerate(objective.groups.centers()):
        assert not torch.equal(centers, before[head])
        nearest = [max(range(3), key=lambda k, row=row, c=centers: float(row @ c[k])) for row in z[head]]
        assert objective.labels[head].tolist() == [*nearest, -100, -100]


def test_a_refresh_shows_every_round() -> None:
    seen: list[tuple[int, int, int]] = []

    def show(items: Iterable[int], total: int, what: str) -> Iterator[int]:
        assert what == "finding groups and labels"
        for number in items:
            yield number  # the round
            done = sum(
                not torch.equal(one, other) for one, other in zip(before, objective.groups.centers(), strict=True)
            )
            seen.append((number, total, done))

    found = []
    for shown in (None, show):
        student, objective = labeled()
        objective.assignment, objective.show_progress = Sinkhorn(iterations=4), shown
        objective.fill(student, [(START, batch(4))])
        before = [each.clone() for each in objective.groups.centers()]
        objective.refresh(START)
        found.append([objective.labels.clone(), *(each.clone() for each in objective.groups.centers())])
    assert [each[:2] for each in seen] == [(number, 30) for number in range(2 * (10 + 5))]
    heads = [0] * 10 + [1] * 10 + [2] * 10  # ten rounds of k-means for each of two heads, and then ten of labels
    assert [each[2] for each in seen] == heads
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_signal_during_a_refresh_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    student, objective = labeled()
    objective.fill(student, [(START, batch(4))])
    objective.refresh(START)
    objective.fill(student, [(START, batch(4, seed=1))])
    before, calls = copy.deepcopy((objective.state_dict(), objective.groups.state_dict())), list[int]()

    def interrupted(*values: Any) -> torch.Tensor:
        calls.append(len(calls))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return label_rows(*values)

    monkeypatch.setattr(objectives, "label_rows", interrupted)
    with listening(), pytest.raises(Interrupted):
        objective.refresh(Progress(10, 10, 100))
    for one, other in zip(before, (objective.state_dict(), objective.groups.state_dict()), strict=True):
        assert all(
            value == other[name] if isinstance(value, dict) else torch.equal(value, other[name])
            for name, value in one.items()
        )
    objective.refresh(Progress(10, 10, 100))
    assert not torch.equal(before[1]["heads.0"], objective.groups.state_dict()["heads.0"])


def test_kept_labels_are_the_targets_of_every_view() -> None:
    student, objective = labeled()
    objective.labels[:, :8] = torch.tensor([[0, 1, 2, 0, 1, 2, -100, 0], [2] * 8])
    result = objective(student, batch(4), START)
    assert [(target.values.tolist(), target.head, target.view) for target in result.targets] == [
        ([0, 1, 2, 0, 1, 2, -100, 0], 0, None),
        ([2] * 8, 1, None),
    ]


def test_missing_parts_are_refused_in_one_line() -> None:
    with pytest.raises(BadConfig, match="a refresh reads the memory, and there is none: pass a Memory"):
        Objective(groups(5), Sinkhorn(), ROLES, refresh=Refresh())
    memory = Memory(8, 2, 6, batch_size=8)
    with pytest.raises(BadConfig, match="images is 0: a refresh that keeps labels needs the number of images"):
        Objective(groups(5), Sinkhorn(), ROLES, memory=memory, refresh=Refresh(labels=True))
