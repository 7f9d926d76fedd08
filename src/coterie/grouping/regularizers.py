"""Regularizers: terms that keep embeddings from collapsing into few directions, or images into few groups.

Each is 0 where nothing has collapsed, or lowest there, and is computed over the images of all processes, one view at a time
(:class:`MeanEntropy`: over all views together), in float32 or wider.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed.collectives import all_gather, all_reduce_sum
from coterie.distributed.processes import world_size
from coterie.errors import BadConfig
from coterie.grouping.gradient_share import measure_gradients
from coterie.grouping.loss import at_least_float32, cosine_scores


@runtime_checkable
class Regularizer(Protocol):
    """A term of the loss, and its weight."""

    @property
    def weight(self) -> float:
        """What the term is multiplied by."""

    def __call__(
        self,
        z: Float[Tensor, "v b d"],
        p: Float[Tensor, "v b d"],
        centers: Sequence[Float[Tensor, "_ d"]],
        temperature: float,
    ) -> Float[Tensor, ""]:
        """Compute the term, not weighted yet.

        Args:
            z: unit embeddings of the student, view by view.
            p: its unit predictions.
            centers: unit centers ``[K, D]`` of each head.
            temperature: tau, of the prediction.
        """


@dataclass(frozen=True)
class _Weighted:
    """What all kinds have.

    Attributes:
        weight: of this term in the loss.
    """

    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise BadConfig(
                f"regularizer.weight is {self.weight:g}: it must be a number above 0 (or --set regularizer=none)"
            )


@final
@dataclass(frozen=True)
class MeanEntropy(_Weighted):
    """Mean entropy maximization of MSN (Assran et al. 2022, arXiv 2204.07141, eq. 2): the mean prediction uses all groups.

    Attributes:
        weight: of this term in the loss. MSN: 1.
    """

    weight: float = 1.0

    def __call__(self, z: Tensor, p: Tensor, centers: Sequence[Tensor], temperature: float) -> Tensor:
        """Compute :func:`mean_entropy_loss`."""
        return mean_entropy_loss(p, centers, temperature)


@final
@dataclass(frozen=True)
class CodingRate(_Weighted):
    """Coding rate of the embeddings (Yu et al. 2020, MCR2, arXiv 2006.08558, eq. 7): they use all directions.

    ``R = 1/2 logdet(I + D / (N distortion) Z^T Z)`` of the N images in a view (also the total coding rate of Tong et al. 2023,
    EMP-SSL, arXiv 2304.03977, eq. 2).

    Attributes:
        weight: of this term in the loss.
        distortion: the square of epsilon, the precision to which embeddings are coded, from 1e-4 to 1000. EMP-SSL: 0.2.
    """

    weight: float = 0.01
    distortion: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1e-4 <= self.distortion <= 1000:  # beyond, float32 has no digits left for the rate or its gradient
            raise BadConfig(
                f"regularizer.distortion is {self.distortion:g}: keep it from 0.0001 to 1000 (EMP-SSL uses 0.2)"
            )

    def __call__(self, z: Tensor, p: Tensor, centers: Sequence[Tensor], temperature: float) -> Tensor:
        """Compute the largest rate that there can be, that of directions used alike, less the mean rate of the views."""
        images, width = z.shape[1] * world_size(), z.shape[2]
        if images < width:  # the same determinant; with Z^T Z it would be that of a nearly singular matrix
            rows = _rows_of_all(z)
            products = rows @ rows.mT / images
        else:
            products = _second_moments(at_least_float32(z))
        identity = torch.eye(products.shape[1], dtype=products.dtype, device=z.device)
        rates = torch.logdet(identity + width / self.distortion * products) / 2
        return width / 2 * math.log1p(1 / self.distortion) - rates.mean()


@final
@dataclass(frozen=True)
class VarianceCovariance(_Weighted):
    """Variance and covariance terms of VICReg (Bardes et al. 2022, arXiv 2105.04906, eq. 1 to 4), on unit embeddings.

    Embeddings are scaled by ``sqrt(D)``: where all dimensions vary alike, each then has a standard deviation of 1.

    Attributes:
        weight: of the variance term in the loss.
        covariance: weight of the covariance term beside it. VICReg: 1 / 25.
    """

    weight: float = 1.0
    covariance: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.covariance < math.inf:
            raise BadConfig(f"regularizer.covariance is {self.covariance:g}: it cannot be negative (VICReg uses 0.04)")

    def __call__(self, z: Tensor, p: Tensor, centers: Sequence[Tensor], temperature: float) -> Tensor:
        """Compute ``mean_j max(0, 1 - std_j)`` plus the weighted ``sum_{i != j} cov_ij^2 / D``; the mean over the views."""
        images, width = z.shape[1] * world_size(), z.shape[2]
        scaled = at_least_float32(z) * math.sqrt(width)
        mean = all_reduce_sum(scaled.sum(dim=1)) / images
        covariances = _second_moments(scaled - mean[:, None]) * (images / max(1, images - 1))
        variances = covariances.diagonal(dim1=1, dim2=2)
        deviations = (variances + 1e-4).sqrt()  # VICReg's epsilon: the root of 0 has no gradient
        shared = (covariances.square().sum(dim=(1, 2)) - variances.square().sum(dim=1)) / width
        return ((1 - deviations).relu().mean(dim=1) + self.covariance * shared).mean()


@final
@dataclass(frozen=True)
class Uniformity(_Weighted):
    """Uniformity on the sphere (Wang and Isola 2020, arXiv 2005.10242, section 4): images repel each other.

    ``log mean_{i != j} exp(-sharpness |z_i - z_j|^2)``; -2 ``sharpness`` where all pairs are at right angles. Beside it, if
    wanted, their other half, alignment: the views of an image attract each other, ``mean_{u < v} |z_u - z_v|^2``.

    Attributes:
        weight: of this term in the loss.
        sharpness: t. Wang and Isola: 2.
        alignment: weight of the alignment of the views, beside a uniformity of 1; 0: groups alone hold the views together. Wang
            and Isola: 1.
    """

    weight: float = 1.0
    sharpness: float = 2.0
    alignment: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sharpness < math.inf:
            raise BadConfig(f"regularizer.sharpness is {self.sharpness:g}: it must be above 0 (the paper uses 2)")
        if not 0 <= self.alignment < math.inf:
            raise BadConfig(f"regularizer.alignment is {self.alignment:g}: it cannot be negative (0: none)")

    def __call__(self, z: Tensor, p: Tensor, centers: Sequence[Tensor], temperature: float) -> Tensor:
        """Compute the mean over the views, and the weighted alignment between them."""
        cosines = _cosines_to_others(_rows_of_all(z))
        logits = (2 * self.sharpness * (cosines - 1)).flatten(1)
        term = (logits.logsumexp(dim=1) - math.log(cosines.shape[1] * (cosines.shape[1] - 1))).mean()
        return term + self.alignment * alignment(z) if self.alignment else term


@final
@dataclass(frozen=True)
class KoLeo(_Weighted):
    """KoLeo (Sablayrolles et al. 2019, arXiv 1806.03198; Oquab et al. 2023, DINOv2, arXiv 2304.07193, section 4).

    The nearest image should be far away:

    ``-mean_i log min_{j != i} |z_i - z_j|``.

    Attributes:
        weight: of this term in the loss. DINOv2: 0.1.
    """

    weight: float = 0.1

    def __call__(self, z: Tensor, p: Tensor, centers: Sequence[Tensor], temperature: float) -> Tensor:
        """Compute the mean over the views."""
        every = _rows_of_all(z)
        nearest = _cosines_to_others(every.detach()).argmax(dim=2)
        # the difference, not 2 - 2 cosines: that has no digits left where images are close, and there the gradient is largest
        apart = every - every.take_along_dim(nearest[..., None], dim=1)
        return -(apart.square().sum(dim=2) + 1e-8).log().mean() / 2


RegularizerConfig = CodingRate | MeanEntropy | VarianceCovariance | Uniformity | KoLeo


def regularize(
    regularizer: Regularizer | None,
    loss: Float[Tensor, ""],
    z: Float[Tensor, "v b d"],
    p: Float[Tensor, "v b d"],
    centers: Sequence[Float[Tensor, "_ d"]],
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None, Float[Tensor, "2"] | None]:
    """Add the weighted term to the loss of the predictions.

    Args:
        regularizer: None: the loss stays as it is.
        loss: of the predictions.
        z: as of :class:`Regularizer`, like the others.
        p: unit predictions.
        centers: unit centers.
        temperature: tau.

    Returns:
        The loss; without gradient what was added to it; and the squared norms of both gradients, as of
        :func:`~coterie.grouping.gradient_share.measure_gradients`.
    """
    if regularizer is None:
        return loss, None, None
    z, p, squares = measure_gradients(z, p)
    term = regularizer.weight * regularizer(z, p, centers, temperature)
    return loss + term, term.detach(), squares


def alignment(z: Float[Tensor, "v b d"]) -> Float[Tensor, ""]:
    """Compute the mean of ``|z_u - z_v|^2`` over all images of all processes and all pairs of views u < v.

    Wang and Isola 2020, arXiv 2005.10242, section 4.1, with their exponent of 2; at most one collective. 0 of a single view.

    Args:
        z: unit embeddings, view by view.
    """
    rows, views = at_least_float32(z), len(z)
    apart = (
        (rows - rows.mean(dim=0)).square().sum()
    )  # over pairs, the mean is 2 / (V - 1) times this sum for each image
    return all_reduce_sum(apart) * 2 / (max(1, views - 1) * z.shape[1] * world_size())


def mean_entropy_loss(
    predictions: Float[Tensor, "v b d"], centers: Sequence[Float[Tensor, "_ d"]], temperature: float
) -> Float[Tensor, ""]:
    """Compute how far the mean prediction is from using all groups equally: ``log K - H(m)``, averaged over the heads.

    m is the mean of ``softmax(p . C / temperature)`` over all views and all images of all processes: the mean entropy
    maximization of MSN (Assran et al. 2022, arXiv 2204.07141, eq. 2). One collective per head.

    Args:
        predictions: unit predictions p, view by view.
        centers: unit centers ``[K, D]`` of each head.
        temperature: tau, of the prediction.

    Returns:
        The regularizer in nats, with gradient into predictions and centers; 0 when all groups are used equally.
    """
    terms = []
    for each in centers:
        probabilities = (cosine_scores(predictions, each) / temperature).softmax(dim=-1)
        mean = all_reduce_sum(probabilities.mean(dim=(0, 1))) / world_size()
        terms.append(math.log(len(each)) - torch.special.entr(mean).sum())
    return torch.stack(terms).mean()


def _second_moments(rows: Float[Tensor, "v b d"]) -> Float[Tensor, "v d d"]:
    """``Z^T Z / N`` of each view over the images of all processes; one collective."""
    return all_reduce_sum(rows.mT @ rows) / (rows.shape[1] * world_size())


def _rows_of_all(rows: Float[Tensor, "v b d"]) -> Float[Tensor, "v n d"]:
    """The rows of all processes, view by view; one collective."""
    return all_gather(at_least_float32(rows)).movedim(0, 1).flatten(1, 2)


def _cosines_to_others(every: Float[Tensor, "v n d"]) -> Float[Tensor, "v n n"]:
    """The cosine of each pair of images in a view; -inf of an image with itself."""
    if every.shape[1] < 2:
        raise BadConfig("uniformity and koleo compare the images of a batch: give them two or more")
    itself = torch.eye(every.shape[1], dtype=torch.bool, device=every.device)
    return (every @ every.mT).masked_fill(itself, -math.inf)
