"""Batch norm whose statistics are those of several processes."""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.distributed.collectives import all_reduce_sum, subgroup
from coterie.distributed.processes import world_size


class _Normalized(torch.autograd.Function):
    """Rows, normalized by the mean and the variance over all processes of a group.

    ``dx = w / s (dy - mean(dy) - x' mean(dy x'))``, where x' are the normal rows, s is their deviation and the means are over
    the group (Ioffe and Szegedy 2015, arXiv 1502.03167, section 3). One collective forward, one backward.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: int, group: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The normal rows, and mean ``[C]`` and variance ``[C]`` over the group."""
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
        """Through the statistics into the rows of all processes."""
        x, weight, mean, variance = context.saved_tensors
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, context.eps, [True, True, True]
        )
        count = context.processes * (x.numel() // x.shape[1])
        sloped, level = all_reduce_sum(torch.stack([dweight, dbias]), context.group) / count
        scale = (variance + context.eps).rsqrt() * (1.0 if weight is None else weight)
        dx -= F.batch_norm(x, mean, variance, scale * sloped, scale * level, False, 0.0, context.eps)
        return dx, None if weight is None else dweight, None if weight is None else dbias, None, None, None


class _Shared:
    """Before a batch norm of torch: in training its mean and variance are taken over the processes of a group.

    Torch's own SyncBatchNorm, which does so on GPUs, refuses tensors on the CPU. Each process has as many pixels.
    """

    processes: int
    group: Any

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``[N, C, ...]``; the gradient flows through the statistics into the rows of all processes."""
        assert isinstance(self, _BatchNorm)
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        normal: Tensor
        normal, mean, variance = _Normalized.apply(x, self.weight, self.bias, self.eps, self.processes, self.group)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked or 1)
            count = self.processes * x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)
        return normal


class _Shared1d(_Shared, nn.BatchNorm1d):
    pass


class _Shared2d(_Shared, nn.BatchNorm2d):
    pass


def share_statistics(network: nn.Module, processes: int = 0, device: str | None = None) -> None:
    """Let the batch norms of a network see the rows of several processes together; names of weights stay.

    Args:
        network: changed in place.
        processes: so many neighbors share statistics (SwAV's release: 8); 0: all.
        device: the type of that on which it will run; None: where it is.

    Raises:
        UserError: the processes cannot be shared out in such groups.
    """
    together = min(processes or world_size(), world_size())
    if together == 1:
        return
    group = subgroup(together)
    if (device or next(network.parameters()).device.type) == "cuda":
        convert_sync_batchnorm(network, group)
        return
    for module in network.modules():
        for plain, shared in ((nn.BatchNorm1d, _Shared1d), (nn.BatchNorm2d, _Shared2d)):
            if type(module) is plain:
                module.__class__ = shared
                module.processes, module.group = together, group  # type: ignore[assignment]
