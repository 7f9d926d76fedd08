"""The prediction loss that all methods share."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import world_size
from coterie.grouping.log_partition import log_partition
from coterie.types import Target


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32: scores, sums and exponentials are never computed in half precision.

    Args:
        values: any floating-point tensor.

    Returns:
        ``values`` itself if it is float32 or float64, else a copy in float32.
    """
    return values if values.dtype == torch.float64 else values.float()


def cosine_scores(rows: Float[Tensor, "*n d"], centers: Float[Tensor, "k d"]) -> Float[Tensor, "*n k"]:
    """Compute the cosines between rows and centers: ``z . C`` in SwAV's eq. 2 (arXiv 2006.09882).

    Args:
        rows: unit embeddings, with any leading dimensions.
        centers: unit centers.

    Returns:
        Scores in [-1, 1], float32 or wider.
    """
    return at_least_float32(rows) @ at_least_float32(centers).T


def prediction_loss(
    predictions: Float[Tensor, "v b d"],
    centers: Sequence[Float[Tensor, "_ d"]],
    targets: Sequence[Target],
    temperature: float,
    views: Sequence[int],
) -> Float[Tensor, ""]:
    """Compute the cross-entropy between targets and predictions ``softmax(p . C / tau)``, averaged over targets and views.

    Caron et al. 2020 (SwAV, arXiv 2006.09882), eq. 1 and 2, and eq. 6 for several crops:
    ``L = mean_a mean_{v != a} -sum_k q_a[k] log softmax(p_v . C / tau)[k]``; every view predicts each target except the one
    that was computed from it.

    The logits are linear in p and C. So only the denominators Z_v need all K of them, shared by all targets of a head; the
    numerator needs the D-dimensional sum ``sum_k q[k] C_k``::

        -sum_k q[k] log softmax(p_v . C / tau)[k] = sum_k q[k] log Z_v - p_v / tau . sum_k q[k] C_k
                                              Z_v = sum_k exp(p_v . C_k / tau)

    Args:
        predictions: unit predictions p, view by view.
        centers: unit centers ``[K, D]`` of each head.
        targets: codes or group numbers; images whose group number is -100 are ignored. Where a target excludes columns, they
            are left out of the softmax of its rows, except a row's own group.
        temperature: tau.
        views: view number of each of the V predictions, to skip the view that a target was computed from.

    Returns:
        The loss, with gradient into predictions and centers, in float32 or wider; 0 if no image counts.
    """
    rows = at_least_float32(predictions) / temperature
    centers = [at_least_float32(each) for each in centers]
    partitions: dict[tuple[int, int], Tensor] = {}
    sums, counts = [], []
    for target in targets:
        head, values = centers[target.head], target.values
        shared = (target.head, id(target.exclude))
        if shared not in partitions:
            partitions[shared] = log_partition(rows, head, target.exclude)
        log_z = partitions[shared]
        if values.dtype.is_floating_point:
            meant, mass = values.to(head.dtype) @ head, values.sum(dim=-1)
            counted = torch.ones_like(mass)
        else:
            meant, mass = head.index_select(0, values.clamp(min=0)), torch.ones_like(rows[0, :, 0])
            counted = (values != -100).to(rows.dtype)
        matched = (rows * meant).sum(dim=-1)
        if target.exclude is not None:
            log_z = torch.logaddexp(log_z, matched)
        cross_entropy, count = mass * log_z - matched, len(views)
        summed = cross_entropy.sum(dim=0)
        if target.view in views:  # a view does not predict its own target
            summed, count = summed - cross_entropy[views.index(target.view)], count - 1
        sums.append((summed * counted).sum() / count)
        counts.append(counted.sum())
    rows_counted = torch.stack(counts)
    if any(target.view is None for target in targets):  # labels may be missing, and their number differs by process
        rows_counted = all_reduce_sum(rows_counted) / world_size()
    return (torch.stack(sums) / rows_counted.clamp(min=1 / world_size())).mean()
