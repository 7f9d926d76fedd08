"""Label-free metrics: how much a network has learned, without any label.

The metrics of a spectrum measure over how many directions the embeddings spread; those of views, whether views of an image stay
together and apart from other images; those of groups, whether all groups are used; stability, whether anything still changes.
How well each of them follows kNN accuracy is measured in ``benchmarks/labelfree``.
"""

import math
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.input_checks import check_finite
from coterie.evaluation.neighbors import nearest
from coterie.evaluation.probes.standardize import CONSTANT
from coterie.grouping.chunks import chunked

EPSILON = 1e-7
"""Added to each share by RankMe and LiDAR, so that its logarithm exists; RankMe's value for float32."""
LIDAR_DELTA = 1e-4
"""Added by LiDAR to the variance within images in every direction. Our choice of a value."""
STABILITY_NEIGHBORS = 10


def rankme(rows: Float[Tensor, "n d"], epsilon: float = EPSILON) -> float:
    """RankMe: over how many directions the embeddings spread, their common mean counted as one of them.

    ``exp(-sum p_k ln p_k)`` with ``p_k = sigma_k / sum sigma + epsilon``, where sigma are the singular values of the uncentered
    rows (Garrido et al. 2023, arXiv 2210.02885, equation 1). A falling value means that dimensions collapse; that higher is
    better holds, if at all, between similar runs.

    Args:
        rows: embeddings.
        epsilon: added to each share.

    Returns:
        From 1 (all rows on one line) to the smaller of d and n; 0 if all rows are zero.
    """
    return _spread_over(_singular_values(rows), epsilon)


def effective_rank(rows: Float[Tensor, "n d"]) -> float:
    """Effective rank: over how many directions the *variance* of the embeddings spreads.

    The effective rank of Roy and Vetterli (2007, "The effective rank", definition 1), ``exp(-sum p_k ln p_k)``, of the
    covariance matrix. It differs from :func:`rankme` in three ways: the rows are centered, the shares ``p_k`` are shares of
    variance (squares of singular values, so that strong directions count more), and nothing is added to them.

    Args:
        rows: embeddings.

    Returns:
        From 1 to the smaller of d and n - 1; 0 if all rows are equal.
    """
    return _spread_over(_variances(rows))


