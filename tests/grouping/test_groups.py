"""Each kind of groups by itself, on cases small enough to compute by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.grouping.groups import (
    Groups,
    GroupsConfig,
    KMeansGroups,
    KMeansGroupsConfig,
    LastingGroups,
    LearnedGroups,
    LearnedGroupsConfig,
    MomentumGroups,
    MomentumGroupsConfig,
    build_groups,
)
from coterie.optim.schedule import Constant, Linear
from coterie.types import Progress

START = Progress(0, 10, 100)
AXES = torch.eye(2, dtype=torch.float64)
CONFIGS: list[GroupsConfig] = [LearnedGroupsConfig((3, 4)), KMeansGroupsConfig((3, 4)), MomentumGroupsConfig((3, 4))]
KINDS = [LearnedGroups, KMeansGroups, MomentumGroups]


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def each_kind(*centers: Tensor) -> list[LastingGroups]:
    return [LearnedGroups(centers), KMeansGroups(centers), MomentumGroups(centers, Constant(0.9))]


def test_defaults_are_the_published_values() -> None:
    """methods.md, sections 2.1 (SwAV: 3000 prototypes; DeepCluster-v2: 3 x 3000) and 3.4 (SMoG: 3 x 3000, beta 1 -> 0.99)."""
    assert LearnedGroupsConfig() == LearnedGroupsConfig(counts=(3000,), frozen_steps=0)
    assert KMeansGroupsConfig() == KMeansGroupsConfig(counts=(3000, 3000, 3000))
    smog = MomentumGroupsConfig(counts=(3000, 3000, 3000), momentum=Linear(1.0, 0.99), gradient=False)
    assert MomentumGroupsConfig() == smog
    assert not MomentumGroups([AXES], Constant(0.9)).gradient
    assert LearnedGroups([AXES]).frozen_steps == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_one_final_class(kind: type) -> None:
    assert kind.__mro__ == (kind, nn.Module, object)
    assert kind.__final__


@pytest.mark.parametrize("config", CONFIGS)
def test_centers_start_as_the_unit_weights_of_a_linear_layer(config: GroupsConfig) -> None:
    torch.manual_seed(3)
    groups = build_groups(config, 6)
    torch.manual_seed(3)
    expected = [F.normalize(nn.Linear(6, count, bias=False).weight.detach(), dim=1) for count in (3, 4)]
    assert isinstance(groups, Groups)
    assert all(torch.equal(ours, other) for ours, other in zip(groups.centers(), expected, strict=True))
    assert [each.requires_grad for each in groups.parameters()] == [isinstance(groups, LearnedGroups)] * 2
    assert groups.refits != isinstance(groups, LearnedGroups)


def test_settings_reach_the_groups() -> None:
    learned = build_groups(LearnedGroupsConfig((2,), frozen_steps=7), 3)
    momentum = build_groups(MomentumGroupsConfig((2,), Constant(0.8), gradient=True), 3)
    assert isinstance(learned, LearnedGroups)
    assert learned.frozen_steps == 7
    assert isinstance(momentum, MomentumGroups)
    assert (momentum.momentum, momentum.gradient) == (Constant(0.8), True)


def test_what_is_saved_has_the_same_names_in_every_kind() -> None:
    centers = unit(3, 5), unit(4, 5)
    for groups in each_kind(*centers):
        assert list(groups.state_dict()) == ["heads.0", "heads.1"]
        for other in each_kind(*(-each for each in centers)):
            other.load_state_dict(groups.state_dict())
            assert all(torch.equal(*pair) for pair in zip(other.centers(), groups.centers(), strict=True))


def test_given_centers_are_copied_and_divided_by_their_norm() -> None:
    given = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    for groups in each_kind(given):
        assert groups.centers()[0].tolist() == [[0.6, 0.8], [0.0, 1.0]]
        with torch.no_grad():
            groups.centers()[0].zero_()
    assert given.tolist() == [[3.0, 4.0], [0.0, 2.0]]


def test_learned_centers_follow_their_gradient_and_get_unit_norm() -> None:
    groups = LearnedGroups([AXES])
    groups.heads[0].grad = torch.tensor([[0.0, -0.75], [0.0, 0.0]], dtype=torch.float64)
    groups.after_backward(START)
    torch.optim.SGD(groups.parameters(), lr=1.0).step()
    groups.after_step(START)
    torch.testing.assert_close(groups.centers()[0], torch.tensor([[0.8, 0.6], [0.0, 1.0]], dtype=torch.float64))
    groups.refit(0, unit(5, 2), -AXES)
    torch.testing.assert_close(groups.update_centers(unit(1, 5, 2), START)[0], groups.heads[0], rtol=0, atol=0)
    assert groups.heads[0][0, 1] > 0


def test_frozen_groups_lose_their_gradient_until_the_given_step() -> None:
    groups = LearnedGroups([AXES], frozen_steps=2)
    for step in range(4):
        groups.heads[0].grad = torch.ones_like(groups.heads[0])
        groups.after_backward(Progress(step, 10, 100))
        assert (groups.heads[0].grad is None) == (step < 2)


def test_after_a_step_frozen_groups_keep_every_bit() -> None:
    groups = LearnedGroups([unit(50, 7)], frozen_steps=1)
    groups.heads[0].data.mul_(1.0 + 1e-15)
    before = groups.heads[0].detach().clone()
    groups.after_step(Progress(0, 10, 100))
    assert torch.equal(groups.heads[0], before)
    groups.after_step(Progress(1, 10, 100))
    assert not torch.equal(groups.heads[0], before)


@pytest.mark.parametrize("kind", [1, 2])
def test_a_refit_is_kmeans_from_the_given_starts(kind: int) -> None:
    """Two rows about each axis: the means lie on the axes; a center far from all rows stays where it started."""
    rows = torch.tensor([[0.8, 0.6], [0.8, -0.6], [0.6, 0.8], [-0.6, 0.8]], dtype=torch.float64)
    starts = torch.tensor([[0.8, -0.6], [-0.6, 0.8], [-0.6, -0.8]], dtype=torch.float64)
    groups = each_kind(unit(3, 2), unit(3, 2))[kind]
    held, other = groups.heads[1], groups.heads[0].clone()
    groups.refit(1, rows, starts)
    assert groups.heads[1] is held, "a refit is in place"
    torch.testing.assert_close(held, torch.cat([_kmeans_by_hand(rows, starts[:2]), starts[2:]]))
    assert torch.equal(groups.heads[0], other)
    groups.after_backward(START)
    groups.after_step(START)
    assert not held.requires_grad


def _kmeans_by_hand(rows: Tensor, centers: Tensor) -> Tensor:
    """Lloyd's algorithm row by row."""
    for _ in range(10):
        nearest = [max(range(len(centers)), key=lambda k, row=row: float(row @ centers[k])) for row in rows]
        means = [torch.stack([r for r, n in zip(rows, nearest, strict=True) if n == k]).mean(0) for k in range(2)]
        centers = torch.stack([mean / mean.norm() for mean in means])
    return centers


