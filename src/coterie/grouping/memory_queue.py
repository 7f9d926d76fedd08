"""Which past rows are kept, and when they are looked over."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coterie.distributed.collectives import all_gather, all_reduce_sum
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig
from coterie.types import Progress


@dataclass(frozen=True)
class MemoryConfig:
    """A store of the last embeddings (SwAV's queue).

    Attributes:
        length: rows kept of each grouped view; rounded down to a multiple of the batch.
        start_epoch: the epoch that keeps the first rows; nothing is used before ``length`` rows are there.
        rows_from: whose rows: of the student's grouped views, or of the views that the target network decides by.
    """

    length: int = 3840
    start_epoch: int = 15
    rows_from: Literal["student", "target"] = "student"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadConfig(
                f"memory.length is {self.length}: it must be at least 1 (leave the memory out to have none)"
            )
        if self.start_epoch < 0:
            raise BadConfig(f"memory.start_epoch is {self.start_epoch}: it cannot be negative")


@dataclass(frozen=True)
class Refresh:
    """The rule by which the memory is looked over: k-means and momentum groups are found anew in it.

    Attributes:
        every_epochs: epochs between two refreshes; the first is at the start of the run.
        every_steps: steps between two refreshes, in place of epochs; 0: by epochs.
        labels: keep the group of each image of the memory as its target until the next refresh (DeepCluster-v2, SeLa-v2).
        reset_teacher: the momentum teacher becomes the student (SMoG).
    """

    every_epochs: int = 1
    every_steps: int = 0
    labels: bool = False
    reset_teacher: bool = False

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.every_steps < 0:
            raise BadConfig("refresh: every_epochs must be at least 1, and every_steps at least 1 (or 0: by epochs)")

    def due(self, progress: Progress) -> bool:
        """Whether it is time, before this step."""
        if self.every_steps:
            return progress.step % self.every_steps == 0
        return progress.step_in_epoch == 0 and progress.epoch % self.every_epochs == 0


class Memory(nn.Module):
    """The last rows of each grouped view, first in first out, with the indices of their images.

    One store for SwAV's queue (appendix A.6: rows that help a small batch to be balanced over many groups; their scores are
    made anew with the present centers at each step), for SMoG's cache and for the memory bank of DeepCluster-v2, which are
    one epoch long.

    Of W processes each keeps the rows of its own images. What is saved, and what a refresh asks for, is in the order in which
    one process would have kept them: batch by batch, and in a batch process by process; so a run goes on with any number.
    """

    rows: Tensor
    index: Tensor

    def __init__(self, length: int, slots: int, width: int, *, batch_size: int, start_epoch: int = 0) -> None:
        """An empty memory: ``slots`` grouped views, ``length`` rows (rounded down to whole batches) of ``width``.

        ``length`` and ``batch_size`` are those of all processes together.
        """
        super().__init__()
        if length < batch_size:
            raise BadConfig(
                f"memory.length is {length}, less than one batch of {batch_size}: "
                f"set it to {batch_size} or more, or leave the memory out"
            )
        self.share = batch_size // world_size()  # rows of this process in a batch
        self.length = length // batch_size * self.share
        self.start_epoch = start_epoch
        self.pushed = 0  # rows of each slot pushed so far; on the host, so that asking for it waits for no device
        self.register_buffer("rows", torch.zeros(slots, self.length, width))
        self.register_buffer("index", torch.full((self.length,), -1, dtype=torch.int64))

    @property
    def full(self) -> bool:
        """Whether every place has been written; before that the memory is not used."""
        return self.pushed >= self.length

    @torch.no_grad()
    def push(self, z: Float[Tensor, "g b d"], index: Int[Tensor, " b"], progress: Progress) -> None:
        """Keep a batch of embeddings of each grouped view in place of the oldest; nothing before ``start_epoch``."""
        if progress.epoch < self.start_epoch:
            return
        start = self.pushed % self.length
        end = start + len(index)
        self.rows[:, start:end] = z.to(self.rows.dtype)
        self.index[start:end] = index
        self.pushed += len(index)

    @property
    def written(self) -> int:
        """Rows of each slot that are there."""
        return min(self.pushed, self.length)

    def in_order(self, own: Tensor, dim: int = 0) -> Tensor:
        """What each process has for its written places, for all places in the order of one process; a collective."""
        batches = torch.unflatten(own, dim, (-1, self.share))
        return all_gather(batches).movedim(0, dim + 1).flatten(dim, dim + 2)

    def at(self, slot: int, places: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The rows of one slot at places in the order of one process, for all processes; a collective."""
        batch, inside = places // (self.share * world_size()), places % (self.share * world_size())
        own = batch * self.share + inside % self.share
        mine = (inside // self.share == rank()).to(self.rows.dtype)
        return all_reduce_sum(self.rows[slot, own] * mine[:, None])

    def newest(self, index: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which of the written rows is the last of its image; ``index`` holds the images of all, in order."""
        places = torch.arange(len(index), device=index.device)
        pushed, length = self.pushed * world_size(), self.length * world_size()
        age = (places - pushed) % length  # from the oldest on
        last = torch.full((int(index.max()) + 1,), -1, device=index.device).scatter_reduce(0, index, age, "amax")
        return last[index] == age

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "rows"] = self.in_order(self.rows, 1)
        destination[prefix + "index"] = self.in_order(self.index)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        own = dict(state_dict)
        for name, dim in (("rows", 1), ("index", 0)):
            batches = torch.unflatten(state_dict[prefix + name], dim, (-1, world_size(), self.share))
            own[prefix + name] = batches.select(dim + 1, rank()).flatten(dim, dim + 1)
        super()._load_from_state_dict(own, prefix, *others)

    def get_extra_state(self) -> dict[str, int]:
        """What is in the state beside the rows: how many of all processes were pushed."""
        return {"pushed": self.pushed * world_size()}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.pushed = int(state["pushed"]) // world_size()
