"""The kinds of groups: how their centers are initialized and updated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.grouping.kmeans import Tick, moved_centers, nearest_centers, spherical_kmeans
from coterie.optim.schedule import Linear, Schedule, extremes
from coterie.types import Progress


@runtime_checkable
class Groups(Protocol):
    """What the objective needs from a kind of groups; their centers are parameters of the student."""

    @property
    def refits(self) -> bool:
        """Whether a refresh recomputes the centers from the rows of the memory."""

    def centers(self) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head."""

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """Update the centers with the embeddings of a batch.

        Args:
            z: unit embeddings of the grouped views.
            progress: position of the step.

        Returns:
            The unit centers ``[K, D]`` of each head that the loss compares the predictions with.
        """

    def refit(self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"]) -> None:
        """Recompute the centers of one head from the rows of the memory.

        Args:
            head: number of the head.
            rows: unit embeddings; each process passes its own.
            starts: initial centers, the same in all processes.
        """

    def after_backward(self, progress: Progress) -> None:
        """Act between the backward pass and the optimizer's step.

        Args:
            progress: position of the step.
        """

    def after_step(self, progress: Progress) -> None:
        """Act after the optimizer's step.

        Args:
            progress: position of the step.
        """


@final
@dataclass(frozen=True)
class LearnedGroupsConfig:
    """Settings of :class:`LearnedGroups`: prototypes that the optimizer updates.

    Attributes:
        counts: number of groups K of each head. SwAV: one head of 3,000.
        frozen_steps: number of steps, from the start of the run, during which the groups do not change. SwAV: one epoch.

    Raises:
        BadConfig: a head has fewer than 2 groups, or the number of frozen steps is negative.
    """

    counts: tuple[int, ...] = (3000,)
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        if self.frozen_steps < 0:
            raise BadConfig(f"groups.frozen_steps is {self.frozen_steps}: it cannot be negative (0: never frozen)")


@final
class LearnedGroups(nn.Module):
    """Prototypes: unit centers learned by gradient descent.

    Caron et al. 2020 (SwAV, arXiv 2006.09882), section 3.1. The centers are divided by their norm at construction and after
    each step. The released code does so before each forward pass instead: the trajectory is the same, but here the saved
    centers have unit norm (decision 004).
    """

    refits = False

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]], frozen_steps: int = 0) -> None:
        """Start from copies of the given centers.

        Args:
            centers: one tensor ``[K, D]`` per head; its rows are divided by their norm.
            frozen_steps: number of steps, from the start of the run, during which the groups do not change.
        """
        super().__init__()
        self.heads = nn.ParameterList([nn.Parameter(F.normalize(each.detach(), dim=1)) for each in centers])
        self.frozen_steps = frozen_steps

    def centers(self) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head."""
        return list(self.heads)

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """Return the centers as they are: the optimizer updates them. Arguments as in :meth:`Groups.update_centers`."""
        return self.centers()

    def refit(self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"]) -> None:
        """Do nothing: a refresh does not change learned centers. Arguments as in :meth:`Groups.refit`."""

    def after_backward(self, progress: Progress) -> None:
        """Drop the gradient of frozen groups: no step, no weight decay and no momentum, whatever the optimizer.

        As in SwAV's released code (``freeze_prototypes_niters``).

        Args:
            progress: position of the step.
        """
        if progress.step < self.frozen_steps:
            for head in self.heads:
                head.grad = None

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Divide each center by its norm; frozen centers stay bit for bit the same.

        Args:
            progress: position of the step.
        """
        if progress.step >= self.frozen_steps:
            for head in self.heads:
                head.copy_(F.normalize(head, dim=1))


@final
@dataclass(frozen=True)
class KMeansGroupsConfig:
    """Settings of :class:`KMeansGroups`: groups recomputed by k-means at every refresh.

    Attributes:
        counts: number of groups K of each head. DeepCluster-v2: three heads of 3,000.

    Raises:
        BadConfig: a head has fewer than 2 groups.
    """

    counts: tuple[int, ...] = (3000, 3000, 3000)

    def __post_init__(self) -> None:
        _check_counts(self.counts)


