"""Unit rows, and one regularizer of each kind."""

import torch
from torch.nn import functional as F

from coterie.grouping.regularizers import CodingRate, KoLeo, MeanEntropy, Uniformity, VarianceCovariance

KINDS = [MeanEntropy(), CodingRate(), VarianceCovariance(), Uniformity(), Uniformity(alignment=0.5), KoLeo()]


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)
