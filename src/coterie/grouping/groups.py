"""How the centers of the groups move."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.types import Progress


@dataclass(frozen=True)
class LearnedGroupsConfig:
    """Groups that the optimiser moves.

    Attributes:
        counts: the number of groups of each head.
        frozen_steps: for so many steps from the start of the run the groups stay as they are.
    """

    counts: tuple[int, ...] = (3000,)
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 2:
            raise BadConfig(f"groups.counts is {list(self.counts)}: each head needs at least 2 groups")
        if self.frozen_steps < 0:
            raise BadConfig(f"groups.frozen_steps is {self.frozen_steps}: it cannot be negative")


class LearnedGroups(nn.Module):
    """Prototypes: unit rows that are learned by gradient (SwAV, section 3.1).

    The rows are divided by their norm at construction and after each step. The release does so before each forward pass:
    the trajectory is the same, and here what is saved is unit-norm (decision 004).
    """

    def __init__(self, centers: Sequence[Float[Tensor, "_ d"]], frozen_steps: int = 0) -> None:
        """Start from ``centers``, one ``[K, D]`` a head."""
        super().__init__()
        self.heads = nn.ParameterList([nn.Parameter(F.normalize(each.detach(), dim=1)) for each in centers])
        self.frozen_steps = frozen_steps

    @classmethod
    def build(cls, config: LearnedGroupsConfig, width: int) -> "LearnedGroups":
        """Random centers, drawn as the weights of a linear layer without bias."""
        return cls([nn.Linear(width, count, bias=False).weight for count in config.counts], config.frozen_steps)

    def centers(self) -> list[Tensor]:
        """The unit centers ``[K, D]`` of each head."""
        return list(self.heads)

    def after_backward(self, progress: Progress) -> None:
        """While frozen, drop the gradient: no step, no decay and no momentum, whatever the optimiser (release of SwAV)."""
        if progress.step < self.frozen_steps:
            for head in self.heads:
                head.grad = None

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Divide each center by its norm; frozen centers stay as they are, to the last bit."""
        if progress.step >= self.frozen_steps:
            for head in self.heads:
                head.copy_(F.normalize(head, dim=1))
