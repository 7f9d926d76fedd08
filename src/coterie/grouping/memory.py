"""Which past rows are kept."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coterie.errors import BadConfig
from coterie.types import Progress


@dataclass(frozen=True)
class MemoryConfig:
    """A store of the last embeddings (SwAV's queue).

    Attributes:
        length: rows kept of each grouped view; rounded down to a multiple of the batch.
        start_epoch: the epoch that keeps the first rows; nothing is used before ``length`` rows are there.
    """

    length: int = 3840
    start_epoch: int = 15

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadConfig(
                f"memory.length is {self.length}: it must be at least 1 (leave the memory out to have none)"
            )
        if self.start_epoch < 0:
            raise BadConfig(f"memory.start_epoch is {self.start_epoch}: it cannot be negative")


class Memory(nn.Module):
    """The last rows of each grouped view, first in first out, with the indices of their images.

    SwAV's queue (appendix A.6): rows that help a small batch to be balanced over many groups. Their scores are made anew with
    the present centers at each step.
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

    def oldest_first(self, slot: int) -> Float[Tensor, "n d"]:
        """The rows of one grouped view, oldest first; only when full."""
        return self.rows[slot].roll(-(self.pushed % self.length), dims=0)

    def get_extra_state(self) -> dict[str, int]:
        """What is in the state beside the rows."""
        return {"pushed": self.pushed}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.pushed = int(state["pushed"])
