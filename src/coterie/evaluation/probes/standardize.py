"""Features of mean 0 and standard deviation 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.grouping.chunks import chunk_slices

CONSTANT = 1e-6
"""A feature whose standard deviation is below this share of its mean holds rounding errors and no news."""


@dataclass(frozen=True)
class Standardizer:
    """Brings features to mean 0 and standard deviation 1; one that never changes becomes 0 and counts for nothing."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    @classmethod
    def fit(cls, rows: Float[Tensor, "n d"]) -> "Standardizer":
        """As these rows ask for; summed in float32 or better within parts of bounded memory, and in float64 over them."""
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
        """Leaves the features as they are, in float32 or better."""
        precision = torch.promote_types(rows.dtype, torch.float32)
        zero = rows.new_zeros(rows.shape[1], dtype=precision)
        return cls(zero, torch.ones_like(zero))

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The rows, standardized."""
        return (rows - self.mean).mul_(self.scale)
