"""131,072 groups: no tensor is larger than the centers, the codes of a batch, or a bounded number of chunks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.grouping.assignment import Sinkhorn, assign, label_rows
from coterie.grouping.kmeans import moved_centers, nearest_centers, spherical_kmeans
from coterie.grouping.loss import cosine_scores, prediction_loss
from coterie.grouping.sinkhorn import HELD, sinkhorn_bias
from coterie.types import Target

K, D, VIEWS, BATCH, ROWS = 131_072, 16, 8, 32, 2048
FLOAT = 4


class Largest(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that an operation creates."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [each.untyped_storage().nbytes() for each in tree.tree_leaves(result) if isinstance(each, Tensor)]
        self.bytes = max(self.bytes, *made, 0)
        return result


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))), dim=-1)


def learned(soft: bool) -> None:
    centers, predictions = unit(K, D).requires_grad_(), unit(VIEWS, BATCH, D).requires_grad_()
    codes = assign(Sinkhorn(hard=not soft), cosine_scores(unit(2, BATCH, D), centers.detach()))
    targets = [Target(each, 0, view) for view, each in enumerate(codes)]
    prediction_loss(predictions, [centers], targets, 0.1, range(VIEWS)).backward()
    assert centers.grad is not None
    assert centers.grad.isfinite().all()


OPERATIONS: dict[str, Callable[[], object]] = {
    "codes and loss": lambda: learned(soft=True),
    "hard codes and loss": lambda: learned(soft=False),
    "move": lambda: moved_centers(unit(K, D), unit(BATCH, D), nearest_centers(unit(BATCH, D), unit(K, D)), 0.99),
    "refit": lambda: spherical_kmeans(unit(ROWS, D), unit(K, D), 1),
    "labels": lambda: label_rows(Sinkhorn(iterations=2), unit(ROWS, D), unit(K, D)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_is_bounded(name: str) -> None:
    with Largest() as largest:
        OPERATIONS[name]()
    allowed = K * FLOAT * (HELD if name == "labels" else 2 * BATCH)
    assert largest.bytes <= allowed
    assert allowed < K * FLOAT * min(VIEWS * BATCH, ROWS)


def test_more_chunks_than_are_held_give_the_same_bias() -> None:
    logits = torch.randn(3 * HELD + 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 0.05
    one_by_one = sinkhorn_bias(lambda: (row[None] for row in logits), 3)
    torch.testing.assert_close(one_by_one, sinkhorn_bias(logits, 3), rtol=1e-12, atol=1e-12)
