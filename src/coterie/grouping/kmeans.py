"""Centers as means of the rows nearest to them: spherical k-means, and the momentum that moves a group."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.distributed.collectives import all_reduce_sum
from coterie.grouping.chunks import chunk_slices
from coterie.grouping.loss import scores

_STARTS_TAG = 0x737461727473  # "starts": keeps this stream apart from those of the views and of the order


def nearest_centers(rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """The number of the center with the largest dot product with each row; a bounded number of scores at a time."""
    some = chunk_slices(len(rows), len(centers), rows.device)
    return torch.cat([scores(rows[part].detach(), centers).argmax(dim=1) for part in some])


def group_means(
    rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], count: int
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """The mean of the rows of each group (0 where there is none) and their number, over all processes; with gradient."""
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, labels, rows)
    ones = torch.ones_like(labels, dtype=rows.dtype)
    counts = rows.new_zeros(count).index_add(0, labels, ones)  # bincount would wait for the device
    both = all_reduce_sum(torch.cat([sums, counts[:, None]], dim=1))  # one collective
    counts = both[:, -1].detach()
    return both[:, :-1] / counts.clamp(min=1)[:, None], counts


def moved_centers(
    centers: Float[Tensor, "k d"], rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], momentum: float
) -> Float[Tensor, "k d"]:
    """SMoG's synchronous momentum grouping: ``g <- unit(beta g + (1 - beta) mean of its rows)``.

    Pang et al. 2022 (arXiv 2207.06167), as in the release: a group without rows stays as it is. The gradient flows into the
    rows, not into labels and old centers.
    """
    means, counts = group_means(rows, labels, len(centers))
    moved = F.normalize(momentum * centers.detach() + (1 - momentum) * means, dim=1)
    return torch.where(counts[:, None] > 0, moved, centers.detach())


@torch.no_grad()
def spherical_kmeans(
    rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], iterations: int = 10
) -> Float[Tensor, "k d"]:
    """K-means of unit rows by cosine, from these centers (DeepCluster-v2, SwAV appendix D; SMoG's regrouping).

    Each round labels every row with its nearest center, replaces each center by the mean of its rows (one without rows
    stays) and divides every center by its norm. One collective a round.
    """
    for _ in range(iterations):
        means, counts = group_means(rows, nearest_centers(rows, centers), len(centers))
        centers = F.normalize(torch.where(counts[:, None] > 0, means, centers), dim=1)
    return centers


def random_starts(rows: int, count: int, seed: int, step: int, head: int) -> Int[Tensor, " k"]:
    """``count`` different positions among ``rows``: a pure function of seed, step of the run and head."""
    generator = np.random.Generator(np.random.Philox(key=[(seed ^ _STARTS_TAG) & (2**64 - 1), step << 16 | head]))
    return torch.from_numpy(generator.choice(rows, count, replace=False))
