"""Collectives over all processes, with gradients: sums, maxima and gathering; on one process each returns its input.

Each process computes the mean of its own losses, and the gradients of the weights are averaged over the processes. So the
gradient of a tensor that went through :func:`all_reduce_sum` or :func:`all_gather` is summed over all processes, as if one
process had held all rows.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coterie.distributed.processes import rank, world_size
from coterie.errors import UserError


def all_reduce_max(values: Tensor) -> Tensor:
    """Return the elementwise maximum over the processes; one collective.

    Args:
        values: a tensor of any shape, the same shape in all processes.

    Returns:
        A tensor of that shape, without gradient.
    """
    if world_size() == 1:
        return values
    most = values.detach().clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most


def all_reduce_logsumexp(values: Tensor) -> Tensor:
    """Return ``log(sum(exp(values)))`` over the processes, element by element; one collective.

    The values themselves are gathered, so that nothing overflows whatever their size.

    Args:
        values: log values of any shape, which is the same in all processes.

    Returns:
        Their log-sum-exp, of that shape and without gradient.
    """
    return values if world_size() == 1 else all_gather(values.detach()).logsumexp(dim=0)


class _AllReduceSum(torch.autograd.Function):
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
    """Return the elementwise sum over the processes, with gradient; one collective forward and one backward.

    Args:
        values: a tensor of any shape, the same shape in all processes.
        group: a group from :func:`subgroup`; None: all processes.

    Returns:
        A tensor of that shape.
    """
    if world_size() == 1:
        return values
    total: Tensor = _AllReduceSum.apply(values, group)
    return total


class _AllGather(torch.autograd.Function):
    """The stacked values of all processes; the gradient of each process's values is summed over the processes."""

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
    """Stack the values of all processes, with gradient; one collective forward and one backward.

    Args:
        values: a tensor of any shape, the same shape in all processes.

    Returns:
        The values ``[W, ...]`` of the W processes, by rank.
    """
    if world_size() == 1:
        return values[None]
    parts: Tensor = _AllGather.apply(values)
    return parts


def local_chunk(values: Tensor, dim: int) -> Tensor:
    """Return this process's share of a tensor that holds the rows of all processes; no communication.

    Args:
        values: rows of all processes, by rank, along ``dim``; as many from each.
        dim: dimension of the rows.

    Returns:
        A view of this process's rows.
    """
    return values.chunk(world_size(), dim=dim)[rank()]


def subgroup(processes: int) -> Any:
    """Return the group of neighboring processes that this process belongs to.

    Args:
        processes: number of processes per group; 0: all.

    Returns:
        A process group for :func:`all_reduce_sum`; None stands for all processes.

    Raises:
        UserError: the number of processes is not a multiple of the group size.
    """
    if world_size() <= processes or not processes:
        return None
    if world_size() % processes:
        raise UserError(
            f"batch_norm_processes is {processes}, but {world_size()} processes cannot be divided into groups of that size: "
            "start a multiple of it, or set it to 0 (all together)"
        )
    return dist.new_subgroups(processes)[0]
