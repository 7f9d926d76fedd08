import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.teacher import MomentumTeacher, MomentumTeacherConfig, SameNetwork, TargetNetwork
from coterie.optim.schedule import Constant, Cosine, Linear
from coterie.types import Progress, Roles

AT = Progress(0, 10, 100)


class Tiny(nn.Module):
    """A student that records how many views each call gets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.seen: list[int] = []

    def forward(self, views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.seen.append(len(views))
        rows = self.norm(self.layer(torch.cat([view.flatten(1) for view in views])))
        h = rows.unflatten(0, (len(views), -1))
        return h, F.normalize(h, dim=-1), F.normalize(h, dim=-1)


def pair(momentum: float = 0.75, *, before: bool = False, own_groups: bool = False) -> tuple[Tiny, MomentumTeacher]:
    torch.manual_seed(0)
    student = Tiny()
    groups = LearnedGroups([torch.randn(3, 4)]) if own_groups else None
    return student, MomentumTeacher(copy.deepcopy(student), student, groups, momentum=Constant(momentum), before=before)


def change(student: nn.Module) -> None:
    with torch.no_grad():
        for each in student.parameters():
            each.add_(1.0)


@pytest.mark.parametrize("before", [True, False])
def test_it_moves_either_before_or_after_the_step(before: bool) -> None:
    student, teacher = pair(before=before)
    start = teacher.network.layer.weight.clone()
    change(student)
    teacher.before_step(AT)
    torch.testing.assert_close(teacher.network.layer.weight, start + (0.25 if before else 0.0))
    teacher.after_step(AT)
    torch.testing.assert_close(teacher.network.layer.weight, start + 0.25)


def test_copying_the_student_is_in_place_and_leaves_the_batch_statistics() -> None:
    student, teacher = pair()
    student.norm.running_mean.fill_(5.0)
    before = {name: id(each) for name, each in teacher.named_parameters()}
    change(student)
    teacher.copy_from_student()
    assert {name: id(each) for name, each in teacher.named_parameters()} == before
    torch.testing.assert_close(teacher.network.layer.weight, student.layer.weight)
    assert not teacher.network.norm.running_mean.any()


def test_bn_only_views_change_the_batch_statistics_but_are_no_targets() -> None:
    student, teacher = pair()
    views = {number: torch.randn(6, 1, 2, 2) for number in range(5)}
    roles = Roles((0, 1), (3,), (0, 1), bn_only_views=(2, 4))
    h, z, _ = student([views[0], views[1]])
    features, rows = teacher.embed(views, roles, h, z)
    assert teacher.network.seen == [3]
    assert features.shape == rows.shape == (1, 6, 4)
    assert not rows.requires_grad
    alone = copy.deepcopy(pair()[1]).embed(views, Roles((0, 1), (3,), (0, 1)), h, z)[1]
    assert (rows - alone).abs().max() > 1e-3  # the batch norms see another batch


def test_its_own_centers_are_averages_and_are_saved() -> None:
    _, teacher = pair(own_groups=True)
    groups = teacher._followed[1]
    first = teacher.centers(groups)[0].clone()
    with torch.no_grad():
        groups.heads[0].add_(1.0)
    teacher.after_step(AT)
    torch.testing.assert_close(teacher.centers(groups)[0], first + 0.25)
    assert "heads.0" in teacher.state_dict()
    shared = pair()[1]
    assert shared.centers(groups)[0] is groups.centers()[0]


def test_the_student_is_not_saved_twice() -> None:
    _, teacher = pair()
    assert all(name.startswith("network.") for name in teacher.state_dict())
    assert not any(each.requires_grad for each in teacher.parameters())


def test_the_same_network_returns_the_students_rows_with_their_gradient() -> None:
    student = Tiny()
    views = [torch.randn(6, 1, 2, 2) for _ in range(3)]
    h, z, _ = student(views)
    features, rows = SameNetwork().embed({}, Roles((5, 6, 7), (7, 5), (5, 6)), h, z)
    assert torch.equal(rows, z[[2, 0]])
    assert torch.equal(features, h[[2, 0]])
    assert rows.requires_grad


@pytest.mark.parametrize("momentum", [Constant(1.1), Cosine(peak=0.9, final=2.0), Constant(-0.1)])
def test_a_momentum_outside_0_and_1_is_refused(momentum: Constant | Cosine) -> None:
    with pytest.raises(BadConfig, match=r"target\.momentum .* within 0 and 1"):
        MomentumTeacherConfig(momentum=momentum)


def test_defaults_are_the_published_values() -> None:
    """methods.md, 3.4: SMoG's momentum is 0.999, and its groups are shared by both networks."""
    assert MomentumTeacherConfig() == MomentumTeacherConfig(Constant(0.999), covers_groups=False, moves="after")


def test_the_momentum_follows_its_schedule() -> None:
    torch.manual_seed(0)
    student = Tiny()
    teacher = MomentumTeacher(copy.deepcopy(student), student, momentum=Linear(1.0, 0.0), before=False)
    start = teacher.network.layer.weight.clone()
    change(student)
    teacher.after_step(Progress(24, 10, 100))  # step 25 of 100: momentum 0.75
    torch.testing.assert_close(teacher.network.layer.weight, start + 0.25)


def test_both_kinds_follow_the_protocol() -> None:
    assert isinstance(SameNetwork(), TargetNetwork)
    assert isinstance(pair()[1], TargetNetwork)
    groups = LearnedGroups([torch.randn(3, 4)])
    assert SameNetwork().centers(groups)[0] is groups.heads[0]
