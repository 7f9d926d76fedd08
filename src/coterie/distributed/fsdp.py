"""Shard networks over the processes (FSDP2): each keeps a part of every weight, its gradient and its optimizer state.

torch gathers the weights of a block when it is called and drops them again afterwards. Between steps each process holds nothing
but its rows of each tensor, and the optimizer updates those as plain tensors; only norms need communication.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as tree

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig


def check_can_shard() -> None:
    """Check that there are several processes to shard a network over.

    Raises:
        BadConfig: there is only one process.
    """
    if world_size() == 1:
        raise BadConfig(
            "run.fsdp gives each process a part of the network, but there is only one process: start several with torchrun, or "
            "--set run.fsdp=false"
        )


def shard_network(network: nn.Module, device: torch.device, *, blockwise: bool = True) -> None:
    """Shard a network over the processes, in place, and move it to this process's device part by part.

    Called as before, it returns what it did; its weights keep their names, and each is a part (a DTensor) of the full tensor.
    The network may start on the CPU: then the device never holds all of it. A state dict loaded into it contains full tensors.

    Zhao et al. 2023, arXiv 2304.11277; torch's ``fully_shard``.

    Args:
        network: the network to shard; batch norms must already be synchronized.
        device: device of this process.
        blockwise: gather the blocks of the network one at a time. False for a network that is not computed by calling its
            blocks: then all of it is gathered for a pass, and only between passes is it sharded.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where torch puts the parts
    mesh = init_device_mesh(device.type, (world_size(),))
    weights = list(network.parameters())
    for weight in weights:
        weight.data = weight.data.contiguous()
    scalars = {weight for weight in weights if weight.dim() == 0}  # torch does not shard them: each process keeps them
    for block in [*(network_blocks(network) if blockwise else ()), network]:
        block.register_forward_hook(_no_views)
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
        assert isinstance(block, FSDPModule)
        if device.type == "cpu":
            block.set_force_sum_reduction_for_comms(True)  # not every version of Gloo can average
    network.register_load_state_dict_pre_hook(_take_own_rows)  # type: ignore[no-untyped-call]


def network_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a timm network: the smallest modules with layers in a Sequential or ModuleList.

    Args:
        network: any network of timm.

    Returns:
        Disjoint modules that :func:`shard_network` gathers one at a time, in the order of ``network.modules()``.
    """
    lists = (nn.Sequential, nn.ModuleList)
    found = [
        child
        for each in network.modules()
        if isinstance(each, lists)
        for child in each.children()
        if not isinstance(child, lists) and any(child.children()) and any(True for _ in child.parameters())
    ]
    return [each for each in found if not any(part is not each and part in found for part in each.modules())]


def _no_views(network: nn.Module, given: Any, result: Any) -> Any:
    """Copy outputs that are views, as torch advises: overwriting one would undo the gathering of the backward pass."""
    return tree.tree_map_only(Tensor, lambda each: each.clone() if each._is_view() else each, result)


@final
class ShardedParameter(nn.Parameter):
    """This process's rows of a weight as a plain tensor in the same memory, which an optimizer can update.

    Attributes:
        full: the sharded weight.
    """

    full: DTensor

    def __new__(cls, full: DTensor) -> "ShardedParameter":
        """Wrap this process's rows of a weight.

        Args:
            full: the sharded weight.
        """
        part: ShardedParameter = super().__new__(cls, local_tensor(full.detach()), full.requires_grad)
        part.full = full
        return part


@final
class ShardedStudent(nn.Module):
    """A student with sharded networks, as the training loop and its optimizer see it.

    It is called like the student. Its parameters have the student's names: :class:`ShardedParameter` for sharded weights, the
    weights themselves for all others (the groups). The gradients of both are averaged over the processes in the backward pass.
    Create it once the student is on its final device and in its final precision: later moves and casts are not noticed.
    """

    def __init__(self, student: nn.Module) -> None:
        """Redirect the gradients of a student to the parameters of this module.

        Args:
            student: the trained module, with networks from :func:`shard_network`.
        """
        super().__init__()
        self.student = student
        self._trained = {name: _trained(weight) for name, weight in student.named_parameters()}

    def forward(self, views: Sequence[Tensor]) -> Any:
        """Call the student.

        Args:
            views: one tensor ``[B, C, H, W]`` per view.

        Returns:
            What the student returns.
        """
        return self.student(views)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that this process updates, under the student's names; the arguments are ignored."""
        yield from self._trained.items()


def _trained(weight: nn.Parameter) -> nn.Parameter:
    """Return what the optimizer updates for a weight; it receives the averaged gradient as soon as that is computed."""
    if not isinstance(weight, DTensor):
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(_average)  # type: ignore[no-untyped-call]
        return weight
    part = ShardedParameter(weight)

    def hand_over(_: Tensor) -> None:
        assert weight.grad is not None
        gradient = local_tensor(weight.grad)
        part.grad = gradient if part.grad is None else part.grad.add_(gradient)
        weight.grad = None

    if weight.requires_grad:
        weight.register_post_accumulate_grad_hook(hand_over)  # type: ignore[no-untyped-call]
    return part


