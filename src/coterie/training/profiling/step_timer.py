"""Times the steps of a loop that takes its batches from an iterator."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from coterie.training.profiling.process_memory import worker_bytes
from coterie.training.profiling.threads import still_worth_trying
from coterie.types import Batch, Progress

WARM_UP = 4
TICKS = 20
"""Into how many ticks the progress of a rehearsal or a profile is divided."""

Stream = Iterator[tuple[Progress, Batch]]
Item = TypeVar("Item")
Tick = Callable[[float], None]
"""Told of the share of the time that has passed, after each step."""


class StepTimer:
    """Passes on batches until time is up or there were enough, and times what is done with each.

    Attributes:
        waits: time that each batch was waited for; all of loading it where there are no workers.
        works: time of the step that followed.
        cpu: CPU time of all threads of this process during that step.
        used: the number of CPU threads of that step.
        workers: memory of the loader processes in addition to this one's.
    """

    def __init__(
        self,
        seconds: float,
        most: int,
        device: torch.device,
        tick: Tick = lambda share: None,
        *,
        least: int = 1,
        threads: Sequence[int] = (),
    ) -> None:
        """Pass on batches for so many seconds, but at least ``least`` and at most ``most``.

        The steps take turns with the numbers of CPU ``threads``, so that whatever else the machine does meets them alike.
        """
        self.threads = threads
        self.seconds, self.least, self.most, self.device, self.tick = seconds, least, most, device, tick
        self.waits: list[float] = []
        self.works: list[float] = []
        self.cpu: list[float] = []
        self.used: list[int] = []
        self.workers = 0

    def over(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Pass on the batches."""
        began = asked = time.perf_counter()
        for item in batches:
            self._take_turn()
            came, busy = time.perf_counter(), time.process_time()
            yield item
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            done = time.perf_counter()
            self.waits.append(came - asked)
            self.works.append(done - came)
            self.cpu.append(time.process_time() - busy)
            asked = done
            share = max(len(self.works) / self.most, (done - began) / self.seconds if self.seconds > 0 else 1.0)
            self.tick(min(1.0, share))
            if len(self.works) % 5 == 1 or share >= 1:
                self.workers = max(self.workers, worker_bytes())
            if share >= 1 and len(self.works) >= self.least:
                break

    def _take_turn(self) -> None:
        """Set the threads of the next step: a, b, b, a and so on, as long as they may be the fastest."""
        if len(self.used) >= len(self.threads) > 1:
            works = [self.of(number).works for number in self.threads]
            same = min(map(len, works))  # the first step of each is slow for other reasons
            best = {number: min(each[:same]) for number, each in zip(self.threads, works, strict=True)}
            self.threads = still_worth_trying(best)
        turns = [*self.threads, *reversed(self.threads)] or [torch.get_num_threads()]
        self.used.append(turns[len(self.used) % len(turns)])
        if self.used[-1] != torch.get_num_threads():
            torch.set_num_threads(self.used[-1])

    def of(self, threads: int) -> "StepTimer":
        """The times of the steps with so many threads."""
        found = copy.copy(self)
        for name in ("waits", "works", "cpu"):
            each = zip(getattr(self, name), self.used, strict=False)  # a step that was not finished has no times
            setattr(found, name, [time for time, used in each if used == threads])
        return found

    @property
    def typical(self) -> float:
        """Mean time from one batch to the next."""
        return self.typical_wait + self.typical_work

    @property
    def typical_wait(self) -> float:
        """Mean time that a batch is waited for."""
        return _typical(self.waits)

    @property
    def typical_work(self) -> float:
        """Mean time of a step once its batch is there."""
        return _typical(self.works)

    @property
    def typical_cpu(self) -> float:
        """Mean CPU time of a step once its batch is there."""
        return _typical(self.cpu)

    @property
    def first(self) -> float:
        """By how much the first step was slower, while workers started."""
        return max(0.0, self.waits[0] + self.works[0] - self.typical) if self.works else 0.0


def _typical(times: list[float]) -> float:
    """Mean time without the warm-up; not the median, because what delays some steps here delays some of the run's too."""
    kept = times[min(WARM_UP, len(times) // 2) :] or [0.0]
    return sum(kept) / len(kept)
