"""Write a new kind of assignment in thirty lines: a group with too many rows raises its price until enough rows leave it.

python examples/new_assignment.py [IMAGES RUN]
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import coterie
from coterie.grouping.assignment import assign
from coterie.grouping.sinkhorn import Chunks
from coterie.types import Progress


@dataclass(frozen=True)
class Auction:
    """Each group has a price, a negative bias, that rises while more than its share of the rows choose it.

    Attributes:
        temperature: what the scores are divided by.
        rounds: number of price updates.
    """

    temperature: float = 0.05
    rounds: int = 200
    uses_memory: ClassVar[bool] = True  # a row's group depends on the other rows
    hard: ClassVar[bool] = True  # a target is the number of a group

    def temperature_at(self, progress: Progress) -> float:
        """Return the same temperature at every step."""
        return self.temperature

    def group_bias(self, logits: Tensor | Chunks, temperature: float, head: int) -> Tensor:
        """Return the negative prices ``[*A, K]`` for logits ``[*A, N, K]``; chunks of rows are concatenated first."""
        logits = logits if isinstance(logits, Tensor) else torch.cat(list(logits()), dim=-2)
        groups = logits.shape[-1]
        prices = torch.zeros_like(logits[..., 0, :])
        for _ in range(self.rounds):
            chosen = (logits - prices[..., None, :]).argmax(dim=-1, keepdim=True)
            shares = torch.zeros_like(logits).scatter_(-1, chosen, 1.0).mean(dim=-2)
            prices = prices + 2.0 * (shares - 1 / groups)
        return -prices

    def update_statistics(self, scores: Tensor, head: int) -> None:
        """Do nothing: the prices are computed from scratch in every step."""


def main() -> None:
    """Show what it does to scores; then, given images and a folder, pretrain SwAV with it: no file of the package is edited."""
    torch.manual_seed(0)
    scores = torch.randn(240, 8) + torch.linspace(0, 1, 8)  # later groups score higher
    for name, kind in (("without prices", Auction(rounds=0)), ("auction", Auction())):
        print(name, torch.bincount(assign(kind, scores), minlength=8).tolist())
    if len(sys.argv) == 3:
        images, out = sys.argv[1:]
        coterie.pretrain("swav", images, out=out, epochs=2, parts=coterie.CustomParts(assignment=Auction()))
        print(f"pretrained: {out}/model.safetensors")


if __name__ == "__main__":
    main()
