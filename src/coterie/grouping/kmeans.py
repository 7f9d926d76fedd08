"""Centers as means of the rows nearest to them: spherical k-means and SMoG's momentum update."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import check_interrupted_together
from coterie.grouping.chunks import chunk_slices
from coterie.grouping.loss import at_least_float32, cosine_scores

ITERATIONS = 10
"""Iterations of :func:`spherical_kmeans`, unless another number is given."""
Tick = Callable[[], object]
"""Called after each round of a computation of several rounds, to show progress."""

_STARTS_TAG = 0x737461727473  # "starts": keeps this random stream apart from those of the views and the data order


def nearest_centers(rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Assign each row to the center with the largest dot product; scores are computed in chunks.

    Args:
        rows: unit embeddings; used without their gradient.
        centers: unit centers.

    Returns:
        The number of the nearest center of each row.
    """
    some = chunk_slices(len(rows), len(centers), rows.device)
    return torch.cat([cosine_scores(rows[part].detach(), centers).argmax(dim=1) for part in some])


def group_means(
    rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], count: int
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Average the rows of each group over all processes; one collective.

    Args:
        rows: embeddings; each process passes its own. Half-precision rows are summed in float32.
        labels: number of the group of each row.
        count: number of groups K.

    Returns:
        The mean of each group (zeros for a group without rows), with gradient into the rows, and the number of rows of each
        group, without; both in float32 or wider.
    """
    rows = at_least_float32(rows)
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, labels, rows)
    ones = torch.ones_like(labels, dtype=rows.dtype)
    counts = rows.new_zeros(count).index_add(0, labels, ones)  # bincount would wait for the device
    both = all_reduce_sum(torch.cat([sums, counts[:, None]], dim=1))  # one collective
    counts = both[:, -1].detach()
    return both[:, :-1] / counts.clamp(min=1)[:, None], counts


def moved_centers(
    centers: Float[Tensor, "k d"], rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], momentum: float
) -> Float[Tensor, "k d"]:
    """Move centers towards the means of their rows: ``g <- unit(beta g + (1 - beta) mean of its rows)``.

    Pang et al. 2022 (SMoG, arXiv 2207.06167), synchronous momentum grouping as in the released code.

    Args:
        centers: unit centers before the update.
        rows: unit embeddings; each process passes its own.
        labels: number of the group of each row.
        momentum: beta, the share of a center that is kept.

    Returns:
        The updated unit centers; a group without rows is unchanged. The gradient flows into the rows, not into the old
        centers.
    """
    means, counts = group_means(rows, labels, len(centers))
    moved = F.normalize(momentum * centers.detach() + (1 - momentum) * means, dim=1)
    return torch.where(counts[:, None] > 0, moved, centers.detach())


@torch.no_grad()
def spherical_kmeans(
    rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], iterations: int = ITERATIONS, tick: Tick = lambda: None
) -> Float[Tensor, "k d"]:
    """Cluster unit rows by cosine similarity, from given initial centers.

    DeepCluster-v2 (Caron et al. 2020, arXiv 2006.09882, appendix D.2) and SMoG's regrouping, both with 10 iterations. Each
    iteration assigns every row to its nearest center, replaces each center by the mean of its rows and divides it by its norm;
    a center without rows does not move. One collective per iteration; in a run, which signals may stop, also one
    between CPUs.

    Args:
        rows: unit embeddings; each process passes its own.
        centers: initial unit centers, the same in all processes.
        iterations: number of iterations.
        tick: called after each iteration.

    Returns:
        The unit centers after the last iteration, without gradient.

    Raises:
        Interrupted: a signal stops the run; in all processes before the same iteration.
    """
    for _ in range(iterations):
        check_interrupted_together()
        means, counts = group_means(rows, nearest_centers(rows, centers), len(centers))
        centers = F.normalize(torch.where(counts[:, None] > 0, means, centers), dim=1)
        tick()
    return centers


def random_starts(rows: int, count: int, seed: int, step: int, head: int) -> Int[Tensor, " k"]:
    """Choose distinct rows as the initial centers of k-means: a pure function of seed, step and head.

    Args:
        rows: number of rows N to choose from, over all processes.
        count: number of positions K.
        seed: seed of the run.
        step: step of the run at which the refresh takes place.
        head: number of the head, below 65,536.

    Returns:
        K different positions in [0, N), on the CPU.

    Raises:
        ValueError: there are fewer rows than positions.
    """
    generator = np.random.Generator(np.random.Philox(key=[(seed ^ _STARTS_TAG) & (2**64 - 1), step << 16 | head]))
    return torch.from_numpy(generator.choice(rows, count, replace=False))
