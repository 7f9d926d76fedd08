"""Start, identify and coordinate the processes of a run; every function is the identity on one process.

A run on W processes is started by torchrun: it sets ``WORLD_SIZE`` and ``RANK``, and :func:`process_group` does the rest. Each
process has its share of every batch. Only this folder knows ``torch.distributed``.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from coterie.errors import UserError
from coterie.signals import heard, interruption, is_listening, raising

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others: they wait while the first one evaluates, draws figures and writes files."""

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others to start; torchrun starts the processes of a group together."""

_T = TypeVar("_T")


_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Context of work that this process does while the others wait: in it there are no others, and no collectives."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Return the number of processes W of this run; 1 without torchrun."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, counted from 0; only process 0 writes files."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes that torchrun started, for the duration of a ``with`` block; does nothing for one process.

    Args:
        device: device of this process: NCCL connects GPUs, Gloo everything else.

    Raises:
        UserError: the processes cannot connect to each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(local_device(device))  # otherwise a plain "cuda" would be the first GPU in all of them
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))  # type: ignore[attr-defined]
        # torchrun may reuse a store after a restart: new processes must not find the addresses of dead ones
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = dist.PrefixStore(f"attempt {restarts}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=attempt, rank=number, world_size=count, timeout=COLLECTIVE_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the processes cannot connect to each other ({reason}): start them with torchrun") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Return the device of this process: ``cuda`` without a number becomes the GPU of its local rank under torchrun.

    Args:
        device: the requested device.
    """
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def wrap_ddp(student: nn.Module) -> nn.Module:
    """Wrap a module so that its gradients are averaged over the processes (DistributedDataParallel).

    Args:
        student: the trained module, on its device.

    Returns:
        The module to call in its place; ``student`` itself on one process.
    """
    if world_size() == 1:
        return student
    with warnings.catch_warnings():  # newer torch renamed an option; older torch only knows this name
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(student, broadcast_buffers=False, gradient_as_bucket_view=True)


def broadcast_object(value: _T) -> _T:
    """Return the first process's value in all processes; one collective.

    Args:
        value: any small object that can be pickled; only that of process 0 counts.
    """
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather_dict(entries: dict[int, str]) -> dict[int, str]:
    """Merge the entries of all processes; one collective.

    Args:
        entries: those of this process.

    Returns:
        The same entries in all processes; of equal keys that of the highest rank.
    """
    if world_size() == 1:
        return entries
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, entries)
    return {key: value for box in boxes for key, value in box.items()}


def largest(number: int) -> int:
    """Return the largest of the processes' numbers in all processes; one collective, between CPUs.

    Args:
        number: this process's number.
    """
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def check_interrupted_together() -> None:
    """Call this in all processes between the items of long work that all do together; one collective, if signals are noted.

    Raises:
        Interrupted: a signal asked one of the processes to stop; raised in all of them.
    """
    number = largest(heard() or 0) if is_listening() else 0
    if number:
        raise interruption(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Context of arithmetic or waiting that a signal may interrupt at any line (:func:`coterie.signals.raising`).

    Of several processes none may leave the others alone, so there it does nothing: they check together, or for themselves
    where they work for themselves.
    """
    with raising() if world_size() == 1 else nullcontext():
        yield


class Poll:
    """Agree on a number in every step at no cost: the maximum over the processes, one step late.

    It travels between the host processes (Gloo) while a step runs, so no GPU waits.
    """

    def __init__(self) -> None:
        """Create a process group of its own; all processes must do so together."""
        self._group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if world_size() > 1 else None
        self._pending: tuple[Tensor, Any] | None = None

    def __call__(self, number: int) -> int:
        """Send this process's number and return the maximum of the numbers sent at the previous call.

        Args:
            number: this process's number.

        Returns:
            The same value in all processes, 0 at the first call; on one process ``number`` itself.
        """
        if self._group is None:
            return number
        most = 0
        if self._pending is not None:
            self._pending[1].wait()
            most = int(self._pending[0])
        value = torch.tensor(number)
        self._pending = value, dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return most
