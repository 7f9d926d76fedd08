"""Time of a training run: what it took, and how many epochs a budget pays for."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
REHEARSED_EPOCHS = 3
REHEARSAL_SECONDS = (10.0, 30.0)
"""A rehearsal ends with its third epoch or a later one, after so many seconds at least; or with its second if that comes after
the other number of seconds. It sees one whole period from one refresh to the next."""


class Enough(Exception):  # noqa: N818
    """The rehearsal has seen what it wanted to see."""


@dataclass(frozen=True)
class Spent:
    """Seconds since some moment, by the clock on the wall and of all processors (this process and its children)."""

    wall: float
    cpu: float

    def __sub__(self, other: Self) -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def by(self, clock: str, cores: int) -> float:
        """The budget's seconds: the wall's, or the processors' shared among the cores."""
        return self.wall if clock == "wall" else self.cpu / cores


def now() -> Spent:
    return Spent(time.perf_counter(), cpu_seconds(os.getpid()))


def cpu_seconds(process: int) -> float:
    """User and system time of a process, of its children that have ended and of those that live."""
    try:
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        children = [each.read_text() for each in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return 0.0
    own = sum(map(int, numbers[11:15])) / TICKS
    return own + sum(cpu_seconds(int(child)) for line in children for child in line.split())


@dataclass
class Clock:
    """Is told of each step; a rehearsal's says when it is enough.

    Attributes:
        rehearsal: whether to stop early.
        period: epochs from one refresh of groups and labels to the next.
        epochs: what was spent at the end of each epoch.
        last: what was spent at the last step.
        steps: taken so far.
        steps_per_epoch: of the run.
    """

    rehearsal: bool
    period: int = 1
    epochs: list[Spent] = field(default_factory=list)
    last: Spent = field(default_factory=lambda: Spent(0, 0))
    steps: int = 0
    steps_per_epoch: int = 0
    start: Spent = field(default_factory=now)

    def tick(self, steps: int, steps_per_epoch: int) -> None:
        """So many steps have been taken in all."""
        self.last, self.steps, self.steps_per_epoch = now() - self.start, steps, steps_per_epoch
        if steps % steps_per_epoch:
            return
        self.epochs.append(self.last)
        if self.rehearsal and self.enough():
            raise Enough

    def enough(self) -> bool:
        """Whether the epochs so far tell what every later one costs."""
        least, late = REHEARSAL_SECONDS
        wanted = REHEARSED_EPOCHS - (self.last.wall > late)
        return len(self.epochs) >= max(wanted, self.period + 1) and self.last.wall >= least

    def paid_epochs(self, budget: float, clock: str, cores: int) -> int:
        """The whole epochs that ``budget`` seconds pay for, after this rehearsal; at least one.

        What comes before the second epoch (starting, filling a memory) is paid once; every later period costs the same.
        """
        times = [each.by(clock, cores) for each in self.epochs]
        seen = (len(times) - 1) // self.period * self.period  # whole periods
        each = (times[seen] - times[0]) / seen
        return max(1, int((1.01 * budget - times[0]) / each) + 1)
