"""Time of a training run: what it took, and how many epochs a budget pays for."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
REHEARSED_EPOCHS = 3
REHEARSAL_SECONDS = 30.0
"""A rehearsal ends with its third epoch, or with its second if that comes after so many seconds."""


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
        epochs: what was spent at the end of each epoch.
        last: what was spent at the last step.
        steps: taken so far.
    """

    rehearsal: bool
    epochs: list[Spent] = field(default_factory=list)
    last: Spent = field(default_factory=lambda: Spent(0, 0))
    steps: int = 0
    start: Spent = field(default_factory=now)

    def tick(self, steps: int, steps_per_epoch: int) -> None:
        """So many steps have been taken in all."""
        self.last, self.steps = now() - self.start, steps
        if steps % steps_per_epoch:
            return
        self.epochs.append(self.last)
        late = self.last.wall > REHEARSAL_SECONDS and len(self.epochs) >= REHEARSED_EPOCHS - 1
        if self.rehearsal and (late or len(self.epochs) >= REHEARSED_EPOCHS):
            raise Enough

    def paid_epochs(self, budget: float, clock: str, cores: int) -> int:
        """The whole epochs that ``budget`` seconds pay for, after this rehearsal; at least one.

        What comes before the second epoch (starting, filling a memory) is paid once, every later epoch costs the same.
        """
        times = [each.by(clock, cores) for each in self.epochs]
        each = (times[-1] - times[0]) / (len(times) - 1)
        return max(1, int((1.01 * budget - times[0]) / each) + 1)
