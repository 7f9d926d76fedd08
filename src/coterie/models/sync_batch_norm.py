"""Batch norm with statistics over several processes."""

from typing import Any, final

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.distributed.collectives import all_reduce_sum, subgroup
from coterie.distributed.processes import world_size


class _Normalized(torch.autograd.Function):
    """Normalize by the mean and the variance over all processes of a group.

    ``dx = w / s (dy - mean(dy) - x' mean(dy x'))``, where x' are the normalized values, s is their standard deviation and the
    means are over the group (Ioffe and Szegedy 2015, arXiv 1502.03167, section 3). One collective forward, one backward.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: int, group: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalized values, and the mean ``[C]`` and variance ``[C]`` over the group."""
        own_mean, own_variance = (each.double() for each in torch.batch_norm_update_stats(x, None, None, 0.0))
        moments = all_reduce_sum(torch.stack([own_mean, own_variance + own_mean.square()]), group) / processes
        kind = torch.promote_types(x.dtype, torch.float32)
        mean, variance = moments[0].to(kind), (moments[1] - moments[0].square()).clamp(min=0).to(kind)
        context.save_for_backward(x, weight, mean, variance)
        context.eps, context.processes, context.group = eps, processes, group
        context.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Differentiate through the statistics into the values of all processes."""
        x, weight, mean, variance = context.saved_tensors
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, context.eps, [True, True, True]
        )
        count = context.processes * (x.numel() // x.shape[1])
        sloped, level = all_reduce_sum(torch.stack([dweight, dbias]), context.group) / count
        scale = (variance + context.eps).rsqrt() * (1.0 if weight is None else weight)
        dx -= F.batch_norm(x, mean, variance, scale * sloped, scale * level, False, 0.0, context.eps)
        return dx, None if weight is None else dweight, None if weight is None else dbias, None, None, None


def _normalize(norm: _BatchNorm, x: Tensor, processes: int, group: Any) -> Tensor:
    """Apply a batch norm to ``[N, C, ...]``, in training mode with the mean and variance over a group of processes."""
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    normal: Tensor
    normal, mean, variance = _Normalized.apply(x, norm.weight, norm.bias, norm.eps, processes, group)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked or 1)
        count = processes * x.numel() // x.shape[1]
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), share)
    return normal


@final
class SyncBatchNorm1d(nn.BatchNorm1d):
    """torch's BatchNorm1d with statistics over a group of processes, on any device; each process has equally many rows.

    torch's own SyncBatchNorm does the same on GPUs and refuses tensors on the CPU. :func:`convert_sync_batch_norm` creates
    it.

    Attributes:
        processes: number of processes in the group.
        group: the group, from :func:`~coterie.distributed.collectives.subgroup`.
    """

    processes: int
    group: Any

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """Normalize a batch; the gradient flows through the statistics into the rows of all processes.

        Args:
            input: rows ``[N, C]`` or ``[N, C, L]`` of this process.

        Returns:
            The normalized rows, of the same shape.
        """
        return _normalize(self, input, self.processes, self.group)


@final
class SyncBatchNorm2d(nn.BatchNorm2d):
    """torch's BatchNorm2d with statistics over a group of processes, on any device; each process has equally many pixels.

    Created by :func:`convert_sync_batch_norm`, with the attributes of :class:`SyncBatchNorm1d`.
    """

    processes: int
    group: Any

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """Normalize a batch; the gradient flows through the statistics into the pixels of all processes.

        Args:
            input: images ``[N, C, H, W]`` of this process.

        Returns:
            The normalized images, of the same shape.
        """
        return _normalize(self, input, self.processes, self.group)


def convert_sync_batch_norm(network: nn.Module, processes: int = 0, device: str | None = None) -> None:
    """Let the batch norms of a network compute their statistics over several processes, in place; weights keep their names.

    Args:
        network: any network; on one process it stays as it is.
        processes: number of neighboring processes that share statistics (SwAV's released code: 8); 0: all.
        device: type of the device that the network will run on; None: of the one that it is on.

    Raises:
        UserError: the number of processes is not a multiple of ``processes``.
    """
    together = min(processes or world_size(), world_size())
    if together == 1:
        return
    group = subgroup(together)
    if (device or next(network.parameters()).device.type) == "cuda":
        convert_sync_batchnorm(network, group)
        return
    for module in network.modules():
        for plain, synchronized in ((nn.BatchNorm1d, SyncBatchNorm1d), (nn.BatchNorm2d, SyncBatchNorm2d)):
            if type(module) is plain:
                module.__class__ = synchronized
                module.processes, module.group = together, group  # type: ignore[assignment]
