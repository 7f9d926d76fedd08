"""What the features of patches show without any label: main directions, segments, and which patches are alike."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.neighbors import nearest
from coterie.grouping.kmeans import nearest_centers, random_starts, spherical_kmeans

STARTS = 5
"""Random starts of k-means, the best of which is kept."""
NEIGHBORS = 8
"""Nearest patches that are kept of each."""
_LOW, _HIGH = 0.02, 0.98
"""Quantiles of a component that become black and full color: a few extreme patches leave the others their contrast."""


@dataclass(frozen=True)
class PatchStructure:
    """The structure of the patches of some images, all of them together.

    Attributes:
        colors: the first three principal components as red, green and blue.
        share: of the variance that each of the three holds.
        segments: the segment of each patch; segment 0 is the largest.
        neighbors: of each patch, the nearest patches of other images (of a single image, its own), the nearest first, as
            positions among all ``n x p`` patches.
    """

    colors: UInt8[Tensor, "n p 3"]
    share: tuple[float, float, float]
    segments: Int[Tensor, "n p"]
    neighbors: Int[Tensor, "n p k"]


def patch_structure(patches: Float[Tensor, "n p d"], segments: int, *, seed: int = 0) -> PatchStructure:
    """Find the structure of patches.

    Features are scaled to unit length, their mean is subtracted, and they are scaled again: what all patches have in common
    says nothing, and few large features hide no others.

    Args:
        patches: features of ``p`` patches of each of ``n`` images.
        segments: how many groups to divide all patches into.
        seed: for the starts of k-means.
    """
    images, places, width = patches.shape
    rows = F.normalize(patches.reshape(-1, width).float(), dim=1)
    rows = F.normalize(rows - rows.mean(dim=0), dim=1)
    components, share = principal_components(rows)
    ends = torch.quantile(_sampled(components), torch.tensor([_LOW, _HIGH]), dim=0)
    scaled = (components - ends[0]) / (ends[1] - ends[0]).clamp(min=1e-12)
    colors = (255 * scaled.clamp(0, 1)).round().to(torch.uint8)
    labels = _segmented(rows, segments, seed)
    return PatchStructure(
        colors.reshape(images, places, 3),
        share,
        labels.reshape(images, places),
        _neighbors(rows, images, places).reshape(images, places, -1),
    )


def principal_components(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n 3"], tuple[float, float, float]]:
    """The first three principal components of rows; each points to where its largest loading is positive.

    Args:
        rows: features.

    Returns:
        The components, and the share of the variance that each holds; zeros where there are fewer.
    """
    centered = rows.double() - rows.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centered.T @ centered)
    vectors = vectors[:, -3:].flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    found = centered @ (vectors * largest.sign())
    shares = values.clamp(min=0) / values.clamp(min=0).sum().clamp(min=1e-300)
    missing = 3 - found.shape[1]
    first, second, third = map(float, F.pad(shares[-3:].flip(0), (0, missing)))
    return F.pad(found, (0, missing)).float(), (first, second, third)


def _segmented(rows: Tensor, segments: int, seed: int) -> Int[Tensor, " n"]:
    """Spherical k-means from the best of several random starts; the largest segment comes first."""
    best, labels = float("-inf"), torch.zeros(len(rows), dtype=torch.int64)
    for start in range(STARTS):
        centers = spherical_kmeans(rows, rows[random_starts(len(rows), segments, seed, start, 0)])
        found = nearest_centers(rows, centers)
        score = float((rows * centers[found]).sum(dtype=torch.float64))
        if score > best:
            best, labels = score, found
    order = labels.bincount(minlength=segments).argsort(descending=True, stable=True)
    return order.argsort()[labels]


def _neighbors(rows: Tensor, images: int, places: int) -> Int[Tensor, "n k"]:
    """The nearest patches of other images; of a single image, its own others."""
    if images == 1:
        _, found = nearest(rows, rows, NEIGHBORS + 1)
        own = found == torch.arange(len(rows))[:, None]
        own[:, -1] |= ~own.any(dim=1)  # among equals a patch may not find itself: the farthest is left out
        return found[~own].reshape(len(rows), -1)
    parts = []
    for image in range(images):
        mine = slice(image * places, (image + 1) * places)
        others = torch.cat([rows[: mine.start], rows[mine.stop :]])
        _, found = nearest(rows[mine], others, NEIGHBORS)
        parts.append(found + places * (found >= mine.start))
    return torch.cat(parts)


def _sampled(rows: Tensor) -> Tensor:
    """At most about 100,000 of the rows: torch's quantile takes no more than 16 million numbers."""
    return rows[:: 1 + len(rows) // 100_000]
