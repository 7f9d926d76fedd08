"""Figures that say, without any label, how much a network has learned.

Those of a spectrum ask over how many directions the embeddings spread; those of the views ask whether the views of an image
are held together and apart from other images; those of the groups ask whether all groups are used; the last asks whether
anything still moves. How well each of them follows kNN accuracy is measured in ``benchmarks/labelfree``.
"""

import math
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.neighbors import nearest
from coterie.evaluation.probes.checks import check_finite
from coterie.evaluation.probes.standardize import CONSTANT
from coterie.grouping.chunks import chunked

EPSILON = 1e-7
"""Added to each share by RankMe and LiDAR, so that its logarithm exists; RankMe's value for float32."""
WITHIN = 1e-4
"""LiDAR's delta: added to the variance within images in every direction. The value is our choice."""
NEIGHBORS = 10


def rankme(rows: Float[Tensor, "n d"], epsilon: float = EPSILON) -> float:
    """RankMe: over how many directions the embeddings spread, their common mean counted as one of them.

    ``exp(-sum p_k ln p_k)`` with ``p_k = sigma_k / sum sigma + epsilon``, where sigma are the singular values of the rows as
    they are, not centered (Garrido et al. 2023, arXiv 2210.02885, equation 1). From 1 (all rows on one line) to d or n,
    whichever is less; 0 if all rows are zero. A fall says that directions are dying; that more is better holds, if at all,
    between runs that differ little.
    """
    return _spread_over(_singular_values(rows), epsilon)


def effective_rank(rows: Float[Tensor, "n d"]) -> float:
    """Over how many directions the *variance* of the embeddings spreads.

    The effective rank of Roy and Vetterli (2007, "The effective rank", definition 1), ``exp(-sum p_k ln p_k)``, of the
    covariance matrix. Three things differ from :func:`rankme`: the rows are centered, the shares ``p_k`` are of variance (the
    squares of singular values, so that strong directions count for more), and nothing is added to them. From 1 to d or
    n - 1; 0 if all rows are equal.
    """
    return _spread_over(_variances(rows))


