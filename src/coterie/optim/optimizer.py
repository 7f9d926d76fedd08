"""Settings of the optimizers: LARS, SGD and AdamW."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from coterie.distributed.fsdp import with_full_state
from coterie.errors import BadConfig
from coterie.optim.lars import Lars
from coterie.optim.schedule import Constant, Schedule, extremes
from coterie.types import Progress


@final
@dataclass(frozen=True)
class LarsConfig:
    """Settings of :class:`~coterie.optim.lars.Lars`; all tensors are decayed. The defaults are SwAV's (released code).

    Attributes:
        momentum: share of the previous update that is kept, in [0, 1).
        weight_decay: L2 penalty: a number, or a schedule, as DINO's from 0.04 to 0.4 (arXiv 2104.14294, appendix C).
        layer_decay: factor on the learning rate from each layer of the backbone to the one below it, in (0, 1]; the heads and
            groups have the full rate (BEiT, arXiv 2106.08254; MAE, arXiv 2111.06377, table 9). 1: one rate for all.
        trust: trust coefficient, eta in eq. 6 of arXiv 1708.03888.

    Raises:
        BadConfig: the momentum is not in [0, 1), the weight decay is negative, or the layer decay is not in (0, 1].
    """

    momentum: float = 0.9
    weight_decay: Schedule = field(default_factory=lambda: Constant(1e-6))
    trust: float = 0.001
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay, self.layer_decay)

    def build(self, model: nn.Module, scales: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
        """Build the optimizer for all parameters of a model.

        Args:
            model: the trained module, on its device.
            scales: factor on the learning rate by the name of a parameter, 1 where none is given; None: 1 for all.

        Returns:
            The optimizer; its learning rate, and a weight decay that is scheduled, is 0 until :func:`set_learning_rate` and
            :func:`set_weight_decay`.
        """
        optimizer = Lars(
            _parameter_groups(model, scales),
            lr=0.0,
            momentum=self.momentum,
            weight_decay=_first_decay(self.weight_decay),
            trust_coeff=self.trust,
        )
        return with_full_state(optimizer)


@final
@dataclass(frozen=True)
class SgdConfig:
    """Settings of SGD with momentum; all tensors are decayed. The defaults are ReSA's (released code).

    Attributes:
        momentum: share of the previous update that is kept, in [0, 1).
        weight_decay: L2 penalty: a number, or a schedule, as DINO's from 0.04 to 0.4 (arXiv 2104.14294, appendix C).
        layer_decay: factor on the learning rate from each layer of the backbone to the one below it, in (0, 1]; the heads and
            groups have the full rate (BEiT, arXiv 2106.08254; MAE, arXiv 2111.06377, table 9). 1: one rate for all.

    Raises:
        BadConfig: the momentum is not in [0, 1), the weight decay is negative, or the layer decay is not in (0, 1].
    """

    momentum: float = 0.9
    weight_decay: Schedule = field(default_factory=lambda: Constant(1e-4))
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        _check(self.momentum, self.weight_decay, self.layer_decay)

    def build(self, model: nn.Module, scales: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
        """Build SGD for all parameters of a model on its device; arguments and result as of :meth:`LarsConfig.build`."""
        groups, decay = _parameter_groups(model, scales), _first_decay(self.weight_decay)
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=self.momentum, weight_decay=decay, fused=True)
        return with_full_state(optimizer)


@final
@dataclass(frozen=True)
class AdamWConfig:
    """Settings of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); the defaults are those of SMoG's Swin-T.

    Vectors (biases, norms) and position embeddings are not decayed.

    Attributes:
        betas: shares of the running means of gradients and of their squares that are kept, in [0, 1).
        weight_decay: decoupled weight decay; a number or a schedule, as of :class:`LarsConfig`.
        layer_decay: as of :class:`LarsConfig`.

    Raises:
        BadConfig: a beta is not in [0, 1), the weight decay is negative, or the layer decay is not in (0, 1].
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Schedule = field(default_factory=lambda: Constant(0.05))
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        _check(max(self.betas), self.weight_decay, self.layer_decay)
        _check(min(self.betas), self.weight_decay, self.layer_decay)

    def build(self, model: nn.Module, scales: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
        """Build AdamW for all parameters of a model on its device; arguments and result as of :meth:`LarsConfig.build`."""
        constant = isinstance(self.weight_decay, Constant)  # then the groups are those of earlier checkpoints
        exempt = {"weight_decay": 0.0} if constant else {"weight_decay": 0.0, "exempt": True}
        groups = _parameter_groups(model, scales, exempt)
        decay = _first_decay(self.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.betas, weight_decay=decay, fused=True)
        return with_full_state(optimizer)


def _parameter_groups(
    model: nn.Module, scales: Mapping[str, float] | None, exempt: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One group per factor on the learning rate, from the heads down; with ``exempt`` a second one for what is not decayed.

    Without factors these are the groups of checkpoints from before there were factors.
    """
    scales = scales or {}
    parameters = [(name, each, scales.get(name, 1.0)) for name, each in model.named_parameters()]
    groups: list[dict[str, Any]] = []
    for scale in sorted({scale for *_, scale in parameters}, reverse=True):
        scaled = {"lr_scale": scale} if scales else {}
        of_scale = [(name, each) for name, each, own in parameters if own == scale]
        if exempt is None:
            groups.append({"params": [each for _, each in of_scale]} | scaled)
            continue
        groups.append({"params": [each for name, each in of_scale if not _is_exempt(name, each)]} | scaled)
        groups.append({"params": [each for name, each in of_scale if _is_exempt(name, each)]} | scaled | dict(exempt))
    return groups


def _is_exempt(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim <= 1 or name.rpartition(".")[2] in ("relative_position_bias_table", "pos_embed", "cls_token")


OptimizerConfig = LarsConfig | SgdConfig | AdamWConfig
"""Settings of all kinds of optimizer."""


def _check(momentum: float, weight_decay: Schedule, layer_decay: float) -> None:
    if not 0 <= momentum < 1:
        raise BadConfig(f"optimizer: a momentum (or beta) is {momentum:g}: it must be at least 0 and below 1")
    lowest, _ = extremes(weight_decay)
    if lowest < 0:
        raise BadConfig(f"optimizer.weight_decay is {lowest:g}: it cannot be negative")
    if not 0 < layer_decay <= 1:
        raise BadConfig(
            f"optimizer.layer_decay is {layer_decay:g}: it must be above 0 and at most 1 (1: none; MAE uses 0.75)"
        )


def _first_decay(weight_decay: Schedule) -> float:
    return weight_decay.value if isinstance(weight_decay, Constant) else 0.0


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups, each times its own factor (``optimizer.layer_decay``).

    Args:
        optimizer: any optimizer, changed in place.
        value: the learning rate.
    """
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"] if "lr_scale" in group else value


def set_weight_decay(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the weight decay of all parameter groups but those that are exempt from a scheduled one.

    Args:
        optimizer: an optimizer whose settings have a schedule of the weight decay, changed in place.
        value: the weight decay.
    """
    for group in optimizer.param_groups:
        if not group.get("exempt"):
            group["weight_decay"] = value


def scheduled_decay(config: OptimizerConfig) -> Callable[[Progress], float] | None:
    """The weight decay of each step; None if it is the same at all of them.

    Args:
        config: settings of an optimizer.
    """
    return None if isinstance(config.weight_decay, Constant) else config.weight_decay.at
