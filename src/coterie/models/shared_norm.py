"""Batch norm whose statistics are those of several processes."""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.distributed import all_sum, groups_of, world_size


class _Shared:
    """Before a batch norm of torch: in training its mean and variance are taken over the processes of a group.

    Torch's own SyncBatchNorm, which does so on GPUs, refuses tensors on the CPU. The variance is
    ``mean of variances + variance of means``, for each process has as many pixels. Two collectives forward, two backward.
    """

    processes: int
    group: Any

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``; the gradient flows through the statistics into the rows of all processes."""
        assert isinstance(self, _BatchNorm)
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        others = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = all_sum(rows.mean(dim=others), self.group) / self.processes
        centered = rows - mean.view(shape)
        variance = all_sum(centered.square().mean(dim=others), self.group) / self.processes
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked or 1)
            count = self.processes * x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)
        normal = centered * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)


class _Shared1d(_Shared, nn.BatchNorm1d):
    pass


class _Shared2d(_Shared, nn.BatchNorm2d):
    pass


def share_statistics(network: nn.Module, processes: int = 0, device: str | None = None) -> None:
    """Let the batch norms of a network see the rows of several processes together; names of weights stay.

    Args:
        network: changed in place.
        processes: so many neighbours share statistics (SwAV's release: 8); 0: all.
        device: the type of that on which it will run; None: where it is.

    Raises:
        UserError: the processes cannot be shared out in such groups.
    """
    together = min(processes or world_size(), world_size())
    if together == 1:
        return
    group = groups_of(together)
    if (device or next(network.parameters()).device.type) == "cuda":
        convert_sync_batchnorm(network, group)
        return
    for module in network.modules():
        for plain, shared in ((nn.BatchNorm1d, _Shared1d), (nn.BatchNorm2d, _Shared2d)):
            if type(module) is plain:
                module.__class__ = shared
                module.processes, module.group = together, group  # type: ignore[assignment]
