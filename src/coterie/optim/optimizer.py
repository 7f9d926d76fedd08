"""Settings of the optimizers: LARS, SGD and AdamW."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from coterie.distributed.fsdp import with_full_state
from coterie.errors import BadConfig
from coterie.optim.lars import Lars


@final
@dataclass(frozen=True)
class LarsConfig:
    """Settings of :class:`~coterie.optim.lars.Lars`; all tensors are decayed. The defaults are SwAV's (released code).

    Attributes:
        momentum: share of the previous update that is kept, in [0, 1).
        weight_decay: L2 penalty.
        trust: trust coefficient, eta in eq. 6 of arXiv 1708.03888.

    Raises:
        BadConfig: the momentum is not in [0, 1), or the weight decay is negative.
    """

    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 0.001

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer for all parameters of a model.

        Args:
            model: the trained module, on its device.

        Returns:
            The optimizer; its learning rate is 0 until :func:`set_learning_rate`.
        """
        optimizer = Lars(
            model.parameters(),
            lr=0.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            trust_coeff=self.trust,
        )
        return with_full_state(optimizer)


@final
@dataclass(frozen=True)
class SgdConfig:
    """Settings of SGD with momentum; all tensors are decayed. The defaults are ReSA's (released code).

    Attributes:
        momentum: share of the previous update that is kept, in [0, 1).
        weight_decay: L2 penalty.

    Raises:
        BadConfig: the momentum is not in [0, 1), or the weight decay is negative.
    """

    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build SGD for all parameters of a model on its device; arguments and result as of :meth:`LarsConfig.build`."""
        momentum, decay = self.momentum, self.weight_decay
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=momentum, weight_decay=decay, fused=True)
        return with_full_state(optimizer)


@final
@dataclass(frozen=True)
class AdamWConfig:
    """Settings of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); the defaults are those of SMoG's Swin-T.

    Vectors (biases, norms) and position embeddings are not decayed.

    Attributes:
        betas: shares of the running means of gradients and of their squares that are kept, in [0, 1).
        weight_decay: decoupled weight decay.

    Raises:
        BadConfig: a beta is not in [0, 1), or the weight decay is negative.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        _check(max(self.betas), self.weight_decay)
        _check(min(self.betas), self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build AdamW for all parameters of a model on its device; arguments and result as of :meth:`LarsConfig.build`."""
        groups: list[dict[str, Any]] = [
            {"params": [each for name, each in model.named_parameters() if not _is_exempt(name, each)]},
            {
                "params": [each for name, each in model.named_parameters() if _is_exempt(name, each)],
                "weight_decay": 0.0,
            },
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.betas, weight_decay=self.weight_decay, fused=True)
        return with_full_state(optimizer)


def _is_exempt(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim <= 1 or name.rpartition(".")[2] in ("relative_position_bias_table", "pos_embed", "cls_token")


OptimizerConfig = LarsConfig | SgdConfig | AdamWConfig
"""Settings of all kinds of optimizer."""


def _check(momentum: float, weight_decay: float) -> None:
    if not 0 <= momentum < 1:
        raise BadConfig(f"optimizer: a momentum (or beta) is {momentum:g}: it must be at least 0 and below 1")
    if weight_decay < 0:
        raise BadConfig(f"optimizer.weight_decay is {weight_decay:g}: it cannot be negative")


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups.

    Args:
        optimizer: any optimizer, changed in place.
        value: the learning rate.
    """
    for group in optimizer.param_groups:
        group["lr"] = value
