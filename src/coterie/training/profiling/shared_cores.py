"""Says once that a run has become slow because another process is using the cores."""

import time
from statistics import median

import torch

from coterie.training.callback import Callback, RunContext
from coterie.training.profiling.cores import CoreUse, core_times, core_use
from coterie.training.profiling.first_lines import format_seconds
from coterie.types import Progress, StepResult

WINDOW_SECONDS, WINDOW_STEPS = 20.0, 5
"""Steps are judged together, at least so many and for so long: neither a pause nor a snapshot is a slow run."""
WARM_UP_STEPS = 4
SLOWER = 2.0
"""How many times as long as at first a step must take."""
MORE_CORES = 0.5
"""How many more cores than at first others must use."""
FULL = 0.85
"""Share of the cores that is used when they are what a step waits for, and not a disk or a store."""


class SharedCoresCallback(Callback):
    """Compares the steps of a run on a CPU, and the use of the cores during them, with those of its first window.

    The first steps of a run are slow, and so are left out. After the line, which is logged once, nothing is compared any more.
    """

    name = "shared_cores"
    on_error = "continue"

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self._left_out, self._said = WARM_UP_STEPS, False
        self._first: tuple[float, CoreUse] | None = None
        self._began = self._last = 0.0
        self._open()

    def on_start(self, run: RunContext) -> None:
        """Keep the logger."""
        self._logger = run.logger

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        """Note when the step ended; judge a window that is full."""
        now = time.monotonic()
        if self._said or self._left_out:
            self._left_out = max(0, self._left_out - 1)
            if not self._left_out and not self._said:
                self._open()
            return
        self._steps.append(now - self._last)
        self._last = now
        if len(self._steps) >= WINDOW_STEPS and now - self._began >= WINDOW_SECONDS:
            self._close()

    def _open(self) -> None:
        self._began = self._last = time.monotonic()
        self._steps: list[float] = []
        self._before = core_times()

    def _close(self) -> None:
        step, after = median(self._steps), core_times()
        if self._before is not None and after is not None:
            use = core_use(self._before, after)
            if self._first is None:
                self._first = step, use
            elif (line := slow_line(*self._first, step, use, torch.get_num_threads())) is not None:
                self._said = True
                self._logger.warning(line)
        self._open()


def slow_line(first: float, use_at_first: CoreUse, now: float, use: CoreUse, threads: int) -> str | None:
    """A line about another process that makes a run slow; None: the run is not slow, or not for that reason.

    Args:
        first: the median time of a step at first.
        use_at_first: the use of the cores then.
        now: the median time of a step now.
        use: the use of the cores now.
        threads: CPU threads of the run.
    """
    full = use.own + use.others >= FULL * use.cores
    if now < SLOWER * first or use.others - use_at_first.others < MORE_CORES or not full:
        return None
    mend = "the run is faster when it is alone"
    if threads > 1:
        mend = "one thread waits for nobody: stop the run and start it again with --set run.threads=1"
    return (
        f"a step takes {format_seconds(now)}, not {format_seconds(first)} as at first, because other processes keep "
        f"{use.others:.1f} of the {use.cores} cores busy: {mend}"
    )
