"""Passes that are made a second time on the way back, so that they need not be remembered."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.errors import BadConfig


def checkpoint_activations(backbone: nn.Module) -> None:
    """Remember only what goes into each block of a timm network, and compute the rest again on the way back.

    Chen et al. 2016, arXiv 1604.06174. Weights and names stay as they are.

    Raises:
        BadConfig: timm cannot do it for this network.
    """
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise BadConfig(
            f"run.activation_checkpointing: timm does not have it for a {type(backbone).__name__}; set it to false, and "
            "micro_batches to 2 or more"
        ) from error


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """While this lasts, batch norms normalize as in training, but do not move their running averages.

    It is for the backward pass: what is computed again there was counted on the way there.
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
