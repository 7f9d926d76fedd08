"""Accuracies of a classifier."""

from jaxtyping import Bool, Int
from torch import Tensor


def accuracies(in_top1: Bool[Tensor, " n"], in_top5: Bool[Tensor, " n"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """Compute ``top1``, ``top5`` and ``mean_per_class`` (over the classes that occur), in percent.

    Args:
        in_top1: whether the best class predicted for each row is right.
        in_top5: whether one of the best five is.
        labels: the class of each row.
    """
    counts = labels.bincount()
    shares = labels[in_top1].bincount(minlength=len(counts)).double()[counts > 0] / counts[counts > 0]
    top1, top5 = (100 * float(each.double().mean()) for each in (in_top1, in_top5))
    return {"top1": top1, "top5": top5, "mean_per_class": 100 * float(shares.mean())}
