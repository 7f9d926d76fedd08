"""An estimate of the time that is left, from the second step on."""

import time
from collections.abc import Callable

REMEMBERED = 200
"""About so many of the latest steps make up the estimate, or a twentieth of all steps if that is more."""
PAUSES_COUNT = 0.1
"""After this share of the steps, the pauses so far are taken to go on like that."""


class TimeLeft:
    """Estimates the time left from the time of each step and from the pauses between steps.

    The first step of a process is slow (workers start, memory is allocated), so it does not count. One long pause early on,
    such as an evaluation, says little about the rest; pauses count in proportion once a tenth of the steps is done.
    """

    def __init__(self, total: int, done: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with ``done`` of ``total`` steps done, which this process did not do."""
        self.total, self.started, self.done, self.clock = total, done, done, clock
        self.began = self.latest = clock()
        self._step: float | None = None  # a moving mean, in seconds
        self._counted = 0
        self._working = 0.0
        self._counting_since = self.began

    def step(self, done: int, seconds: float | None = None) -> None:
        """Count a step.

        Args:
            done: steps that are done by now.
            seconds: how long the step took; None: all the time since the step before.
        """
        now = self.clock()
        took = now - self.latest if seconds is None else seconds
        self.done, self.latest = done, now
        self._counted += 1
        if self._counted == 1:
            self._counting_since = now
            return
        self._working += took
        weight = max(1 / (self._counted - 1), 1 / max(REMEMBERED, self.total / 20))
        self._step = took if self._step is None else self._step + weight * (took - self._step)

    def seconds(self) -> float | None:
        """The seconds left; None before the second step of this process."""
        if self._step is None:
            return None
        steps = self._counted - 1
        pauses = max(0.0, self.latest - self._counting_since - self._working)
        own = self.total - self.started
        each = self._step + (pauses / steps if steps >= PAUSES_COUNT * own else 0.0)
        since = min(self.clock() - self.latest, each)  # more than that is a pause, which does not bring the end nearer
        return max(0.0, (self.total - self.done) * each - since)

    @property
    def elapsed(self) -> float:
        """The seconds since the start."""
        return self.clock() - self.began

    def text(self) -> str:
        """The time left as a text, such as ``0:12:05 left``; empty before the second step."""
        seconds = self.seconds()
        return "" if seconds is None else f"{clock_time(seconds)} left"


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``0:12:05``; from 100 hours on days and hours, such as ``5 days 3 h``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours >= 100:
        return f"{hours // 24} days {hours % 24} h"
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
