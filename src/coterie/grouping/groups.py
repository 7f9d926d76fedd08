"""How the centers of the groups move."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.grouping.kmeans import moved_centers, nearest_centers, spherical_kmeans
from coterie.optim.schedule import Linear, Schedule, extremes
from coterie.types import Progress


@runtime_checkable
class Groups(Protocol):
    """What the objective needs of groups; their centers are part of the student."""

    @property
    def refits(self) -> bool:
        """Whether a refresh finds the centers anew in the memory."""

    def centers(self) -> list[Tensor]:
        """The unit centers ``[K, D]`` of each head."""

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """Look at the grouped views; the centers to predict against."""

    def refit(self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"]) -> None:
        """Find the centers of one head anew among the rows of the memory, beginning at ``starts``."""

    def after_backward(self, progress: Progress) -> None:
        """Between the backward pass and the optimizer's step."""

    def after_step(self, progress: Progress) -> None:
        """After the optimizer's step."""


@dataclass(frozen=True)
class LearnedGroupsConfig:
    """Groups that the optimizer moves.

    Attributes:
        counts: the number of groups of each head.
        frozen_steps: for so many steps from the start of the run the groups stay as they are.
    """

    counts: tuple[int, ...] = (3000,)
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        if self.frozen_steps < 0:
            raise BadConfig(f"groups.frozen_steps is {self.frozen_steps}: it cannot be negative")


class LearnedGroups(nn.Module):
    """Prototypes: unit rows that are learned by gradient (SwAV, section 3.1).

    The rows are divided by their norm at construction and after each step. The release does so before each forward pass:
    the trajectory is the same, and here what is saved is unit-norm (decision 004).
    """

    refits = False

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]], frozen_steps: int = 0) -> None:
        """Start from ``centers``, one ``[K, D]`` a head."""
        super().__init__()
        self.heads = nn.ParameterList([nn.Parameter(F.normalize(each.detach(), dim=1)) for each in centers])
        self.frozen_steps = frozen_steps

    def centers(self) -> list[Tensor]:
        """The unit centers ``[K, D]`` of each head."""
        return list(self.heads)

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """They move by their gradient."""
        return self.centers()

    def refit(self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"]) -> None:
        """They stay as they were learned."""

    def after_backward(self, progress: Progress) -> None:
        """While frozen, drop the gradient: no step, no decay and no momentum, whatever the optimizer (release of SwAV)."""
        if progress.step < self.frozen_steps:
            for head in self.heads:
                head.grad = None

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Divide each center by its norm; frozen centers stay as they are, to the last bit."""
        if progress.step >= self.frozen_steps:
            for head in self.heads:
                head.copy_(F.normalize(head, dim=1))


@dataclass(frozen=True)
class KMeansGroupsConfig:
    """Groups that are found anew by k-means at every refresh (DeepCluster-v2).

    Attributes:
        counts: the number of groups of each head.
    """

    counts: tuple[int, ...] = (3000, 3000, 3000)

    def __post_init__(self) -> None:
        _check_counts(self.counts)


@dataclass(frozen=True)
class MomentumGroupsConfig:
    """Groups that follow the embeddings at every step and are found anew by k-means at every refresh (SMoG).

    Attributes:
        counts: the number of groups of each head.
        momentum: beta, the share of a center that stays at a step, over the run.
        gradient: whether the gradient flows through the moved centers into the rows that moved them: the paper's text says so,
            the released code does not do it.
    """

    counts: tuple[int, ...] = (3000, 3000, 3000)
    momentum: Schedule = field(default_factory=lambda: Linear(1.0, 0.99))
    gradient: bool = False

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        low, high = extremes(self.momentum)
        if not 0 <= low <= high <= 1:
            raise BadConfig(f"groups.momentum runs from {low:g} to {high:g}: keep it within 0 and 1 (SMoG: 1 to 0.99)")


class KMeansGroups(nn.Module):
    """Unit centers that no gradient reaches: spherical k-means of the memory (SwAV, appendix D.2).

    They are kept among the parameters, where the other kind has them, but no optimizer moves them.
    """

    refits = True

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]]) -> None:
        """Start from ``centers``, one ``[K, D]`` a head."""
        super().__init__()
        self.heads = nn.ParameterList([nn.Parameter(F.normalize(each.detach(), dim=1), False) for each in centers])

    def centers(self) -> list[Tensor]:
        """The unit centers ``[K, D]`` of each head."""
        return list(self.heads)

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """They stay until the next refresh."""
        return self.centers()

    @torch.no_grad()
    def refit(self, head: int, rows: Float[Tensor, "n d"], starts: Float[Tensor, "k d"]) -> None:
        """Ten rounds of spherical k-means."""
        self.heads[head].copy_(spherical_kmeans(rows, starts))

    def after_backward(self, progress: Progress) -> None:
        """There is no gradient."""

    def after_step(self, progress: Progress) -> None:
        """They are unit rows already."""


class MomentumGroups(KMeansGroups):
    """Unit centers that move with the network: ``g <- unit(beta g + (1 - beta) mean of the rows nearest to g)``.

    SMoG (Pang et al. 2022, arXiv 2207.06167), as released: the rows of head h are those of grouped view ``h mod G``, given to
    the old centers; a group without rows stays.
    """

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]], momentum: Schedule, *, gradient: bool = False) -> None:
        """Start from ``centers``; ``momentum`` is beta, ``gradient`` lets the loss see how the rows move them."""
        super().__init__(centers)
        self.momentum, self.gradient = momentum, gradient

    def update_centers(self, z: Float[Tensor, "g b d"], progress: Progress) -> list[Tensor]:
        """Move; the moved centers, with gradient into ``z`` if that is asked for."""
        z = z if self.gradient else z.detach()
        beta = self.momentum.at(progress)
        moved = []
        for number, head in enumerate(self.heads):
            rows = z[number % len(z)].to(head.dtype)
            moved.append(moved_centers(head, rows, nearest_centers(rows, head), beta))
            head.data.copy_(moved[-1].detach())
        return moved


GroupsConfig = LearnedGroupsConfig | KMeansGroupsConfig | MomentumGroupsConfig


def build_groups(config: GroupsConfig, width: int) -> LearnedGroups | KMeansGroups:
    """Random centers, drawn as the weights of a linear layer without bias."""
    centers = [nn.Linear(width, count, bias=False).weight for count in config.counts]
    if isinstance(config, LearnedGroupsConfig):
        return LearnedGroups(centers, config.frozen_steps)
    if isinstance(config, MomentumGroupsConfig):
        return MomentumGroups(centers, config.momentum, gradient=config.gradient)
    return KMeansGroups(centers)


def _check_counts(counts: tuple[int, ...]) -> None:
    if not counts or min(counts) < 2:
        raise BadConfig(f"groups.counts is {list(counts)}: each head needs at least 2 groups")
