"""Balanced assignment: the Sinkhorn-Knopp iteration."""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed.collectives import all_reduce_logsumexp, all_reduce_sum
from coterie.grouping.chunks import chunk_slices

Chunks = Callable[[], Iterable[Tensor]]
"""Gives the same logits ``[*A, n, K]``, part by part, each time it is called: they never have to lie side by side."""

HELD = 64
"""The numbers of so many chunks, ``[*A, K]`` each, lie side by side at most."""


def sinkhorn_bias(
    logits: Float[Tensor, "*a n k"] | Chunks, iterations: int, *, normalized: bool = False, tolerance: float = 0.0
) -> Float[Tensor, "*a k"]:
    """The bias of each group that spreads the rows evenly over the groups.

    Maximizes ``Tr(Q C Z) + epsilon H(Q)`` over equipartitions (SwAV, eq. 3 and 4) by T alternations on
    ``Q = exp(logits)``: divide each column (group) by its sum over the rows of all processes, then each row by its sum.
    After T rounds ``Q = softmax(logits + bias)``, so the K numbers returned here are all that has to be known, and all that is
    kept between two rounds: a whole data set streams through in chunks.

    The first round is done on logarithms, so that nothing overflows. From then on each column of ``exp(logits + bias)`` sums
    to 1, and dividing its rows and summing its columns anew is a softmax and a sum: the largest entry of a column is at least
    1 / (N K) afterwards, so none vanishes. No shift of a single row is taken out before the first round: that would be another
    start and, after three rounds, another answer.

    Args:
        logits: scores divided by epsilon, float32 or wider, whole or in chunks. Leading dimensions are balanced each on its
            own.
        iterations: T, the most rounds; 0 gives zeros.
        normalized: divide each row by its sum before the first round (MSN's start, from probabilities).
        tolerance: stop when no bias changed by more than this in a round; 0: never.

    Returns:
        The bias, without gradient.
    """
    chunks: Chunks = (lambda: _in_parts(logits)) if isinstance(logits, Tensor) else logits
    bias: Tensor | None = None
    for _ in range(iterations):
        before = bias
        if bias is None:
            starts = (chunk.detach().log_softmax(dim=-1) if normalized else chunk.detach() for chunk in chunks())
            columns = _folded((start.logsumexp(dim=-2) for start in starts), torch.logsumexp)
            bias = -all_reduce_logsumexp(columns)
        else:
            shared = bias.unsqueeze(-2)
            shares = ((chunk.detach() + shared).softmax(dim=-1) for chunk in chunks())
            sums = _folded((share.sum(dim=-2) for share in shares), torch.sum)
            bias = bias - all_reduce_sum(sums).log()
        if tolerance and before is not None and (bias - before).abs().max() <= tolerance:
            break
    if bias is None:
        first = next(iter(chunks()))
        bias = first.new_zeros((*first.shape[:-2], first.shape[-1]))
    return bias


def _folded(found: Iterable[Tensor], fold: Callable[..., Tensor]) -> Tensor:
    """What ``fold`` makes of the numbers of all chunks, which may be too many to lie side by side."""
    held: list[Tensor] = []
    for each in found:
        held.append(each)
        if len(held) == HELD:
            held = [fold(torch.stack(held), dim=0)]
    return fold(torch.stack(held), dim=0)


def _in_parts(logits: Tensor) -> Iterator[Tensor]:
    """The rows in parts that a CPU's caches hold."""
    rows = logits.shape[-2]
    for part in chunk_slices(rows, logits.numel() // rows, logits.device):
        yield logits[..., part, :]
