"""k-nearest-neighbor classifiers: several numbers of neighbors, and how much the nearest of them count."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.classifier.heads import KnnHead
from coterie.classifier.training_images import Truth

NEIGHBORS = (1, 5, 20, 50)
TEMPERATURES = (0.03, 0.07, 0.2)


@dataclass(frozen=True)
class KnnCandidates:
    """Makes heads that let the labeled images vote.

    Attributes:
        classes: number of classes.
    """

    classes: int
    default: str = "1 neighbor, temperature 0.07"

    def __call__(self, rows: Float[Tensor, "n d"], truth: Truth, only: str | None = None) -> Mapping[str, KnnHead]:
        """All candidates, or one of them; their voters share memory.

        Args:
            rows: features of the labeled images.
            truth: their classes.
            only: the name of one candidate.
        """
        labels = truth if truth.ndim == 1 else truth.to(torch.uint8)
        found = dict[str, KnnHead]()
        for k, temperature in product(NEIGHBORS, TEMPERATURES):
            name = f"{k} neighbor{'s' if k > 1 else ''}, temperature {temperature:g}"
            if only == name or (only is None and k <= max(1, len(rows) // 2)):
                found[name] = KnnHead(rows, labels, self.classes, k, temperature)
        return found
