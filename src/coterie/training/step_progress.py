"""Tells the logger of a run about every step, and how long it took."""

import time
from collections.abc import Iterable, Iterator

from coterie.logger import Logger, StepLogger
from coterie.types import Batch, Progress, StepResult


class StepProgress:
    """Hooks of the training loop: ``done`` belongs before the callbacks, ``resumed`` after them.

    So the logger hears of a step before slow work starts, and that work does not count as a part of the next step.
    """

    def __init__(self, logger: Logger) -> None:
        """Tell this logger, if it wants to hear of steps."""
        self.log_step = logger.log_step if isinstance(logger, StepLogger) else None
        self.since = time.perf_counter()

    def starting(self, batches: Iterable[tuple[Progress, Batch]], first: Progress) -> Iterator[tuple[Progress, Batch]]:
        """Pass on the batches; when the first one is asked for, its step begins."""
        self.since = time.perf_counter()
        if self.log_step is not None:
            self.log_step(first, None)
        yield from batches

    def done(self, progress: Progress, result: StepResult) -> None:
        """A step is done."""
        if self.log_step is not None:
            self.log_step(progress, time.perf_counter() - self.since)

    def resumed(self, progress: Progress, result: StepResult) -> None:
        """What follows a step is done."""
        self.since = time.perf_counter()
