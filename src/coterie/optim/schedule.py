"""Values that change as a run goes on; each is a pure function of the progress.

The forms are those of the SwAV release (main_swav.py): warm-up is ``linspace(start, peak, n)`` with both ends, then
``final + (peak - final) (1 + cos(pi t / T)) / 2`` over the T remaining steps, t = 0 .. T - 1.
"""

import math
from dataclasses import dataclass, fields

from coterie.errors import BadConfig
from coterie.types import Progress


@dataclass(frozen=True)
class Constant:
    """One value throughout."""

    value: float

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        return self.value


@dataclass(frozen=True)
class Cosine:
    """A linear warm-up from ``start`` to ``peak`` over ``warmup_epochs``, then half a cosine down to ``final``."""

    peak: float
    final: float = 0.0
    warmup_epochs: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise BadConfig(f"learning_rate.warmup_epochs is {self.warmup_epochs:g}: it cannot be negative")

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        warmup = min(round(self.warmup_epochs * progress.steps_per_epoch), progress.total_steps)
        if progress.step < warmup:
            return self.start + (self.peak - self.start) * progress.step / max(1, warmup - 1)
        fraction = (progress.step - warmup) / max(1, progress.total_steps - warmup)
        return self.final + 0.5 * (self.peak - self.final) * (1 + math.cos(math.pi * fraction))


@dataclass(frozen=True)
class Linear:
    """A straight line from ``start``, which no step uses, to ``end``, which the last one does.

    SMoG's release lowers beta before it uses it: step s of S has ``start + (end - start) (s + 1) / S``.
    """

    start: float
    end: float

    def at(self, progress: Progress) -> float:
        """The value at this step."""
        return self.start + (self.end - self.start) * (progress.step + 1) / progress.total_steps


Schedule = Constant | Linear | Cosine


def extremes(schedule: Schedule) -> tuple[float, float]:
    """The least and the greatest value that a schedule can take."""
    values = [getattr(schedule, each.name) for each in fields(schedule) if each.name != "warmup_epochs"]
    if isinstance(schedule, Cosine) and not schedule.warmup_epochs:
        values = [schedule.peak, schedule.final]
    return min(values), max(values)