def alpha_req(rows: Float[Tensor, "n d"]) -> float | None:
    """alpha-ReQ: how fast the variances of the principal directions fall, as a power of their rank.

    The alpha of ``variance_i ~ i ** -alpha`` (Agrawal et al. 2022, "alpha-ReQ", NeurIPS): the slope, its sign turned, of the
    least-squares line through log variance over log rank, each rank i weighted by ``1 / i`` so that every octave counts
    alike (as Stringer et al. 2019). Of the r variances above rounding errors those from rank ``min(11, 1 + r // 10)`` to
    ``min(500, r - r // 10)`` are fitted: for wide networks 11 to 500, as there.

    Near 1 is good: far above, few directions hold all; far below, noise fills as many as signal. None with fewer than 3
    variances.
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


def lidar(views: Float[Tensor, "v n d"], delta: float = WITHIN, epsilon: float = EPSILON) -> float | None:
    """LiDAR: over how many directions images differ from each other, measured by how their own views differ.

    Each image is a class and its views are the members (Thilak et al. 2024, arXiv 2312.04000): with the covariance B
    of the means of the images and the mean covariance W of the views around their image's mean, plus ``delta`` in every
    direction, the effective rank of ``W^-1/2 B W^-1/2``, with ``epsilon`` added to its shares. Directions in which the
    augmentations move an image as much as images differ count for little. ``delta`` is absolute: compare embeddings
    of one scale. More views are better (the paper: 50 of 1000 images).

    From 1 to d or n - 1; 0 if all images are at one point; None with one view.
    """
    if len(views) < 2:
        return None
    width = views.shape[2]
    within = torch.zeros(width, width, dtype=torch.float64, device=views.device)
    size, means = 0.0, []
    for part in torch.split(views, [len(images) for images in chunked(views[0], len(views) * width)], dim=1):
        exact = part.double()
        means.append(exact.mean(dim=0))
        apart = (exact - means[-1]).flatten(0, 1)
        within += apart.T @ apart
        size += float(exact.square().sum())
    between = torch.cat(means)
    between = between - between.mean(dim=0)
    if float(between.norm()) <= CONSTANT * math.sqrt(size / len(views)):
        return 0.0
    variances, directions = torch.linalg.eigh(within / (len(views) * len(between)))
    whitened = between @ (directions / (variances.clamp(min=0) + delta).sqrt())
    return _spread_over(torch.linalg.eigvalsh(whitened.T @ whitened).clamp(min=0), epsilon)


def agreement(groups: Int[Tensor, "v n"]) -> float | None:
    """The share of pairs of views of one image that are in the same group; None with one view.

    What the swapped prediction of SwAV asks for (Caron et al. 2020, arXiv 2006.09882, equation 1). 1 is also what a collapse
    into one group gives: read it beside :func:`group_perplexity`, or take :func:`agreement_above_chance`.
    """
    pairs = list(combinations(groups, 2))
    return sum(float((a == b).double().mean()) for a, b in pairs) / len(pairs) if pairs else None


def agreement_above_chance(groups: Int[Tensor, "v n"], count: int) -> float | None:
    """:func:`agreement`, corrected for what views of different images would agree by chance; None with one view.

    Fleiss' kappa (1971): ``(agreement - chance) / (1 - chance)``, chance being the sum of the squared shares of the ``count``
    groups. 1 when all views of an image agree and groups are many, 0 for a network that knows nothing, and 0 if all
    is one group.
    """
    seen = agreement(groups)
    chance = float(_shares(groups, count).square().sum())
    if seen is None:
        return None
    return (seen - chance) / (1 - chance) if chance < 1 else 0.0


def group_perplexity(groups: Int[Tensor, "..."], count: int) -> float:
    """How many of the ``count`` groups are in use, small ones counted for less: exp of the entropy of their shares.

    From 1 (all in one group) to ``count`` (all alike).
    """
    return float(torch.special.entr(_shares(groups, count)).sum().exp())


def spread(rows: Float[Tensor, "n d"]) -> float:
    """``sqrt(1 - |mean unit row|^2)``: 1 when the embeddings point everywhere, 0 when all point one way (collapse).

    The figure of the same name in the log of a run, where it is of the projected embeddings. Rows of zeros have no direction;
    they count as one direction of their own, so that a dead network has a spread of 0.
    """
    total = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, device=rows.device)
    for part in chunked(rows, rows.shape[1]):
        unit = F.normalize(part.double(), dim=1)
        total += F.pad(unit.sum(dim=0), (0, 1), value=float((~unit.any(dim=1)).sum()))
    return math.sqrt(max(0.0, 1 - float((total / len(rows)).square().sum())))


def stability(rows: Float[Tensor, "n d"], earlier: Float[Tensor, "n e"], k: int = NEIGHBORS) -> float | None:
    """Of the k nearest neighbors of an image, by cosine, the mean share that are also its k nearest at the earlier checkpoint.

    The stability of embeddings of words (Wendlandt et al. 2018, arXiv 1804.09692, section 3, with k = 10), of images. 1 when
    nothing moves any more; about ``k / n`` when all is anew. None with fewer than ``k + 2`` images, or where one
    checkpoint has all of them at one point.
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
    """All figures of this file; one that cannot be said is left out.

    Args:
        rows: embeddings of images as they are.
        views: embeddings of augmented views of the same images, for ``lidar``.
        groups: the group of each view, from 0, if the method has lasting groups.
        count: how many groups there are.
        earlier: what ``rows`` were at an earlier checkpoint, for ``stability``.

    Returns:
        ``rankme``, ``effective_rank``, ``alpha_req``, ``lidar``, ``spread``, ``stability``, and of the groups ``agreement``,
        ``agreement_above_chance``, ``perplexity`` and ``perplexity_share``, which is of the most that so many views can have.

    Raises:
        UserError: NaN or infinity among the embeddings, or no image at all.
    """
    if not len(rows):
        raise UserError("there are no embeddings to look at: name at least one image")
    check_finite(rows, "the images")
    check_finite(views.flatten(0, 1), "their views")
    figures: dict[str, float | None] = {
        "rankme": rankme(rows),
        "effective_rank": effective_rank(rows),
        "alpha_req": alpha_req(rows),
        "lidar": lidar(views),
        "spread": spread(rows),
    }
    if earlier is not None:
        check_finite(earlier, "the earlier checkpoint")
        figures["stability"] = stability(rows, earlier)
    if groups is not None and groups.numel():
        used = group_perplexity(groups, count)
        figures["agreement"] = agreement(groups)
        figures["agreement_above_chance"] = agreement_above_chance(groups, count)
        figures["perplexity"] = used
        figures["perplexity_share"] = used / min(count, groups.numel())
    return {name: value for name, value in figures.items() if value is not None}


def _singular_values(rows: Float[Tensor, "n d"], mean: Tensor | float = 0.0) -> Float[Tensor, " r"]:
    """Largest first, in float64: by the R of a QR decomposition that takes in the rows part by part."""
    held = torch.zeros(0, rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in chunked(rows, rows.shape[1]):
        held = torch.linalg.qr(torch.cat([held, part.double() - mean]), mode="r").R
    values: Tensor = torch.linalg.svdvals(held)
    return values


def _variances(rows: Float[Tensor, "n d"]) -> Float[Tensor, " r"]:
    """Eigenvalues of the covariance matrix, largest first, without those that are rounding errors."""
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
    """``exp`` of the entropy of the values as shares of their sum; 0 if there is nothing to share."""
    total = values.sum()
    return float(torch.special.entr(values / total + epsilon).sum().exp()) if total > 0 else 0.0


def _shares(groups: Int[Tensor, "..."], count: int) -> Float[Tensor, " k"]:
    sizes: Tensor = torch.bincount(groups.flatten(), minlength=count)
    return sizes.double() / groups.numel()


def _neighbors(rows: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
    """The k nearest others of each row, by cosine."""
    unit = torch.cat([F.normalize(part.double(), dim=1).to(rows.dtype) for part in chunked(rows, rows.shape[1])])
    positions = nearest(unit, unit, k + 1)[1]
    other = positions != torch.arange(len(rows), device=rows.device)[:, None]
    other[other.all(dim=1), -1] = False  # a row that was crowded out of its own list by copies of itself
    found: Tensor = positions[other].view(len(rows), k)
    return found
