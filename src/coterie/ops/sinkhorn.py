"""Balanced assignment: the Sinkhorn-Knopp iteration in the log domain."""

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed import all_logsumexp


def sinkhorn_bias(logits: Float[Tensor, "*a n k"], iterations: int) -> Float[Tensor, "*a k"]:
    """The bias of each group that spreads the rows evenly over the groups.

    Maximises ``Tr(Q C Z) + epsilon H(Q)`` over equipartitions (SwAV, eq. 3 and 4) by T alternations on
    ``Q = exp(logits)``: divide each column (group) by its sum over the rows of all processes, then each row by its sum.
    After T rounds ``Q = softmax(logits + bias)``, so the K numbers returned here are all that has to be known.

    Everything stays in the log domain. No shift of a single row is taken out before the first round: that would be
    another start and, after three rounds, another answer.

    Args:
        logits: scores divided by epsilon; float32 or wider. Leading dimensions are balanced each on its own.
        iterations: T, the number of rounds; 0 gives zeros.

    Returns:
        The bias, without gradient.
    """
    logits = logits.detach()
    bias = logits.new_zeros((*logits.shape[:-2], logits.shape[-1]))
    rows = logits.new_zeros(logits.shape[:-1])
    for _ in range(iterations):
        bias = -all_logsumexp(torch.logsumexp(logits + rows.unsqueeze(-1), dim=-2))
        rows = -torch.logsumexp(logits + bias.unsqueeze(-2), dim=-1)
    return bias
