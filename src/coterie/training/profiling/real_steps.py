"""Times the first real steps of a run, as they end."""

import time
from statistics import median

MOST_STEPS, MOST_SECONDS, LEAST_STEPS = 20, 30.0, 2
SLOWER = 3.0
"""An interval of more than this times the median held something else than a step: a refresh, an evaluation."""
WARM_UP_SECONDS = 10.0


class RealSteps:
    """The time from one step to the next, from the moments at which some of them ended.

    Attributes:
        timed: number of steps that were timed.
    """

    def __init__(self, warm_up: int, start: int) -> None:
        """Leave out the first ``warm_up`` steps after step ``start``, or those of the first ten seconds, but at least one."""
        self.warm_up, self.start = warm_up, start
        self._began: float | None = None
        self._marks: list[tuple[int, float]] = []

    def mark(self, steps: int) -> None:
        """So many steps have ended now."""
        now = time.perf_counter()
        if self._began is None:
            self._began = now
        if self._marks or steps - self.start >= self.warm_up or now - self._began >= WARM_UP_SECONDS:
            self._marks.append((steps, now))

    @property
    def timed(self) -> int:
        """Number of steps between the first mark and the last."""
        return self._marks[-1][0] - self._marks[0][0] if self._marks else 0

    def typical(self, *, last: bool = False) -> float | None:
        """Mean time of a step, once there are twenty or thirty seconds of them, or a few and the run is over; else None."""
        if self.timed < LEAST_STEPS:
            return None
        if self.timed < MOST_STEPS and self._marks[-1][1] - self._marks[0][1] < MOST_SECONDS and not last:
            return None
        pairs = zip(self._marks, self._marks[1:], strict=False)
        each = [((later - before) / (to - since), to - since) for (since, before), (to, later) in pairs]
        usual = SLOWER * median(time for time, _ in each)
        kept = [(time, steps) for time, steps in each if time <= usual]
        return sum(time * steps for time, steps in kept) / sum(steps for _, steps in kept)
