"""What processes say to each other: every collective of this process, what it is for, its bytes, when it began and ended.

Functions of torch.distributed are wrapped, and the caller's file says what a collective is for. The gradients' go through
DDP's C++ and are not seen so: torch's own ``allreduce_hook``, registered on the module, does the same in Python, through the
wrapped function. Clocks are the system's monotonic ones, so that processes of one machine can be compared.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

GRADIENTS, FORWARD, BACKWARD = "gradients", "batch norm, forward", "batch norm, backward"
CALLERS = {
    "default_hooks.py": GRADIENTS,
    "sync_batch_norm.py": FORWARD,
    "sinkhorn.py": "Sinkhorn",
    "kmeans.py": "groups",
    "loss.py": "labels",
    "checkpoint_schedule.py": "save or stop",
    "monitor.py": "log",
}
CALLS = ("all_reduce", "all_gather")
FLOAT = 4  # bytes


@dataclass
class Note:
    """One collective: bytes that this process handed in, and seconds of the system's monotonic clock."""

    what: str
    sent: int
    began: float
    ended: float = 0.0

    def end(self, *_: object) -> None:
        """It is over now."""
        self.ended = time.monotonic()


class Notes:
    """The collectives of this process, step by step."""

    def __init__(self) -> None:
        """Nothing is noted outside of :meth:`taken`."""
        self.steps: list[list[Note]] = []
        self._now: list[Note] = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While this lasts, every collective is noted."""
        before = {name: getattr(dist, name) for name in CALLS}
        for name in CALLS:
            setattr(dist, name, self._noting(before[name]))
        try:
            yield
        finally:
            for name in CALLS:
                setattr(dist, name, before[name])

    def _noting(self, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            sent: torch.Tensor = given[0] if isinstance(given[0], torch.Tensor) else given[1]
            note = Note(_purpose(), sent.numel() * sent.element_size(), time.monotonic())
            self._now.append(note)
            work = function(*given, **named)
            if named.get("async_op"):
                work.get_future().add_done_callback(note.end)
            else:
                note.end()
            return work

        return call

    def cut(self, *_: object) -> None:
        """A step is over (an observer of ``fit``)."""
        self.steps.append(self._now)
        self._now = []

    def as_lists(self) -> list[list[dict[str, Any]]]:
        """For JSON."""
        return [[asdict(note) for note in step] for step in self.steps]


def seen(student: nn.Module) -> nn.Module:
    """The module that averages its gradients, by torch's own hook in Python; any other as it is."""
    if isinstance(student, DistributedDataParallel):
        student.register_comm_hook(None, allreduce_hook)
    return student


def _purpose() -> str:
    """By the nearest caller that is known."""
    frame = sys._getframe(2)
    while frame is not None:
        what = CALLERS.get(Path(frame.f_code.co_filename).name)
        if what is not None:
            return BACKWARD if what == FORWARD and frame.f_code.co_name == "backward" else what
        frame = frame.f_back  # type: ignore[assignment]
    return "other"


def counts(steps: Sequence[Iterable[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Collectives and bytes of a step by what they are for, from the notes of one process; of the log, of a line."""
    found: dict[str, dict[str, float]] = {}
    for note in (note for step in steps for note in step):
        entry = found.setdefault(note["what"], {"collectives": 0, "bytes": 0})
        entry["collectives"] += 1
        entry["bytes"] += note["sent"]
    for what, entry in found.items():
        times = 1 if what == "log" else len(steps)  # the noted steps are one line's
        entry.update({name: value / times for name, value in entry.items()})
    return found


def on_gpus(batch_norm: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """What torch's SyncBatchNorm would say in place of ours.

    torch/nn/modules/_functions.py: forward one ``all_gather`` of mean, inverse deviation and count, 2C + 1 numbers; backward
    one ``all_reduce`` of two sums, 2C numbers. Ours: forward 2C numbers of twice the size, backward the same.
    """
    layers, size = batch_norm[FORWARD]["collectives"], batch_norm[FORWARD]["bytes"]
    return {FORWARD: {"collectives": layers, "bytes": size / 2 + FLOAT * layers}, BACKWARD: batch_norm[BACKWARD]}


def waits(processes: Sequence[Sequence[Sequence[dict[str, Any]]]]) -> dict[str, dict[str, float]]:
    """Seconds of a step that processes spend in collectives, by what they are for; the mean over processes and steps.

    ``for_the_other``: until the last of them had come; ``talking``: from then on. The gradients travel while the backward pass
    goes on: theirs are counted from the last part handed in.
    """
    found: dict[str, dict[str, float]] = {}
    steps = list(zip(*processes, strict=True))
    for step in steps:
        purposes = {note["what"] for own in step for note in own}
        for what in purposes:
            notes = [[note for note in own if note["what"] == what] for own in step]
            if what == GRADIENTS:
                notes = [[_last_part(own)] for own in notes]
            entry = found.setdefault(what, {"for_the_other": 0.0, "talking": 0.0})
            for together in zip(*notes, strict=True):
                latest = max(note["began"] for note in together)
                for note in together:
                    share = 1 / len(together) / len(steps)
                    entry["for_the_other"] += share * (latest - note["began"])
                    entry["talking"] += share * max(0.0, note["ended"] - latest)
    return found


def _last_part(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"began": max(note["began"] for note in notes), "ended": max(note["ended"] for note in notes)}
