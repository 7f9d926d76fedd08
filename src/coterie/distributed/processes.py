"""The only module that knows torch.distributed; every function is the identity on one process.

A run on W processes is started by torchrun: it sets ``WORLD_SIZE`` and ``RANK``, and ``process_group`` does the rest. Each
process sees its share of a batch and gives the mean of its own losses; the gradients are averaged. So whatever goes through
``all_reduce_sum`` or ``all_gather`` gets back the sum of the gradients of all processes, as if one had held all rows.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from coterie.errors import UserError

WAIT = timedelta(hours=2)
"""So long a process waits for the others: the first of them judges, draws and writes while they do."""

FINDING = timedelta(minutes=10)
"""So long it waits for them to be there at all; torchrun starts the processes of a group together."""

Value = TypeVar("Value")


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0; 0 writes."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """While this lasts, the processes that torchrun started work together; nothing for one process.

    Raises:
        UserError: they cannot find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(local_device(device))  # else whatever names no GPU would meet on the first one
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=FINDING))  # type: ignore[attr-defined]
        # torchrun may use one store again and again: those who come back must not find the addresses of those who died
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = dist.PrefixStore(f"attempt {again}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=attempt, rank=number, world_size=count, timeout=WAIT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes do not find each other ({reason}): start them with torchrun") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, where a GPU is meant and none is named: that of its number on its machine."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def wrap_ddp(student: nn.Module) -> nn.Module:
    """The module whose gradients are averaged over the processes; it is called in place of ``student``."""
    if world_size() == 1:
        return student
    with warnings.catch_warnings():  # newer versions have another word for it, which older ones do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(student, broadcast_buffers=False, gradient_as_bucket_view=True)


def broadcast_object(value: Value) -> Value:
    """What the first process says (anything small that can be pickled); one collective."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather_dict(found: dict[int, str]) -> dict[int, str]:
    """The entries of all processes; one collective."""
    if world_size() == 1:
        return found
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, found)
    return {key: value for box in boxes for key, value in box.items()}


class Poll:
    """A number on which all processes agree from step to step, at no cost: the largest, as of the step before.

    It travels between the host processes while a step runs, so no GPU waits. On one process it is the number itself.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=WAIT) if world_size() > 1 else None
        self._asked: tuple[Tensor, Any] | None = None

    def __call__(self, number: int) -> int:
        """Say one's number, hear the largest that was said at the call before (0 at the first)."""
        if self._group is None:
            return number
        heard = 0
        if self._asked is not None:
            self._asked[1].wait()
            heard = int(self._asked[0])
        value = torch.tensor(number)
        self._asked = value, dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return heard
