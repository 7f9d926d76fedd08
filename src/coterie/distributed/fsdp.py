"""Networks of which each process keeps a part: of every weight, its gradient and what the optimizer remembers of it (FSDP2).

torch gathers the weights of a block when it is called, and drops them again. Between steps each process has nothing but its
rows of each tensor, and what moves them works on those as plain tensors; only norms need a word with the others.
"""

from collections.abc import Iterator, Sequence
from typing import Any

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
    """Refuse to share out a network among nobody.

    Raises:
        BadConfig: there is one process.
    """
    if world_size() == 1:
        raise BadConfig(
            "run.fsdp gives each process a part of the network, and there is one process: start several with torchrun, or "
            "--set run.fsdp=false"
        )


def shard_network(network: nn.Module, device: torch.device, *, blockwise: bool = True) -> None:
    """Share out a network over the processes, in place, and bring it to this process's device part by part.

    Called as before, it gives what it gave; its weights have their names, and each is a part (a DTensor). It may come on
    the CPU: then its device never holds all of it. What is loaded into it is whole.

    Args:
        network: called as a whole; batch norms that share statistics already do.
        device: of this process.
        blockwise: gather the blocks of the network one by one; off for a network that is computed otherwise than by calling
            its blocks: then a pass has all of it, and only between passes is it in parts.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # that is where torch puts a part
    mesh = init_device_mesh(device.type, (world_size(),))
    weights = list(network.parameters())
    for weight in weights:
        weight.data = weight.data.contiguous()
    numbers = {
        weight for weight in weights if weight.dim() == 0
    }  # torch does not share them out: each process keeps them
    for block in [*(network_blocks(network) if blockwise else ()), network]:
        block.register_forward_hook(_no_views)
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
        assert isinstance(block, FSDPModule)
        if device.type == "cpu":
            block.set_force_sum_reduction_for_comms(True)  # not every version of gloo averages
    network.register_load_state_dict_pre_hook(_take_own_rows)  # type: ignore[no-untyped-call]


def network_blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a timm network: what has layers in a Sequential or ModuleList, and no such list itself."""
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
    """A view is copied, as torch advises: whoever overwrote it would undo the gathering on the way back."""
    return tree.tree_map_only(Tensor, lambda each: each.clone() if each._is_view() else each, result)


class ShardedParameter(nn.Parameter):
    """This process's rows of a weight, as a plain tensor in the same memory: what an optimizer moves."""

    full: DTensor

    def __new__(cls, full_tensor: DTensor) -> "ShardedParameter":
        """The part of ``full_tensor`` that is here."""
        part: ShardedParameter = super().__new__(cls, local_tensor(full_tensor.detach()), full_tensor.requires_grad)
        part.full = full_tensor
        return part


class ShardedStudent(nn.Module):
    """A student of which networks are shared out, for the loop and its optimizer.

    It is called as the student is. Its parameters, under the student's names, are parts of what is shared out and the whole of
    all else (the groups); gradients of both are averaged over the processes on the way back. It is made once, when the student
    is where it stays: what is moved or cast afterwards is not seen.
    """

    def __init__(self, student: nn.Module) -> None:
        """Let the gradients of ``student`` come here."""
        super().__init__()
        self.student = student
        self._moved = {name: _moved(weight) for name, weight in student.named_parameters()}

    def forward(self, views: Sequence[Tensor]) -> Any:
        """What the student gives."""
        return self.student(views)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """What this process moves."""
        yield from self._moved.items()


def _moved(weight: nn.Parameter) -> nn.Parameter:
    """What the optimizer is to move of a weight; it is given the averaged gradient as soon as that is there."""
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

    weight.register_post_accumulate_grad_hook(hand_over)  # type: ignore[no-untyped-call]
    return part


def _average(weight: Tensor) -> None:
    """Averaging what was averaged changes nothing, so that several passes back may add up."""
    assert weight.grad is not None
    weight.grad = all_reduce_sum(weight.grad) / world_size()


@torch.no_grad()
def local_tensor(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in the same memory: all of it, unless it is shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor; a collective where it is shared out."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def norms(weights: Sequence[Tensor], *values: Sequence[Tensor]) -> list[list[Tensor]]:
    """The norms of tensors, each a weight or its gradient; where this process has a part, of the whole: one collective.

    Args:
        weights: as the optimizer has them.
        values: one tensor for each weight, as large as it; as often as wanted.
    """
    found = [list(torch._foreach_norm(list(each))) for each in values]
    shared = [number for number, weight in enumerate(weights) if isinstance(weight, ShardedParameter)]
    if shared:
        squares = torch.stack([row[number] for row in found for number in shared]).square()
        full_tensor = iter(all_reduce_sum(squares).sqrt().unbind())
        for row in found:
            for number in shared:
                row[number] = next(full_tensor)
    return found


def gradient_norm(weights: Sequence[Tensor]) -> Tensor:
    """The norm of the gradient of all weights together, of the whole where this process has parts."""
    moved = [(weight, weight.grad) for weight in weights if weight.grad is not None]
    gradients = [gradient for _, gradient in moved]
    if any(isinstance(weight, ShardedParameter) for weight, _ in moved):
        gradients = norms([weight for weight, _ in moved], gradients)[0]  # whose norm is that of all
    total: Tensor = nn.utils.get_total_norm(gradients)
    return total


def with_full_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, whose state is saved as that of whole weights, and taken over from it, where it moves parts of them."""
    if any(isinstance(weight, ShardedParameter) for weight in _weights(optimizer)):
        optimizer.register_state_dict_post_hook(_state_as_parts)
        optimizer.register_load_state_dict_pre_hook(_state_of_own_rows)
    optimizer.register_load_state_dict_post_hook(_lay_out)
    return optimizer


def full_state_dict(state: Any) -> Any:
    """A state with whole tensors in place of parts, on the host of the first process; the others have none of those.

    One collective a tensor, so that a device has one of them whole at a time. All processes are to ask.
    """

    def on_host(part: DTensor) -> Tensor | None:
        tensor = full_tensor(part)
        return tensor.cpu() if rank() == 0 else None

    return tree.tree_map_only(DTensor, on_host, state)


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _state_as_parts(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return state | {
        "state": _of_parts(
            optimizer, state["state"], lambda rows, full_tensor: _as_part(rows, full_tensor, full_tensor)
        )
    }


def _state_of_own_rows(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return state | {"state": _of_parts(optimizer, state["state"], lambda value, _: _own_rows(local_tensor(value)))}


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Bring what was taken over into the layout of its weight: parts are in rows, whole weights channels last.

    The fused optimizers ask for it, and do not check.
    """
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)


def _of_parts(optimizer: torch.optim.Optimizer, states: dict[int, Any], change: Any) -> dict[int, Any]:
    """The state of each weight, changed where it is a tensor as large as a weight of which this process has a part."""
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
    """This process's rows, shared out as torch does it: as many to each as go round, the last have fewer or none."""
    pieces = value.chunk(world_size())
    return pieces[rank()] if rank() < len(pieces) else value[:0]


def _as_part(rows: Tensor, full_tensor: Tensor, like: DTensor) -> DTensor:
    """Rows of this process as a part of something of the shape of ``full_tensor``, shared out like ``like``."""
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(
        rows, mesh, placements, run_check=False, shape=full_tensor.shape, stride=full_tensor.stride()
    )


def _take_own_rows(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Of a whole state that is being loaded, what this process keeps."""
    for name, weight in network.named_parameters():
        value = state.get(prefix + name)
        if isinstance(weight, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor):
            state[prefix + name] = _as_part(_own_rows(value), value, weight)