def alpha_req(rows: Float[Tensor, "n d"]) -> float | None:
    """alpha-ReQ: how fast the variances of the principal components decay, as a power of their rank.

    The alpha of ``variance_i ~ i ** -alpha`` (Agrawal et al. 2022, "alpha-ReQ", NeurIPS): the negative slope of the
    least-squares line through log variance over log rank, each rank i weighted by ``1 / i`` so that every octave counts the
    same (as Stringer et al. 2019). Of the r variances above rounding errors, those from rank ``min(11, 1 + r // 10)`` to
    ``min(500, r - r // 10)`` are fitted: for wide networks 11 to 500, as in the paper.

    Args:
        rows: embeddings.

    Returns:
        Best near 1: far above, few directions hold all variance; far below, noise fills as many as signal. None with fewer
        than 3 variances.
    """
    variances = _variances(rows)
    count = len(variances)
    if count < 3:
        return None
    first, last = min(11, 1 + count // 10), min(500, count - count // 10)
    ranks = torch.arange(first, last + 1, dtype=torch.float64, device=variances.device)
    weights = (1 / ranks) / (1 / ranks).sum()
    x, y = ranks.log(), variances[first - 1 : last].log()
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    return -float((weights * x * y).sum() / (weights * x * x).sum())


def lidar(views: Float[Tensor, "v n d"], delta: float = LIDAR_DELTA, epsilon: float = EPSILON) -> float | None:
    """LiDAR: over how many directions images differ from each other, relative to how their own views differ.

    Each image is a class whose members are its views (Thilak et al. 2024, arXiv 2312.04000): with the covariance B of the
    images' means and the mean covariance W of the views around their image's mean, plus ``delta`` in every direction, it is
    the effective rank of ``W^-1/2 B W^-1/2``, with ``epsilon`` added to its shares. Directions in which augmentation moves an
    image as much as images differ count little. ``delta`` is absolute: compare embeddings of the same scale. More views are
    better (the paper: 50 of 1000 images).

    Args:
        views: embeddings of the views of each image.
        delta: added to the variance within images.
        epsilon: added to each share.

    Returns:
        From 1 to the smaller of d and n - 1; 0 if all images are at one point; None with one view.
    """
    if len(views) < 2:
        return None
    width = views.shape[2]
    within = torch.zeros(width, width, dtype=torch.float64, device=views.device)
    size, means = 0.0, []
    for part in torch.split(views, [len(images) for images in chunked(views[0], len(views) * width)], dim=1):
        exact = part.double()
        means.append(exact.mean(dim=0))
        residuals = (exact - means[-1]).flatten(0, 1)
        within += residuals.T @ residuals
        size += float(exact.square().sum())
    between = torch.cat(means)
    between = between - between.mean(dim=0)
    if float(between.norm()) <= CONSTANT * math.sqrt(size / len(views)):
        return 0.0
    variances, directions = torch.linalg.eigh(within / (len(views) * len(between)))
    whitened = between @ (directions / (variances.clamp(min=0) + delta).sqrt())
    return _spread_over(torch.linalg.eigvalsh(whitened.T @ whitened).clamp(min=0), epsilon)


def agreement(groups: Int[Tensor, "v n"]) -> float | None:
    """Share of the pairs of views of an image that are in the same group.

    What the swapped prediction of SwAV optimizes for (Caron et al. 2020, arXiv 2006.09882, equation 1). A collapse into one
    group gives 1 too: read it together with :func:`group_perplexity`, or use :func:`agreement_above_chance`.

    Args:
        groups: the group of each view of each image.

    Returns:
        From 0 to 1; None with one view.
    """
    pairs = list(combinations(groups, 2))
    return sum(float((a == b).double().mean()) for a, b in pairs) / len(pairs) if pairs else None


def agreement_above_chance(groups: Int[Tensor, "v n"], count: int) -> float | None:
    """:func:`agreement`, corrected for the agreement by chance of views of different images.

    Fleiss' kappa (1971): ``(agreement - chance) / (1 - chance)``, where chance is the sum of the squared shares of the groups.

    Args:
        groups: the group of each view of each image, from 0.
        count: number of groups.

    Returns:
        1 when all views of each image agree and there are several groups; 0 for a network that has learned nothing, and also
        if everything is one group; None with one view.
    """
    seen = agreement(groups)
    chance = float(_shares(groups, count).square().sum())
    if seen is None:
        return None
    return (seen - chance) / (1 - chance) if chance < 1 else 0.0


def group_perplexity(groups: Int[Tensor, "..."], count: int) -> float:
    """Number of groups in use, small ones counted less: exp of the entropy of their shares.

    Args:
        groups: the group of each image or view, from 0.
        count: number of groups.

    Returns:
        From 1 (all in one group) to ``count`` (all of the same size).
    """
    return float(torch.special.entr(_shares(groups, count)).sum().exp())


def spread(rows: Float[Tensor, "n d"]) -> float:
    """``sqrt(1 - |mean unit row|^2)``: how widely the directions of the embeddings spread.

    The figure of the same name in the log of a run, where it is computed from the projections. Rows of zeros have no
    direction; they count as one direction of their own, so that a dead network has a spread of 0.

    Args:
        rows: embeddings.

    Returns:
        1 when they point everywhere, 0 when all point the same way (collapse).
    """
    total = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, device=rows.device)
    for part in chunked(rows, rows.shape[1]):
        unit = F.normalize(part.double(), dim=1)
        total += F.pad(unit.sum(dim=0), (0, 1), value=float((~unit.any(dim=1)).sum()))
    return math.sqrt(max(0.0, 1 - float((total / len(rows)).square().sum())))


def stability(rows: Float[Tensor, "n d"], earlier: Float[Tensor, "n e"], k: int = STABILITY_NEIGHBORS) -> float | None:
    """Mean share of an image's k nearest neighbors, by cosine, that were also among its k nearest at an earlier snapshot.

    The stability of word embeddings (Wendlandt et al. 2018, arXiv 1804.09692, section 3, with k = 10), applied to images.

    Args:
        rows: embeddings.
        earlier: embeddings of the same images at the earlier snapshot.
        k: number of neighbors.

    Returns:
        1 when nothing changes any more, about ``k / n`` when everything has changed; None with fewer than ``k + 2`` images, or
        if one snapshot has all of them at one point.
    """
    if len(rows) < k + 2 or any(_at_one_point(each) for each in (rows, earlier)):
        return None
    sizes = [len(part) for part in chunked(rows, k * k)]
    pairs = zip(*(torch.split(_neighbors(each, k), sizes) for each in (rows, earlier)), strict=True)
    common = sum(int((now[:, :, None] == then[:, None, :]).sum()) for now, then in pairs)
    return common / (k * len(rows))


