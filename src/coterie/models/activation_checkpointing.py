"""Activation checkpointing: recompute activations in the backward pass instead of storing them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.errors import BadConfig
from coterie.models.own_backbone import users_module


def enable_activation_checkpointing(backbone: nn.Module) -> None:
    """Let a timm network store only the input of each block and recompute the rest in the backward pass.

    Chen et al. 2016, arXiv 1604.06174. Weights and their names stay as they are. Run the backward pass within
    :func:`freeze_running_stats`.

    Args:
        backbone: a network of timm, changed in place.

    Raises:
        BadConfig: timm does not support it for this network.
    """
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise BadConfig(
            f"run.activation_checkpointing: timm does not support it for a {type(users_module(backbone)).__name__}; set it to "
            "false and micro_batches to 2 or more"
        ) from error


@contextmanager
def freeze_running_stats(network: nn.Module) -> Iterator[None]:
    """Keep the running averages of batch norms as they are for the duration of a ``with`` block.

    They still normalize with batch statistics in training mode. Meant for the backward pass: activations that are recomputed
    there were already counted in the forward pass.

    Args:
        network: any network.
    """
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
