"""What moves the weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coterie.distributed.fsdp import with_full_state
from coterie.errors import BadConfig
from coterie.optim.lars import Lars


@dataclass(frozen=True)
class LarsConfig:
    """SGD with momentum whose step is scaled tensor by tensor; all tensors are decayed, as in SwAV's release."""

    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 0.001

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of this model."""
        optimizer = Lars(
            model.parameters(),
            lr=0.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            trust_coeff=self.trust,
        )
        return with_full_state(optimizer)


@dataclass(frozen=True)
class SgdConfig:
    """SGD with momentum; all tensors are decayed."""

    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of this model."""
        momentum, decay = self.momentum, self.weight_decay
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=momentum, weight_decay=decay, fused=True)
        return with_full_state(optimizer)


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW; vectors (biases, norms) and tables of positions are not decayed."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        _check(max(self.betas), self.weight_decay)
        _check(min(self.betas), self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of this model."""
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


def _check(momentum: float, weight_decay: float) -> None:
    if not 0 <= momentum < 1:
        raise BadConfig(f"optimizer: a momentum (or beta) of {momentum:g} is not at least 0 and below 1")
    if weight_decay < 0:
        raise BadConfig(f"optimizer.weight_decay is {weight_decay:g}: it cannot be negative")


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group of parameters this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