@final
class KMeansGroups(nn.Module):
    """Unit centers recomputed at every refresh by spherical k-means of the memory; constant in between.

    DeepCluster-v2: Caron et al. 2020 (arXiv 2006.09882), appendix D.2. The centers are parameters, as those of the other
    kinds, but receive no gradient and no optimizer updates them.
    """

    refits = True

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]]) -> None:
        """Start from copies of the given centers.

        Args:
            centers: one tensor ``[K, D]`` per head; its rows are divided by their norm.
        """
        super().__init__()
        self.heads = _constant_heads(centers)

    def centers(self) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head."""
        return list(self.heads)

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """Return the centers as they are: only a refresh changes them. Arguments as in :meth:`Groups.update_centers`."""
        return self.centers()

    def refit(
        self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"], tick: Tick = lambda: None
    ) -> None:
        """Recompute the centers of one head by 10 iterations of spherical k-means over all processes.

        Args:
            head: number of the head.
            rows: unit embeddings; each process passes its own.
            starts: initial centers, the same in all processes.
            tick: called after each iteration, to show progress.
        """
        _refit_head(self.heads[head], rows, starts, tick)

    def after_backward(self, progress: Progress) -> None:
        """Do nothing: the centers have no gradient. Arguments as in :meth:`Groups.after_backward`."""

    def after_step(self, progress: Progress) -> None:
        """Do nothing: the centers have unit norm already. Arguments as in :meth:`Groups.after_step`."""


@final
@dataclass(frozen=True)
class MomentumGroupsConfig:
    """Settings of :class:`MomentumGroups`: groups that follow the embeddings at every step (SMoG).

    Attributes:
        counts: number of groups K of each head. SMoG: three heads of 3,000.
        momentum: schedule of beta, the share of a center that is kept at each step. SMoG: linearly from 1 to 0.99.
        gradient: let the gradient flow through the updated centers into the embeddings that moved them. The paper's text says
            so; the released code does not do it.

    Raises:
        BadConfig: a head has fewer than 2 groups, or the momentum leaves [0, 1].
    """

    counts: tuple[int, ...] = (3000, 3000, 3000)
    momentum: Schedule = field(default_factory=lambda: Linear(1.0, 0.99))
    gradient: bool = False

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        low, high = extremes(self.momentum)
        if not 0 <= low <= high <= 1:
            raise BadConfig(f"groups.momentum runs from {low:g} to {high:g}: keep it within 0 and 1 (SMoG: 1 to 0.99)")


@final
class MomentumGroups(nn.Module):
    """Unit centers that follow the network: ``g <- unit(beta g + (1 - beta) mean of the rows nearest to g)``.

    Pang et al. 2022 (SMoG, arXiv 2207.06167), synchronous momentum grouping as in the released code: head h uses the rows of
    grouped view ``h mod G``, assigned to the centers before the update; a group without rows does not change. A refresh
    recomputes the centers by k-means. The centers are parameters, as those of the other kinds, but receive no gradient and no
    optimizer updates them.
    """

    refits = True

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]], momentum: Schedule, *, gradient: bool = False) -> None:
        """Start from copies of the given centers.

        Args:
            centers: one tensor ``[K, D]`` per head; its rows are divided by their norm.
            momentum: schedule of beta, the share of a center that is kept at each step.
            gradient: let the gradient flow through the updated centers into the embeddings that moved them.
        """
        super().__init__()
        self.heads = _constant_heads(centers)
        self.momentum, self.gradient = momentum, gradient

    def centers(self) -> list[Tensor]:
        """Return the unit centers ``[K, D]`` of each head."""
        return list(self.heads)

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """Move each center towards the mean of its rows over all processes; one collective per head.

        Args:
            z: unit embeddings of the grouped views; summed in the precision of the centers.
            progress: position of the step, which gives beta.

        Returns:
            The updated unit centers ``[K, D]`` of each head, with gradient into ``z`` if ``gradient`` is set.
        """
        z = z if self.gradient else z.detach()
        beta = self.momentum.at(progress)
        moved = []
        for number, head in enumerate(self.heads):
            rows = z[number % len(z)].to(head.dtype)
            moved.append(moved_centers(head, rows, nearest_centers(rows, head), beta))
            head.data.copy_(moved[-1].detach())
        return moved

    def refit(
        self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"], tick: Tick = lambda: None
    ) -> None:
        """Recompute the centers of one head from rows ``[N, D]`` and starts ``[K, D]``, as :meth:`KMeansGroups.refit`."""
        _refit_head(self.heads[head], rows, starts, tick)

    def after_backward(self, progress: Progress) -> None:
        """Do nothing: the centers have no gradient. Arguments as in :meth:`Groups.after_backward`."""

    def after_step(self, progress: Progress) -> None:
        """Do nothing: the centers have unit norm already. Arguments as in :meth:`Groups.after_step`."""


GroupsConfig = LearnedGroupsConfig | KMeansGroupsConfig | MomentumGroupsConfig
"""Settings of all kinds of groups that last longer than one batch."""

LastingGroups = LearnedGroups | KMeansGroups | MomentumGroups
"""All kinds of groups that last longer than one batch."""


def build_groups(config: GroupsConfig, width: int) -> LastingGroups:
    """Build groups with random centers, initialized as the weights of a linear layer without bias.

    Args:
        config: settings of one kind.
        width: width D of the embeddings.

    Returns:
        The groups, on torch's default device; their centers come from torch's global generator.
    """
    centers = [nn.Linear(width, count, bias=False).weight for count in config.counts]
    if isinstance(config, LearnedGroupsConfig):
        return LearnedGroups(centers, config.frozen_steps)
    if isinstance(config, MomentumGroupsConfig):
        return MomentumGroups(centers, config.momentum, gradient=config.gradient)
    return KMeansGroups(centers)


def _check_counts(counts: tuple[int, ...]) -> None:
    if not counts or min(counts) < 2:
        raise BadConfig(f"groups.counts is {list(counts)}: each head needs at least 2 groups, and there must be a head")


def _constant_heads(centers: Sequence[Tensor]) -> nn.ParameterList:
    """Unit copies of the centers of each head, as parameters without gradient."""
    return nn.ParameterList([nn.Parameter(F.normalize(each.detach(), dim=1), False) for each in centers])


@torch.no_grad()
def _refit_head(head: Tensor, rows: Tensor, starts: Tensor, tick: Tick) -> None:
    """Overwrite the centers of a head with those that k-means finds among the rows."""
    head.copy_(spherical_kmeans(rows, starts, tick=tick))
