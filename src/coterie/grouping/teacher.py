"""The target network, whose embeddings decide the targets: the student itself or a momentum (EMA) teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from coterie.distributed.fsdp import local_tensor
from coterie.errors import BadConfig
from coterie.grouping.groups import Groups
from coterie.optim.schedule import Constant, Schedule, extremes
from coterie.types import Progress, Roles


@runtime_checkable
class TargetNetwork(Protocol):
    """What the objective needs from the network whose embeddings decide the targets."""

    def before_step(self, progress: Progress) -> None:
        """Act before the student's forward pass.

        Args:
            progress: position of the step.
        """

    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the target views.

        Args:
            views: the views of the batch by number, each ``[B, C, H, W]``.
            roles: which views are the student's and which decide the targets.
            h: features of the student's views ``[V, B, F]``.
            z: unit embeddings of the student's views ``[V, B, D]``.

        Returns:
            Features ``[A, B, F]`` and unit embeddings ``[A, B, D]`` of the target views.
        """

    def centers(self, groups: Groups) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head that the target embeddings are compared with.

        Args:
            groups: the student's groups.
        """

    def after_step(self, progress: Progress) -> None:
        """Called after each step of the optimizer, for example to update a moving average of the student.

        Args:
            progress: position of the step.
        """

    def copy_from_student(self) -> None:
        """Copy the student's parameters into this network, in place."""


@final
@dataclass(frozen=True)
class SameNetwork:
    """The student's own embeddings decide the targets (SwAV, DeepCluster-v2, SeLa-v2)."""

    def before_step(self, progress: Progress) -> None:
        """Do nothing: there is no second network. Arguments as in :meth:`TargetNetwork.before_step`."""

    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Select the student's rows of the target views, with their gradient.

        Arguments and results as in :meth:`TargetNetwork.embed`; ``views`` is not used, and each target view must be one of the
        student's.
        """
        chosen = [roles.student_views.index(view) for view in roles.target_views]
        return torch.stack([h[row] for row in chosen]), torch.stack([z[row] for row in chosen])

    def centers(self, groups: Groups) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head of ``groups``, the student's groups."""
        return groups.centers()

    def after_step(self, progress: Progress) -> None:
        """Do nothing: there is no second network. Arguments as in :meth:`TargetNetwork.after_step`."""

    def copy_from_student(self) -> None:
        """Do nothing: this network is the student."""


@final
@dataclass(frozen=True)
class MomentumTeacherConfig:
    """Settings of :class:`MomentumTeacher`, a moving average of the student.

    Attributes:
        momentum: schedule of m, the share of the teacher that is kept at each step. SMoG: 0.999; DINO and ReSA: 0.996 -> 1.
        covers_groups: the teacher keeps a moving average of the centers too (DINO) instead of using the student's (SMoG).
        moves: update the teacher ``before`` the student's forward pass, and so not after the last step (SMoG, ReSA), or
            ``after`` each step (DINO).

    Raises:
        BadConfig: the momentum leaves [0, 1].
    """

    momentum: Schedule = field(default_factory=lambda: Constant(0.999))
    covers_groups: bool = False
    moves: Literal["before", "after"] = "after"

    def __post_init__(self) -> None:
        low, high = extremes(self.momentum)
        if not 0 <= low <= high <= 1:
            raise BadConfig(f"target.momentum runs from {low:g} to {high:g}: keep it within 0 and 1 (SMoG uses 0.999)")


@final
class MomentumTeacher(nn.Module):
    """An exponential moving average (EMA) of the student: ``teacher <- m teacher + (1 - m) student``.

    He et al. 2020 (MoCo, arXiv 1911.05722), eq. 2; Caron et al. 2021 (DINO, arXiv 2104.14294), section 3.1. Only parameters are
    averaged; the teacher computes batch statistics of its own.
    """

    def __init__(
        self, network: nn.Module, student: nn.Module, groups: Groups | None = None, *, momentum: Schedule, before: bool
    ) -> None:
        """Take over a copy of the student's network.

        Args:
            network: the teacher's network; its parameters have the names of the student's, and stop requiring gradients here.
                Called with a list of views, it returns features, unit embeddings and predictions ``[V, B, ...]``.
            student: the network to follow.
            groups: groups whose centers the teacher copies and averages too; None: the teacher uses the student's.
            momentum: schedule of m, the share of the teacher that is kept at each step.
            before: update before the student's forward pass instead of after the optimizer's step.
        """
        super().__init__()
        self.network = network.requires_grad_(False)
        heads = [] if groups is None else [nn.Parameter(each.detach().clone(), False) for each in groups.centers()]
        self.heads = nn.ParameterList(heads)
        self._followed = (student, groups)  # a tuple keeps torch from registering the student a second time
        self.momentum, self.before = momentum, before

    def before_step(self, progress: Progress) -> None:
        """Update the teacher if it moves before the step.

        Args:
            progress: position of the step, which gives m.
        """
        if self.before:
            self._move(self.momentum.at(progress))

    @torch.no_grad()
    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the target views, together with the ``bn_only_views`` for the sake of the batch statistics.

        Arguments and results as in :meth:`TargetNetwork.embed`; without gradient, and ``h`` and ``z`` are not used.
        """
        features, embeddings, _ = self.network([views[v] for v in (*roles.target_views, *roles.bn_only_views)])
        count = len(roles.target_views)
        return features[:count], embeddings[:count]

    def centers(self, groups: Groups) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head: the teacher's own averages if it keeps any, else the student's.

        Args:
            groups: the student's groups.
        """
        return list(self.heads) or groups.centers()

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, unless it is updated before the step.

        Args:
            progress: position of the step, which gives m.
        """
        if not self.before:
            self._move(self.momentum.at(progress))

    def copy_from_student(self) -> None:
        """Take over the student's parameters, in place; batch statistics stay as they are (SMoG's released code)."""
        self._move(0.0)

    @torch.no_grad()
    def _move(self, momentum: float) -> None:
        """Compute ``teacher <- m teacher + (1 - m) student`` for all parameters at once."""
        student, groups = self._followed
        followed = dict(student.named_parameters())
        mine = dict(self.network.named_parameters())
        theirs = [followed[name] for name in mine] + ([] if groups is None else groups.centers())
        moved = [local_tensor(each) for each in (*mine.values(), *self.heads)]  # both are sharded alike
        torch._foreach_lerp_(moved, [local_tensor(each) for each in theirs], 1 - momentum)


TargetConfig = SameNetwork | MomentumTeacherConfig
"""Settings of all kinds of target network; a kind without state is its own settings."""
