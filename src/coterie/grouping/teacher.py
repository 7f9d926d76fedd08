"""Whose embeddings decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from coterie.distributed.fsdp import local_tensor
from coterie.errors import BadConfig
from coterie.grouping.groups import Groups
from coterie.optim.schedule import Constant, Schedule, extremes
from coterie.types import Progress, Roles


@runtime_checkable
class TargetNetwork(Protocol):
    """What the objective needs of the network that decides."""

    def before_step(self, progress: Progress) -> None:
        """Before the student looks at a batch."""

    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[A, B, F]`` and unit embeddings ``[A, B, D]`` of the target views; h and z are the student's."""

    def centers(self, groups: Groups) -> list[Tensor]:
        """The centers that the target embeddings are compared with."""

    def after_step(self, progress: Progress) -> None:
        """After the optimizer's step."""

    def copy_from_student(self) -> None:
        """Become the student."""


@dataclass(frozen=True)
class SameNetwork:
    """The student's own embeddings decide (SwAV, DeepCluster-v2, SeLa-v2)."""

    def before_step(self, progress: Progress) -> None:
        """Nothing moves."""

    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The student's rows, with their gradient."""
        chosen = [roles.student_views.index(view) for view in roles.target_views]
        return torch.stack([h[row] for row in chosen]), torch.stack([z[row] for row in chosen])

    def centers(self, groups: Groups) -> list[Tensor]:
        """The student's."""
        return groups.centers()

    def after_step(self, progress: Progress) -> None:
        """Nothing moves."""

    def copy_from_student(self) -> None:
        """It is the student."""


@dataclass(frozen=True)
class MomentumTeacherConfig:
    """A moving average of the student decides.

    Attributes:
        momentum: the share of the average that stays, over the run: 0.999 in SMoG, 0.996 -> 1 in DINO.
        covers_groups: whether the teacher has a moving average of the centers too (DINO) or uses the student's (SMoG).
        moves: ``before`` the student's forward pass, and not after the last step (SMoG, ReSA), or ``after`` each step (DINO).
    """

    momentum: Schedule = field(default_factory=lambda: Constant(0.999))
    covers_groups: bool = False
    moves: Literal["before", "after"] = "after"

    def __post_init__(self) -> None:
        low, high = extremes(self.momentum)
        if not 0 <= low <= high <= 1:
            raise BadConfig(f"target.momentum runs from {low:g} to {high:g}: keep it within 0 and 1 (SMoG uses 0.999)")


class MomentumTeacher(nn.Module):
    """``teacher <- m teacher + (1 - m) student``, parameters only; batch statistics are the teacher's own.

    He et al. 2020 (MoCo), eq. 2; Caron et al. 2021 (DINO), section 3.1.
    """

    def __init__(
        self, network: nn.Module, student: nn.Module, groups: Groups | None = None, *, momentum: Schedule, before: bool
    ) -> None:
        """Own ``network``, a copy whose parameters are named as ``student``'s, and, if ``groups`` are given, their copy."""
        super().__init__()
        self.network = network.requires_grad_(False)
        heads = [] if groups is None else [nn.Parameter(each.detach().clone(), False) for each in groups.centers()]
        self.heads = nn.ParameterList(heads)
        self._followed = (student, groups)  # in a tuple, so that the module does not register the student a second time
        self.momentum, self.before = momentum, before

    def before_step(self, progress: Progress) -> None:
        """Move, if it is one that moves first."""
        if self.before:
            self._move(self.momentum.at(progress))

    @torch.no_grad()
    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the target views; the companions go through with them for the sake of the batch statistics."""
        features, embeddings, _ = self.network([views[v] for v in (*roles.target_views, *roles.bn_only_views)])
        count = len(roles.target_views)
        return features[:count], embeddings[:count]

    def centers(self, groups: Groups) -> list[Tensor]:
        """Its own, or the student's."""
        return list(self.heads) or groups.centers()

    def after_step(self, progress: Progress) -> None:
        """Move, if it is one that moves last."""
        if not self.before:
            self._move(self.momentum.at(progress))

    def copy_from_student(self) -> None:
        """Take the student's parameters over, in place; batch statistics stay (release of SMoG)."""
        self._move(0.0)

    @torch.no_grad()
    def _move(self, momentum: float) -> None:
        student, groups = self._followed
        followed = dict(student.named_parameters())
        mine = dict(self.network.named_parameters())
        theirs = [followed[name] for name in mine] + ([] if groups is None else groups.centers())
        moved = [local_tensor(each) for each in (*mine.values(), *self.heads)]  # both are shared out alike
        torch._foreach_lerp_(moved, [local_tensor(each) for each in theirs], 1 - momentum)


TargetConfig = SameNetwork | MomentumTeacherConfig
