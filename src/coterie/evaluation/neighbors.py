"""Nearest neighbors by cosine, in chunks of bounded memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.grouping.chunks import chunked


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "q d"], rows: Float[Tensor, "n d"], count: int, *, space: Float[Tensor, "s n"] | None = None
) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
    """The ``count`` rows of the largest dot product with each query, best first.

    Works on the device and in the precision of its inputs; holds at most ``CHUNK_ELEMENTS`` scores at a time, whatever
    the number of queries.

    ``space`` is memory for the scores of one part of the queries, for who calls often: fresh memory costs a CPU a tenth of
    the time.

    Returns:
        The dot products and the positions of the rows.
    """
    count, parts = min(count, len(rows)), chunked(queries, len(rows))
    space = rows.new_empty(len(parts[0]), len(rows)) if space is None else space
    found = [torch.topk(torch.mm(part, rows.T, out=space[: len(part)]), count, dim=1) for part in parts]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def vote(
    similarities: Float[Tensor, "q c"], labels: Int[Tensor, "q c"], classes: int, temperature: float
) -> Float[Tensor, "q classes"]:
    """The sum, for each class, of ``exp(similarity / temperature)`` of the neighbors that carry it.

    The weighted vote of instance discrimination (Wu et al. 2018, section 3.4), as DINO's eval_knn counts it. The weight is
    taken relative to the nearest neighbor's, which changes no order and never overflows.
    """
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    return weights.new_zeros(len(labels), classes).scatter_add_(1, labels, weights)