def label_free(
    rows: Float[Tensor, "n d"],
    views: Float[Tensor, "v n d"],
    groups: Int[Tensor, "v n"] | None = None,
    count: int = 0,
    earlier: Float[Tensor, "n e"] | None = None,
) -> dict[str, float]:
    """Compute all label-free metrics; those that are undefined are left out.

    Args:
        rows: embeddings of the images without augmentation.
        views: embeddings of augmented views of the same images, for ``lidar``.
        groups: the group of each view, from 0, if the method has lasting groups.
        count: number of groups.
        earlier: what ``rows`` were at an earlier snapshot, for ``stability``.

    Returns:
        ``rankme``, ``effective_rank``, ``alpha_req``, ``lidar``, ``spread``, ``stability``; and with groups ``agreement``,
        ``agreement_above_chance``, ``perplexity`` and ``perplexity_share``, its share of the largest possible for that many
        views.

    Raises:
        UserError: NaN or infinity in the embeddings, or there are no images.
    """
    if not len(rows):
        raise UserError("there are no embeddings to evaluate: name at least one image")
    check_finite(rows, "the images")
    check_finite(views.flatten(0, 1), "their views")
    metrics: dict[str, float | None] = {
        "rankme": rankme(rows),
        "effective_rank": effective_rank(rows),
        "alpha_req": alpha_req(rows),
        "lidar": lidar(views),
        "spread": spread(rows),
    }
    if earlier is not None:
        check_finite(earlier, "the earlier checkpoint")
        metrics["stability"] = stability(rows, earlier)
    if groups is not None and groups.numel():
        used = group_perplexity(groups, count)
        metrics["agreement"] = agreement(groups)
        metrics["agreement_above_chance"] = agreement_above_chance(groups, count)
        metrics["perplexity"] = used
        metrics["perplexity_share"] = used / min(count, groups.numel())
    return {name: value for name, value in metrics.items() if value is not None}


def _singular_values(rows: Float[Tensor, "n d"], mean: Tensor | float = 0.0) -> Float[Tensor, " r"]:
    """The largest first, in float64, from the R of a QR decomposition that is updated chunk by chunk."""
    triangle = torch.zeros(0, rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in chunked(rows, rows.shape[1]):
        triangle = torch.linalg.qr(torch.cat([triangle, part.double() - mean]), mode="r").R
    values: Tensor = torch.linalg.svdvals(triangle)
    return values


def _variances(rows: Float[Tensor, "n d"]) -> Float[Tensor, " r"]:
    """Eigenvalues of the covariance matrix, the largest first, without those that are rounding errors."""
    values = _singular_values(rows, _mean(rows))
    return values[values > CONSTANT * math.sqrt(_square_sum(rows))].square() / len(rows)


def _at_one_point(rows: Float[Tensor, "n d"]) -> bool:
    return _square_sum(rows, _mean(rows)) <= CONSTANT**2 * _square_sum(rows)


def _mean(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    sums = [part.sum(dim=0, dtype=torch.float64) for part in chunked(rows, rows.shape[1])]
    return torch.stack(sums).sum(dim=0) / len(rows)


def _square_sum(rows: Float[Tensor, "n d"], mean: Tensor | float = 0.0) -> float:
    return sum(float((part.double() - mean).square().sum()) for part in chunked(rows, rows.shape[1]))


def _spread_over(values: Float[Tensor, " r"], epsilon: float = 0.0) -> float:
    """``exp`` of the entropy of the values as shares of their sum; 0 if the sum is zero."""
    total = values.sum()
    return float(torch.special.entr(values / total + epsilon).sum().exp()) if total > 0 else 0.0


def _shares(groups: Int[Tensor, "..."], count: int) -> Float[Tensor, " k"]:
    sizes: Tensor = torch.bincount(groups.flatten(), minlength=count)
    return sizes.double() / groups.numel()


def _neighbors(rows: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
    """The k nearest other rows of each row, by cosine."""
    unit = torch.cat([F.normalize(part.double(), dim=1).to(rows.dtype) for part in chunked(rows, rows.shape[1])])
    positions = nearest(unit, unit, k + 1)[1]
    other = positions != torch.arange(len(rows), device=rows.device)[:, None]
    other[other.all(dim=1), -1] = False  # a row may be missing from its own list if there are copies of it
    found: Tensor = positions[other].view(len(rows), k)
    return found
