"""Collectives over all processes: sums, maxima, gathering, with gradients; of one process each gives back what it got."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coterie.distributed.processes import rank, world_size
from coterie.errors import UserError


def all_reduce_max(values: Tensor) -> Tensor:
    """The largest over the processes, element by element (any shape); no gradient; one collective."""
    if world_size() == 1:
        return values
    most = values.detach().clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most


def all_reduce_logsumexp(values: Tensor) -> Tensor:
    """``log(sum(exp(values)))`` over the processes, element by element (any shape); no gradient.

    One collective: the values themselves are gathered, so that nothing overflows whatever their size.
    """
    if world_size() == 1:
        return values
    return all_gather(values.detach()).logsumexp(dim=0)


class _AllSum(torch.autograd.Function):
    """A sum over the processes whose gradient is summed over them too, as if one process had held all rows."""

    @staticmethod
    def forward(context: Any, values: Tensor, group: Any) -> Tensor:
        context.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=context.group)
        return total, None


def all_reduce_sum(values: Tensor, group: Any = None) -> Tensor:
    """The sum over the processes (of a group), element by element (any shape), with gradient; one collective."""
    if world_size() == 1:
        return values
    total: Tensor = _AllSum.apply(values, group)
    return total


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total[rank()]


def all_gather(values: Tensor) -> Tensor:
    """The values of all processes, ``[W, ...]`` in their order, with gradient; one collective."""
    if world_size() == 1:
        return values[None]
    parts: Tensor = _Gathered.apply(values)
    return parts


def local_chunk(values: Tensor, dim: int) -> Tensor:
    """This process's share of what all hold together, in their order along ``dim``."""
    return values.chunk(world_size(), dim=dim)[rank()]


def subgroup(processes: int) -> Any:
    """The group of so many neighboring processes that this one is in; None: all of them.

    Raises:
        UserError: they cannot be shared out.
    """
    if world_size() <= processes or not processes:
        return None
    if world_size() % processes:
        raise UserError(
            f"batch_norm_processes is {processes}, and {world_size()} processes cannot be shared out in groups of so many: "
            "use a multiple of it, or set it to 0 (all together)"
        )
    return dist.new_subgroups(processes)[0]
