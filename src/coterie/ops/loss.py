"""The one loss of every grouping method, and the one regulariser."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from coterie.distributed import all_sum, world_size
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

    SwAV, eq. 1 and 2, and eq. 6 for several crops: ``L = mean_a mean_{v != a} -sum_k q_a[k] log softmax(p_v . C)[k]``;
    each target is predicted by every view but the one it came from. Columns that a target excludes are left out of its softmax.

    Args:
        predictions: unit rows, view by view.
        centers: for each head, unit rows.
        targets: codes or group numbers; a row numbered -100 does not count.
        temperature: tau.
        views: the numbers of the V predicting views, to tell which one a target came from.

    Returns:
        The loss, never below float32.
    """
    logits = [scores(predictions, c) / temperature for c in centers]
    log_probabilities = [F.log_softmax(each, dim=-1) for each in logits]
    summed = [each.sum(dim=0) for each in log_probabilities]
    losses = []
    for target in targets:
        log_p, count = summed[target.head], len(views)
        others = [number for number, view in enumerate(views) if view != target.view]
        if target.exclude is not None:
            kept = logits[target.head][others].masked_fill(target.exclude, -torch.inf)
            log_p, count = F.log_softmax(kept, dim=-1).sum(dim=0), len(others)
        elif len(others) < count:  # the view that made the target does not predict it
            log_p, count = log_p - log_probabilities[target.head][views.index(target.view)], len(others)
        if target.values.dtype.is_floating_point:
            cross_entropy = -(target.values * log_p).sum(dim=-1).mean()
        else:
            counted = (target.values != -100).sum().clamp(min=1)
            cross_entropy = F.nll_loss(log_p, target.values, ignore_index=-100, reduction="sum") / counted
        losses.append(cross_entropy / count)
    return torch.stack(losses).mean()


def mean_entropy_loss(
    predictions: Float[Tensor, "v b d"], centers: Sequence[Float[Tensor, "_ d"]], temperature: float
) -> Float[Tensor, ""]:
    """How far the mean prediction is from using all groups alike: ``log K - H(m)``, the mean over the heads.

    m is the mean of ``softmax(p . centers / temperature)`` over all views and all images of all processes (MSN, Assran et al.
    2022, arXiv 2204.07141, eq. 2: the mean entropy maximisation). 0 when all groups are used alike.
    """
    terms = []
    for each in centers:
        probabilities = (scores(predictions, each) / temperature).softmax(dim=-1)
        mean = all_sum(probabilities.mean(dim=(0, 1))) / world_size()
        terms.append(math.log(len(each)) - torch.special.entr(mean).sum())
    return torch.stack(terms).mean()
