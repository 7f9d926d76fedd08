"""Balanced assignment: the Sinkhorn-Knopp iteration in the log domain."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed import all_logsumexp

Chunks = Callable[[], Iterable[Tensor]]
"""Gives the same logits ``[*A, n, K]``, part by part, each time it is called: they never have to lie side by side."""


def sinkhorn_bias(
    logits: Float[Tensor, "*a n k"] | Chunks, iterations: int, *, normalized: bool = False, tolerance: float = 0.0
) -> Float[Tensor, "*a k"]:
    """The bias of each group that spreads the rows evenly over the groups.

    Maximises ``Tr(Q C Z) + epsilon H(Q)`` over equipartitions (SwAV, eq. 3 and 4) by T alternations on
    ``Q = exp(logits)``: divide each column (group) by its sum over the rows of all processes, then each row by its sum.
    After T rounds ``Q = softmax(logits + bias)``, so the K numbers returned here are all that has to be known, and all that is
    kept between two rounds: a whole data set streams through in chunks.

    Everything stays in the log domain. No shift of a single row is taken out before the first round: that would be
    another start and, after three rounds, another answer.

    Args:
        logits: scores divided by epsilon, float32 or wider, whole or in chunks. Leading dimensions are balanced each on its
            own.
        iterations: T, the most rounds; 0 gives zeros.
        normalized: divide each row by its sum before the first round (MSN's start, from probabilities).
        tolerance: stop when no bias changed by more than this in a round; 0: never.

    Returns:
        The bias, without gradient.
    """
    chunks: Chunks = (lambda: (logits,)) if isinstance(logits, Tensor) else logits
    bias: Tensor | None = None
    for _ in range(iterations):
        columns = []
        for chunk in chunks():
            rows = chunk.detach()
            if bias is not None:
                rows = rows - torch.logsumexp(rows + bias.unsqueeze(-2), dim=-1, keepdim=True)
            elif normalized:
                rows = rows.log_softmax(dim=-1)
            columns.append(torch.logsumexp(rows, dim=-2))
        before, bias = bias, -all_logsumexp(torch.stack(columns).logsumexp(dim=0))
        if tolerance and before is not None and (bias - before).abs().max() <= tolerance:
            break
    if bias is None:
        first = next(iter(chunks()))
        bias = first.new_zeros((*first.shape[:-2], first.shape[-1]))
    return bias
