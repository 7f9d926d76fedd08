"""Standardization of features to mean 0 and standard deviation 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.grouping.chunks import chunk_slices

CONSTANT = 1e-6
"""A feature whose standard deviation is below this share of its mean is constant up to rounding errors."""


@dataclass(frozen=True)
class Standardizer:
    """Scales features to mean 0 and standard deviation 1; a constant feature becomes 0.

    Attributes:
        mean: subtracted from each feature.
        scale: what each feature is multiplied with then: 1 / standard deviation, or 0.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @classmethod
    def fit(cls, rows: Float[Tensor, "n d"]) -> "Standardizer":
        """Compute mean and standard deviation of rows.

        Sums are in float32 or better within chunks of bounded memory, and in float64 over them.

        Args:
            rows: features in any floating-point precision.
        """
        precision = torch.promote_types(rows.dtype, torch.float32)
        mean, squares = (rows.new_zeros(rows.shape[1], dtype=torch.float64) for _ in range(2))
        for part in chunk_slices(len(rows), rows.shape[1], rows.device):
            mean += rows[part].sum(dim=0, dtype=precision) / len(rows)
        for part in chunk_slices(len(rows), rows.shape[1], rows.device):
            squares += (rows[part] - mean.to(precision)).square_().sum(dim=0) / len(rows)
        deviation = squares.sqrt()
        scale = torch.where(deviation > CONSTANT * mean.abs(), 1 / deviation, 0.0)
        return cls(mean.to(precision), scale.to(precision))

    @classmethod
    def identity(cls, rows: Float[Tensor, "n d"]) -> "Standardizer":
        """Leave features as they are, in float32 or better.

        Args:
            rows: features, for their number, precision and device.
        """
        precision = torch.promote_types(rows.dtype, torch.float32)
        zero = rows.new_zeros(rows.shape[1], dtype=precision)
        return cls(zero, torch.ones_like(zero))

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standardize rows."""
        return (rows - self.mean).mul_(self.scale)
