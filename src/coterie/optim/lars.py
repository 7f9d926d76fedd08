"""LARS: SGD with momentum and a learning rate that adapts to each tensor."""

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from coterie.distributed.fsdp import full_norms


@final
class Lars(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled for each tensor, including batch norms and biases, like apex's LARC.

    The rate ``trust_coeff |w| / (|g| + decay |w| + eps)`` scales ``g + decay w`` of each tensor (You et al. 2017, arXiv
    1708.03888, eq. 6; SwAV's released code wraps SGD in apex's LARC with clip=False). A tensor of zeros is not scaled, and one
    with zero gradient is not decayed.

    All tensors are processed together and nothing waits for the device. The gradients are overwritten. Where this process has
    parts of tensors (:mod:`coterie.distributed.fsdp`), norms are those of the full tensors: one collective per parameter group.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.0,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coeff: float = 0.001,
        trust_clip: bool = False,
        eps: float = 1e-8,
    ) -> None:
        """Create the optimizer.

        Args:
            params: parameters to update, all of one floating-point type; or groups of them, as torch's optimizers take them.
            lr: learning rate.
            momentum: share of the previous update that is kept.
            weight_decay: L2 penalty, on all tensors.
            trust_coeff: eta in eq. 6. SwAV: 0.001.
            trust_clip: limit the rate to the learning rate (LARC's clip=True).
            eps: added to the denominator of the rate.
        """
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coeff": trust_coeff, "eps": eps}
        super().__init__(params, numbers | {"trust_clip": trust_clip})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters once.

        Args:
            closure: computes the loss and its gradients again; None: the gradients are there.

        Returns:
            The closure's loss, if there is a closure.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            changes = [weight.grad for weight in weights]
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            rates = self._rates(weights, changes, group).unbind()
            torch._foreach_add_(changes, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_addcmul_(buffers, changes, rates)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])
        return result

    def _rates(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> Float[Tensor, " n"]:
        """The factor on the step of each tensor; 0 where the gradient is zero, so that there is no decay either."""
        size, slope = (torch.stack(each) for each in full_norms(weights, weights, gradients))
        rates = group["trust_coeff"] * size / (slope + size * group["weight_decay"] + group["eps"])
        if group["trust_clip"]:
            rates = (rates / group["lr"]).clamp(max=1.0)
        return torch.where(slope > 0, torch.where(size > 0, rates, 1.0), 0.0)
