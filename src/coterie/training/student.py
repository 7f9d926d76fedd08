"""All that the optimiser moves."""

from collections.abc import Sequence

from torch import Tensor, nn

from coterie.grouping.groups import KMeansGroups, LearnedGroups
from coterie.models.encoder import Encoder


class Student(nn.Module):
    """The encoder and, unless the batch is its own groups, their centers."""

    def __init__(self, encoder: Encoder, groups: LearnedGroups | KMeansGroups | None = None) -> None:
        """Own both."""
        super().__init__()
        self.encoder = encoder
        self.groups = groups

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the views: h ``[V, B, F]``, unit z ``[V, B, D]``, unit p ``[V, B, D]``."""
        h, z, p = self.encoder(views)
        return h, z, p