def test_kmeans_centers_stay_until_the_next_refresh() -> None:
    groups = KMeansGroups([AXES])
    assert groups.update_centers(unit(2, 9, 2), START)[0] is groups.heads[0]
    assert torch.equal(groups.heads[0], AXES)


def test_momentum_centers_move_towards_the_mean_of_their_rows() -> None:
    """Both rows are nearest to (0, 1); their mean is (0.1, 0.8), and half way to it lies (0.05, 0.9)."""
    groups = MomentumGroups([AXES], Constant(0.5))
    z = torch.tensor([[[0.6, 0.8], [-0.4, 0.8]]], dtype=torch.float64)
    moved = groups.update_centers(z, START)[0]
    norm = math.hypot(0.05, 0.9)
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.0], [0.05 / norm, 0.9 / norm]], dtype=torch.float64))
    assert torch.equal(groups.heads[0], moved)
    assert torch.equal(moved[0], AXES[0]), "a group without rows keeps every bit"


def test_beta_follows_its_schedule_and_one_moves_nothing() -> None:
    z = unit(1, 9, 2)
    line, half, one = (MomentumGroups([AXES], beta) for beta in (Linear(1.0, 0.0), Constant(0.5), Constant(1.0)))
    middle = Progress(49, 10, 100)  # step 50 of 100
    torch.testing.assert_close(line.update_centers(z, middle)[0], half.update_centers(z, middle)[0])
    torch.testing.assert_close(one.update_centers(z, middle)[0], AXES)


def test_each_head_follows_one_grouped_view() -> None:
    """Head h follows view ``h mod G``: with two views the third head follows the first view again."""
    z = unit(2, 12, 3)
    groups = MomentumGroups([torch.eye(3).double()] * 3, Constant(0.5))
    first, second, third = groups.update_centers(z, START)
    torch.testing.assert_close(first, third, rtol=0, atol=0)
    assert (first - second).abs().max() > 1e-3
    alone = MomentumGroups([torch.eye(3).double()], Constant(0.5)).update_centers(z[1:], START)[0]
    torch.testing.assert_close(second, alone, rtol=0, atol=0)


@pytest.mark.parametrize("gradient", [True, False])
def test_gradient_through_momentum_centers_is_a_setting(gradient: bool) -> None:
    z = unit(1, 6, 2).requires_grad_()
    groups = MomentumGroups([AXES], Constant(0.5), gradient=gradient)
    moved = groups.update_centers(z, START)[0]
    assert moved.requires_grad == gradient
    assert not groups.heads[0].requires_grad
    if gradient:
        moved.sum().backward()
        assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_summed_in_float32(dtype: torch.dtype) -> None:
    """A sum of 6000 rows in half precision would stop to grow long before its end."""
    z = F.normalize(torch.rand(1, 6000, 4) + 0.1, dim=-1).to(dtype)
    start = F.normalize(torch.eye(2, 4), dim=1)
    groups, exact = (MomentumGroups([start.to(kind)], Constant(0.5)) for kind in (torch.float32, torch.float64))
    moved, expected = groups.update_centers(z, START)[0], exact.update_centers(z, START)[0]
    assert (moved.dtype, expected.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(moved.double(), expected, rtol=0, atol=1e-5)
    groups.refit(0, z[0], z[0, :2])
    exact.refit(0, z[0].double(), z[0, :2].double())
    torch.testing.assert_close(groups.heads[0].double(), exact.heads[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", [LearnedGroupsConfig, KMeansGroupsConfig, MomentumGroupsConfig])
@pytest.mark.parametrize("counts", [(), (1,), (30, 1)])
def test_a_head_needs_two_groups(config: type, counts: tuple[int, ...]) -> None:
    with pytest.raises(BadConfig, match=r"^groups\.counts is \[.*\]: each head needs at least 2 groups") as caught:
        config(counts=counts)
    assert "\n" not in str(caught.value)


def test_impossible_settings_are_refused_in_one_line() -> None:
    with pytest.raises(BadConfig, match=r"^groups\.frozen_steps is -1: it cannot be negative"):
        LearnedGroupsConfig(frozen_steps=-1)
    with pytest.raises(BadConfig, match=r"^groups\.momentum runs from 0.9 to 1.1: keep it within 0 and 1"):
        MomentumGroupsConfig(momentum=Linear(0.9, 1.1))
