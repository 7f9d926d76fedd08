"""Which past rows are kept, and when they are looked over."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coterie.errors import BadConfig
from coterie.types import Progress


@dataclass(frozen=True)
class MemoryConfig:
    """A store of the last embeddings (SwAV's queue).

    Attributes:
        length: rows kept of each grouped view; rounded down to a multiple of the batch.
        start_epoch: the epoch that keeps the first rows; nothing is used before ``length`` rows are there.
        of: whose rows: of the student's grouped views, or of the views that the target network decides by.
    """

    length: int = 3840
    start_epoch: int = 15
    of: Literal["student", "target"] = "student"

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
    """

    rows: Tensor
    index: Tensor

    def __init__(self, length: int, slots: int, width: int, *, batch_size: int, start_epoch: int = 0) -> None:
        """An empty memory: ``slots`` grouped views, ``length`` rows (rounded down to whole batches) of ``width``."""
        super().__init__()
        if length < batch_size:
            raise BadConfig(
                f"memory.length is {length}, less than one batch of {batch_size}: "
                f"set it to {batch_size} or more, or leave the memory out"
            )
        self.length = length // batch_size * batch_size
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

    def newest(self) -> Bool[Tensor, " n"]:
        """Which of the written rows is the last of its image."""
        places = torch.arange(self.written, device=self.index.device)
        age = (places - self.pushed) % self.length  # from the oldest on
        index = self.index[: self.written]
        last = torch.full((int(index.max()) + 1,), -1, device=index.device).scatter_reduce(0, index, age, "amax")
        return last[index] == age

    def oldest_first(self, slot: int) -> Float[Tensor, "n d"]:
        """The rows of one grouped view, oldest first; only when full."""
        return self.rows[slot].roll(-(self.pushed % self.length), dims=0)

    def get_extra_state(self) -> dict[str, int]:
        """What is in the state beside the rows."""
        return {"pushed": self.pushed}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.pushed = int(state["pushed"])
