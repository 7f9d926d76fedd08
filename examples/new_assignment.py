"""A kind of assignment of your own, in thirty lines: a group that too many rows want raises its price until it is full."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from coterie.grouping.assignment import assign
from coterie.grouping.sinkhorn import Chunks
from coterie.types import Progress


@dataclass(frozen=True)
class Auction:
    """Each group raises its price, a negative bias, as long as more than its share of the rows want it."""

    temperature: float = 0.05
    rounds: int = 200
    uses_memory: ClassVar[bool] = True  # more rows change a row's answer
    hard: ClassVar[bool] = True

    def temperature_at(self, progress: Progress) -> float:
        """The same throughout."""
        return self.temperature

    def group_bias(self, logits: Tensor | Chunks, temperature: float, head: int) -> Tensor:
        """Minus the prices; rows that stream in chunks are put together."""
        logits = logits if isinstance(logits, Tensor) else torch.cat(list(logits()), dim=-2)
        prices = torch.zeros_like(logits[..., 0, :])
        for _ in range(self.rounds):
            wanted = torch.zeros_like(logits).scatter_(
                -1, (logits - prices[..., None, :]).argmax(-1, keepdim=True), 1.0
            )
            prices = prices + 2.0 * (wanted.mean(dim=-2) - 1 / logits.shape[-1])
        return -prices

    def update_statistics(self, seen: Tensor, head: int) -> None:
        """Nothing is kept."""


torch.manual_seed(0)
scores = torch.randn(240, 8) + torch.linspace(0, 1, 8)  # later groups score higher
for name, kind in (("nobody pays", Auction(rounds=0)), ("auction", Auction())):
    print(name, torch.bincount(assign(kind, scores), minlength=8).tolist())
