"""Nearest neighbors by dot product, in chunks of bounded memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.grouping.chunks import chunked


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "q d"], rows: Float[Tensor, "n d"], count: int, *, space: Float[Tensor, "s n"] | None = None
) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
    """Find the ``count`` rows with the largest dot products with each query, the largest first.

    For unit rows this is the cosine similarity. Works on the device and in the precision of its inputs; holds at most
    ``CHUNK_ELEMENTS`` scores at a time, whatever the number of queries.

    Args:
        queries: what to find neighbors of.
        rows: where to find them.
        count: number of neighbors; if there are fewer rows, all of them.
        space: memory for the scores of one chunk of queries, to be reused by frequent callers: allocating it anew takes a
            tenth of the time on a CPU.

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
    """Sum ``exp(similarity / temperature)`` over the neighbors of each class.

    The weighted vote of instance discrimination (Wu et al. 2018, section 3.4), as counted by DINO's eval_knn. Weights are
    relative to that of the nearest neighbor, which changes no order and never overflows.

    Args:
        similarities: of the neighbors of each query, the largest first.
        labels: of these neighbors.
        classes: number of classes.
        temperature: above 0; the lower, the more the nearest neighbors count.

    Returns:
        The votes for each class.
    """
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    return weights.new_zeros(weights.shape[0], classes).scatter_add_(1, labels, weights)
