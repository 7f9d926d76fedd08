"""The memory of past embeddings (SwAV's queue, DeepCluster-v2's memory bank) and the rule for its refreshes."""

from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from coterie.distributed.collectives import all_gather, all_reduce_sum
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig
from coterie.types import Progress


@final
@dataclass(frozen=True)
class MemoryConfig:
    """Settings of :class:`Memory`; the defaults are those of SwAV's queue for a batch of 256.

    Caron et al. 2020 (SwAV, arXiv 2006.09882), appendix A.6, and its released scripts: 3,840 rows from epoch 15.

    Attributes:
        length: number of rows kept per grouped view, over all processes; rounded down to a multiple of the batch size.
        start_epoch: first epoch, counted from 0, whose rows are kept; nothing is used before ``length`` rows are there.
        rows_from: keep the embeddings of the student's grouped views or those of the target network's target views.

    Raises:
        BadConfig: the length is below 1 or the epoch is negative.
    """

    length: int = 3840
    start_epoch: int = 15
    rows_from: Literal["student", "target"] = "student"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadConfig(f"memory.length is {self.length}: it must be at least 1 (for no memory, leave it out)")
        if self.start_epoch < 0:
            raise BadConfig(f"memory.start_epoch is {self.start_epoch}: it cannot be negative (0: the first epoch)")


@final
@dataclass(frozen=True)
class Refresh:
    """When to recompute groups from the memory, and what else happens then.

    A refresh recomputes k-means and momentum groups by k-means of the memory. DeepCluster-v2 (Caron et al. 2020, arXiv
    2006.09882, appendix D.2) and SMoG (released code) refresh at the start of every epoch.

    Attributes:
        every_epochs: number of epochs from one refresh to the next; the first is at the start of the run.
        every_steps: number of steps from one refresh to the next, which replaces ``every_epochs``; 0: count epochs.
        labels: keep the group of each image of the memory as its target until the next refresh (DeepCluster-v2, SeLa-v2).
        reset_teacher: copy the student's weights into the momentum teacher (SMoG).

    Raises:
        BadConfig: there is less than one epoch from one refresh to the next, or the number of steps is negative.
    """

    every_epochs: int = 1
    every_steps: int = 0
    labels: bool = False
    reset_teacher: bool = False

    def __post_init__(self) -> None:
        if self.every_epochs < 1:
            raise BadConfig(
                f"refresh.every_epochs is {self.every_epochs}: it must be at least 1 (for no refresh, leave refresh out)"
            )
        if self.every_steps < 0:
            raise BadConfig(f"refresh.every_steps is {self.every_steps}: it cannot be negative (0: count epochs)")

    def due(self, progress: Progress) -> bool:
        """Return whether a refresh is due before this step.

        Args:
            progress: position of the step.
        """
        if self.every_steps:
            return progress.step % self.every_steps == 0
        return progress.step_in_epoch == 0 and progress.epoch % self.every_epochs == 0


@final
class Memory(nn.Module):
    """The most recent embeddings of each grouped view, first in first out, with the indices of their images.

    It serves as SwAV's queue (Caron et al. 2020, arXiv 2006.09882, appendix A.6: rows that help to balance a small batch over
    many groups; their scores are recomputed with the current centers at each step), as SMoG's cache and as DeepCluster-v2's
    memory bank, which both hold one epoch.

    Each of W processes keeps the rows of its own images. What is saved, and what a refresh reads, is in the order in which one
    process would have kept them: batch by batch, and process by process within a batch. So a run can resume with any number of
    processes.

    Attributes:
        rows: embeddings of this process ``[G, N / W, D]``, one slot per grouped view; float32 unless converted.
        index: position in the source of the image of each row ``[N / W]``; -1 where nothing was written yet.
        length: number of rows per slot of this process, N / W.
        share: number of rows of this process in one batch.
        pushed: number of rows pushed to each slot by this process so far.
    """

    rows: Tensor
    index: Tensor

    def __init__(self, length: int, slots: int, width: int, *, batch_size: int, start_epoch: int = 0) -> None:
        """Allocate an empty memory.

        Args:
            length: number of rows N per slot over all processes; rounded down to whole batches.
            slots: number of grouped views G.
            width: width D of the embeddings.
            batch_size: number of images per step over all processes; a multiple of the number of processes.
            start_epoch: first epoch, counted from 0, whose rows are kept.

        Raises:
            BadConfig: the length is less than one batch.
        """
        super().__init__()
        if length < batch_size:
            raise BadConfig(
                f"memory.length is {length}, less than the batch of {batch_size}: "
                f"set it to {batch_size} or more, or leave the memory out"
            )
        self.share = batch_size // world_size()
        self.length = length // batch_size * self.share
        self.start_epoch = start_epoch
        self.pushed = 0  # on the host, so that reading it does not wait for the device
        self.register_buffer("rows", torch.zeros(slots, self.length, width))
        self.register_buffer("index", torch.full((self.length,), -1, dtype=torch.int64))

    @property
    def full(self) -> bool:
        """Whether every place has been written; a queue is not used before that."""
        return self.pushed >= self.length

    @torch.no_grad()
    def push(self, z: Float[Tensor, "g b d"], index: Int[Tensor, " b"], progress: Progress) -> None:
        """Overwrite the oldest rows with a batch of embeddings; does nothing before ``start_epoch``.

        Args:
            z: embeddings of the grouped views of this process's images.
            index: position of each image in its source.
            progress: position of the step.
        """
        if progress.epoch < self.start_epoch:
            return
        start = self.pushed % self.length
        end = start + len(index)
        self.rows[:, start:end] = z.to(self.rows.dtype)
        self.index[start:end] = index
        self.pushed += len(index)

    @property
    def written(self) -> int:
        """Number of rows per slot of this process that have been written."""
        return min(self.pushed, self.length)

    def in_order(self, own: Tensor, dim: int = 0) -> Tensor:
        """Gather one value per written place from all processes, in the order in which one process keeps its rows.

        Args:
            own: values of this process's written places, along ``dim``.
            dim: dimension of the places.

        Returns:
            The values of all places, with W times as many along ``dim``; one collective.
        """
        batches = torch.unflatten(own, dim, (-1, self.share))
        return all_gather(batches).movedim(0, dim + 1).flatten(dim, dim + 2)

    def at(self, slot: int, places: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Return rows of one slot to all processes; one collective.

        Args:
            slot: number of the grouped view.
            places: places of the rows, in the order in which one process keeps its rows; the same in all processes.

        Returns:
            The rows at these places.
        """
        batch, inside = places // (self.share * world_size()), places % (self.share * world_size())
        own = batch * self.share + inside % self.share
        mine = (inside // self.share == rank()).to(self.rows.dtype)
        return all_reduce_sum(self.rows[slot, own] * mine[:, None])

    def newest(self, index: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Return which of the written rows is the most recent one of its image.

        Args:
            index: image of each written row of all processes, as :meth:`in_order` gathers them.

        Returns:
            True for the most recent row of each image.
        """
        places = torch.arange(len(index), device=index.device)
        pushed, length = self.pushed * world_size(), self.length * world_size()
        age = (places - pushed) % length  # 0 for the oldest row of a full memory
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
        """Return the part of the state that is not a tensor: how many rows all processes pushed to each slot."""
        return {"pushed": self.pushed * world_size()}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what :meth:`get_extra_state` returned.

        Args:
            state: as returned, possibly by another number of processes.
        """
        self.pushed = int(state["pushed"]) // world_size()
