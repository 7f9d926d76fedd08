"""What moves the weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm.optim
import torch
from torch import nn

from coterie.errors import BadConfig


class Lars(timm.optim.Lars):  # type: ignore[misc]
    """timm's LARS, as apex's LARC of the originals: every tensor is adapted, and a gradient of zero brings no decay.

    ``rate = trust |w| / (|g| + decay |w| + eps)`` scales ``g + decay w`` of each tensor, batch norm and biases too (You et al.
    2017; SwAV's release wraps SGD in apex LARC with clip=False). timm decays a tensor of zero gradient; the originals leave it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:  # what cancels the decay that timm is about to add
                    undone = -group["weight_decay"] * weight
                    weight.grad = torch.where(weight.grad.count_nonzero() > 0, weight.grad, undone)
        result: float | None = super().step(closure)
        return result


@dataclass(frozen=True)
class LarsConfig:
    """SGD with momentum whose step is scaled tensor by tensor; all tensors are decayed, as in SwAV's release."""

    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 0.001

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of this model."""
        return Lars(
            model.parameters(),
            lr=0.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            trust_coeff=self.trust,
            always_adapt=True,
        )


@dataclass(frozen=True)
class SgdConfig:
    """SGD with momentum; all tensors are decayed."""

    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of this model."""
        return torch.optim.SGD(model.parameters(), lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW; vectors (biases, norms) and tables of positions are not decayed."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        _check(max(self.betas), self.weight_decay)
        _check(min(self.betas), self.weight_decay)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of this model."""
        groups: list[dict[str, Any]] = [
            {"params": [each for name, each in model.named_parameters() if not _is_exempt(name, each)]},
            {
                "params": [each for name, each in model.named_parameters() if _is_exempt(name, each)],
                "weight_decay": 0.0,
            },
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=self.betas, weight_decay=self.weight_decay)


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
