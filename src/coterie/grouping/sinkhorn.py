"""The Sinkhorn-Knopp iteration, which balances an assignment of rows to groups."""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed.collectives import all_reduce_logsumexp, all_reduce_sum
from coterie.grouping.chunks import chunk_slices

Chunks = Callable[[], Iterable[Tensor]]
"""A function that yields the same logits each time it is called, in chunks ``[*A, n, K]`` that never all exist at once."""

HELD = 64
"""Maximum number of per-chunk results, ``[*A, K]`` each, that exist at once."""


def sinkhorn_bias(
    logits: Float[Tensor, "*a n k"] | Chunks, iterations: int, *, normalized: bool = False, tolerance: float = 0.0
) -> Float[Tensor, "*a k"]:
    """Compute the bias of each group that spreads the rows evenly over the groups.

    Maximizes ``Tr(Q C Z) + epsilon H(Q)`` over equipartitions (Caron et al. 2020, SwAV, arXiv 2006.09882, eq. 3 to 5; Cuturi
    2013, arXiv 1306.0895) by T iterations on ``Q = exp(logits)``: divide each column (group) by its sum over the rows of all
    processes, then each row by its sum. Afterwards ``Q = softmax(logits + bias)``, so the K biases returned here are all that
    has to be kept, also between iterations: a whole data set streams through in chunks. One collective per iteration.

    The first iteration uses logarithms, so that nothing overflows. From then on each column of ``exp(logits + bias)`` sums to
    1, and dividing its rows and summing its columns again is a softmax and a sum: the largest entry of a column is at least
    1 / (N K) afterwards, so none vanishes. No shift of single rows is removed before the first iteration: that would be
    another start and, after three iterations, another result.

    Args:
        logits: scores divided by epsilon, float32 or wider: one tensor, or a function that yields them in chunks of rows.
            Leading dimensions are balanced independently.
        iterations: T, the maximum number of iterations; 0 returns zeros.
        normalized: divide each row by its sum before the first iteration (MSN starts from probabilities).
        tolerance: stop once no bias changed by more than this in an iteration; 0: never stop early.

    Returns:
        The biases, without gradient.
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
    """Fold the results of all chunks, of which there may be too many to exist at once."""
    held: list[Tensor] = []
    for each in found:
        held.append(each)
        if len(held) == HELD:
            held = [fold(torch.stack(held), dim=0)]
    return fold(torch.stack(held), dim=0)


def _in_parts(logits: Tensor) -> Iterator[Tensor]:
    """Yield the rows in chunks; on a CPU its caches hold one."""
    rows = logits.shape[-2]
    for part in chunk_slices(rows, logits.numel() // rows, logits.device):
        yield logits[..., part, :]
