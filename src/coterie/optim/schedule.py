"""Schedules: values that change during a run, each a pure function of the progress.

Where the length of a run has changed, steps count by their place on the schedules (:meth:`coterie.types.Progress.on_schedule`).

The forms are those of the SwAV release (main_swav.py): warm-up is ``linspace(start, peak, n)`` with both ends, then
``final + (peak - final) (1 + cos(pi t / T)) / 2`` over the T remaining steps, t = 0 .. T - 1.
"""

import math
from dataclasses import dataclass, fields
from typing import final

from coterie.errors import BadConfig
from coterie.types import Progress


@final
@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    Attributes:
        value: the value.
    """

    value: float

    def at(self, progress: Progress) -> float:
        """Return the value, the same at every step (``progress`` is ignored)."""
        return self.value


@final
@dataclass(frozen=True)
class Cosine:
    """A linear warm-up from ``start`` to ``peak``, then half a cosine down to ``final``.

    Step s of S, with W warm-up steps: ``start + (peak - start) s / (W - 1)`` for s < W, then ``final + (peak - final)
    (1 + cos(pi (s - W) / (S - W))) / 2``, as in SwAV's released code (main_swav.py); cosine decay: Loshchilov and Hutter 2017,
    arXiv 1608.03983, eq. 5.

    Attributes:
        peak: value at the end of the warm-up.
        final: value that the last step falls one step short of.
        warmup_epochs: length of the warm-up in epochs, rounded to whole steps.
        start: value at step 0; unused without a warm-up.

    Raises:
        BadConfig: the warm-up is negative.
    """

    peak: float
    final: float = 0.0
    warmup_epochs: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise BadConfig(f"the warmup_epochs of a cosine are {self.warmup_epochs:g}: they cannot be negative")

    def at(self, progress: Progress) -> float:
        """Return the value at this step.

        Args:
            progress: position of the step.
        """
        step, steps = progress.on_schedule(), progress.scheduled_steps
        warmup = min(round(self.warmup_epochs * progress.steps_per_epoch), steps)
        if step < warmup:
            return self.start + (self.peak - self.start) * min(step, warmup - 1) / max(1, warmup - 1)
        fraction = (step - warmup) / max(1, steps - warmup)
        return self.final + 0.5 * (self.peak - self.final) * (1 + math.cos(math.pi * fraction))


@final
@dataclass(frozen=True)
class Linear:
    """A straight line from ``start``, which no step uses, to ``end``, which the last step uses.

    Step s of S has ``start + (end - start) (s + 1) / S``: SMoG's released code lowers beta before it uses it.

    Attributes:
        start: value one step before the first.
        end: value at the last step.
    """

    start: float
    end: float

    def at(self, progress: Progress) -> float:
        """Return the value at this step.

        Args:
            progress: position of the step.
        """
        return self.start + (self.end - self.start) * progress.on_schedule(1) / progress.scheduled_steps


Schedule = Constant | Linear | Cosine
"""All kinds of schedule."""


def extremes(schedule: Schedule) -> tuple[float, float]:
    """Return the smallest and the largest value that a schedule can take.

    Args:
        schedule: any schedule.
    """
    values = [getattr(schedule, each.name) for each in fields(schedule) if each.name != "warmup_epochs"]
    if isinstance(schedule, Cosine) and not schedule.warmup_epochs:
        values = [schedule.peak, schedule.final]
    return min(values), max(values)
