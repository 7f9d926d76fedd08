"""The one loss of every grouping method, and the one regularizer."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import world_size
from coterie.grouping.log_partition import log_partition
from coterie.types import Target


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are if they are wider: scores and exponentials are never half precision."""
    return values if values.dtype == torch.float64 else values.float()


def scores(rows: Float[Tensor, "*n d"], centers: Float[Tensor, "k d"]) -> Float[Tensor, "*n k"]:
    """Cosines between unit rows and unit centers, never below float32."""
    return at_least_float32(rows) @ at_least_float32(centers).T


def prediction_loss(
    predictions: Float[Tensor, "v b d"],
    centers: Sequence[Float[Tensor, "_ d"]],
    targets: Sequence[Target],
    temperature: float,
    views: Sequence[int],
) -> Float[Tensor, ""]:
    """Mean over the targets of the mean cross-entropy of ``softmax(p . centers / temperature)``.

    SwAV, eq. 1 and 2, and eq. 6 for several crops: ``L = mean_a mean_{v != a} -sum_k q_a[k] log softmax(p_v . C / tau)[k]``;
    each target is predicted by every view but the one it came from.

    Logits are linear in p and C. So only the denominators need all K of them, once for all targets of a head; a code meets
    the views in D dimensions::

        -sum_k q[k] log softmax(p_v . C / tau)[k] = sum_k q[k] log Z_v - p_v / tau . sum_k q[k] C_k
                                              Z_v = sum_k exp(p_v . C_k / tau)

    Args:
        predictions: unit rows, view by view.
        centers: for each head, unit rows.
        targets: codes or group numbers; a row numbered -100 does not count. Where columns are excluded, a row's softmax is
            over its own group and all that are not.
        temperature: tau.
        views: the numbers of the V predicting views, to tell which one a target came from.

    Returns:
        The loss, never below float32.
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
        if target.view in views:  # the view that made the target does not predict it
            summed, count = summed - cross_entropy[views.index(target.view)], count - 1
        sums.append((summed * counted).sum() / count)
        counts.append(counted.sum())
    rows_counted = torch.stack(counts)
    if any(target.view is None for target in targets):  # not every row has a label, and not as many in every process
        rows_counted = all_reduce_sum(rows_counted) / world_size()
    return (torch.stack(sums) / rows_counted.clamp(min=1 / world_size())).mean()


def mean_entropy_loss(
    predictions: Float[Tensor, "v b d"], centers: Sequence[Float[Tensor, "_ d"]], temperature: float
) -> Float[Tensor, ""]:
    """How far the mean prediction is from using all groups alike: ``log K - H(m)``, the mean over the heads.

    m is the mean of ``softmax(p . centers / temperature)`` over all views and all images of all processes (MSN, Assran et al.
    2022, arXiv 2204.07141, eq. 2: the mean entropy maximization). 0 when all groups are used alike.
    """
    terms = []
    for each in centers:
        probabilities = (scores(predictions, each) / temperature).softmax(dim=-1)
        mean = all_reduce_sum(probabilities.mean(dim=(0, 1))) / world_size()
        terms.append(math.log(len(each)) - torch.special.entr(mean).sum())
    return torch.stack(terms).mean()