def _average(weight: Tensor) -> None:
    """Average a gradient over the processes; averaging an average changes nothing, so several backward passes may add up."""
    assert weight.grad is not None
    weight.grad = all_reduce_sum(weight.grad) / world_size()


@torch.no_grad()
def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory; any other tensor is returned as it is.

    Args:
        tensor: a weight, a gradient or any other tensor.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor, one collective; any other tensor is returned as it is.

    Args:
        tensor: a weight, a gradient or any other tensor.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_norms(weights: Sequence[Tensor], *values: Sequence[Tensor]) -> list[list[Tensor]]:
    """Compute the L2 norms of full tensors, also where this process has only a part; at most one collective.

    Args:
        weights: parameters as the optimizer has them; :class:`ShardedParameter` marks a part.
        values: sequences of tensors, such as the weights themselves or their gradients: one tensor per weight, of its shape.

    Returns:
        For each sequence in ``values`` the norms of its tensors, each a scalar tensor.
    """
    found = [list(torch._foreach_norm(list(each))) for each in values]
    sharded = [number for number, weight in enumerate(weights) if isinstance(weight, ShardedParameter)]
    if sharded:
        squares = torch.stack([row[number] for row in found for number in sharded]).square()
        full = iter(all_reduce_sum(squares).sqrt().unbind())
        for row in found:
            for number in sharded:
                row[number] = next(full)
    return found


def gradient_norm(weights: Sequence[Tensor]) -> Tensor:
    """Compute the L2 norm of the gradients of all weights together, of the full tensors also where this process has parts.

    Args:
        weights: parameters as the optimizer has them; those without gradient do not count.

    Returns:
        A scalar tensor on the device; at most one collective.
    """
    trained = [(weight, weight.grad) for weight in weights if weight.grad is not None]
    gradients = [gradient for _, gradient in trained]
    if any(isinstance(weight, ShardedParameter) for weight, _ in trained):
        gradients = full_norms([weight for weight, _ in trained], gradients)[
            0
        ]  # the norm of the norms is the total norm
    total: Tensor = nn.utils.get_total_norm(gradients)
    return total


def with_full_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let an optimizer of sharded weights save and load the state of the full weights.

    So a checkpoint does not depend on the number of processes. The loaded state also gets the memory layout of its weights.

    Args:
        optimizer: an optimizer over the parameters of a :class:`ShardedStudent` or of any other module; changed in place.

    Returns:
        The same optimizer.
    """
    if any(isinstance(weight, ShardedParameter) for weight in _weights(optimizer)):
        optimizer.register_state_dict_post_hook(_state_as_parts)
        optimizer.register_load_state_dict_pre_hook(_state_of_own_rows)
    optimizer.register_load_state_dict_post_hook(_lay_out)
    return optimizer


def full_state_dict(state: Any) -> Any:
    """Replace the sharded tensors of a state by full ones, on the CPU of process 0; all processes must call this.

    One collective per tensor, so that a device holds one full tensor at a time.

    Args:
        state: nested dicts and lists, such as a state dict.

    Returns:
        The same structure; in processes other than 0, None stands for each full tensor.
    """

    def on_host(part: DTensor) -> Tensor | None:
        tensor = full_tensor(part)
        return tensor.cpu() if rank() == 0 else None

    return tree.tree_map_only(DTensor, on_host, state)


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _state_as_parts(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Before saving: mark this process's rows as parts, so that :func:`full_state_dict` gathers them."""
    return state | {"state": _of_parts(optimizer, state["state"], lambda rows, full: _as_part(rows, full, full))}


def _state_of_own_rows(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Before loading: keep this process's rows of each full tensor."""
    return state | {"state": _of_parts(optimizer, state["state"], lambda value, _: _own_rows(local_tensor(value)))}


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Bring the loaded state into the memory layout of its weight: parts are row-major, full weights channels-last.

    The fused optimizers require it and do not check.
    """
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)


def _of_parts(optimizer: torch.optim.Optimizer, states: dict[int, Any], change: Any) -> dict[int, Any]:
    """Apply a change to each state tensor (not scalar) of a sharded weight."""
    weights, changed = _weights(optimizer), dict(states)
    for number, values in states.items():
        weight = weights[number]
        if isinstance(weight, ShardedParameter):
            changed[number] = {
                name: change(value, weight.full) if isinstance(value, Tensor) and value.dim() else value
                for name, value in values.items()
            }
    return changed


def _own_rows(value: Tensor) -> Tensor:
    """This process's rows, divided as torch does it: chunks of equal size, the last ones smaller or empty."""
    pieces = value.chunk(world_size())
    return pieces[rank()] if rank() < len(pieces) else value[:0]


def _as_part(rows: Tensor, full: Tensor, like: DTensor) -> DTensor:
    """This process's rows as a part of a tensor of the shape of ``full``, sharded like ``like``."""
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(rows, mesh, placements, run_check=False, shape=full.shape, stride=full.stride())


def _take_own_rows(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading a full state dict: keep this process's rows of each sharded weight."""
    for name, weight in network.named_parameters():
        value = state.get(prefix + name)
        if isinstance(weight, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor):
            state[prefix + name] = _as_part(_own_rows(value), value, weight)
