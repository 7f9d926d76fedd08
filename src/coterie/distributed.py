"""The only module that knows torch.distributed; every function is the identity on one process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_logsumexp(values: Tensor) -> Tensor:
    """``log(sum(exp(values)))`` over the processes, element by element (any shape); no gradient.

    One collective: the values themselves are gathered, so that nothing overflows whatever their size.
    """
    if world_size() == 1:
        return values
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(gathered, values.contiguous())
    return torch.stack(gathered).logsumexp(dim=0)


class _AllSum(torch.autograd.Function):
    """A sum over the processes whose gradient is summed over them too, as if one process had held all rows."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def all_sum(values: Tensor) -> Tensor:
    """The sum over the processes, element by element (any shape), with gradient; one collective."""
    if world_size() == 1:
        return values
    total: Tensor = _AllSum.apply(values)
    return total
