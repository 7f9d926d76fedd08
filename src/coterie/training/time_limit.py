"""A budget of time that counts from a moment, and how much of it can still be planned for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from coterie.config.duration import format_minutes

SECONDS, SHARE = 5.0, 1 / 20
"""About how long each half of a rehearsal takes, at most, also as a share of the budget."""
MARGIN = 0.03
"""Share of a budget that is not planned for."""
ENDING = 3.0
"""Seconds for the files and the page at the end."""


@dataclass(frozen=True)
class TimeLimit:
    """A budget that counts from a moment.

    Attributes:
        minutes: the budget.
        began: the clock when it began.
        clock: returns seconds from some moment on.
    """

    minutes: float
    began: float
    clock: Callable[[], float] = time.monotonic

    @property
    def used(self) -> float:
        """Seconds that are used by now."""
        return self.clock() - self.began

    @property
    def rehearsal(self) -> float:
        """Seconds that a half of a rehearsal may take."""
        return min(SECONDS, SHARE * 60 * self.minutes)

    @property
    def left(self) -> float:
        """Seconds that can still be planned for."""
        return 60 * self.minutes * (1 - MARGIN) - ENDING - self.used

    def shortest(self, seconds: float) -> str:
        """The budget that would pay for so many seconds more, as a user writes it."""
        return format_minutes((self.used + seconds + ENDING) / (1 - MARGIN) / 60)
