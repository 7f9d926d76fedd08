"""Says how long a run will take before its first step, and corrects that after its first real steps."""

import time
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.data.sources.source import ImageSource
from coterie.distributed.processes import world_size
from coterie.errors import UserError
from coterie.logger import Logger, is_silent
from coterie.training.callback import Callback, RunContext
from coterie.training.profiling.choose_threads import SECONDS, Rehearsed
from coterie.training.profiling.estimate import Estimate, estimate
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.first_lines import advice_line, corrected_line, time_line
from coterie.training.profiling.real_steps import RealSteps
from coterie.training.profiling.rehearsal_cache import (
    key_with_threads,
    load_rehearsal,
    rehearsal_key,
    save_rehearsal,
)
from coterie.training.profiling.rehearsal_here import rehearse_here
from coterie.types import Progress, StepResult


class TimeCallback(Callback):
    """Says how long the run will take, from an earlier rehearsal of such a run or from a short one in this process.

    It changes nothing that is learned: random numbers and threads are as they were before it, and the rehearsal has parts of
    its own. Runs of several processes and with custom parts are not rehearsed; they say how long they take after some steps.
    """

    name = "time_estimate"
    on_error = "continue"

    def __init__(
        self,
        config: PretrainConfig,
        source: ImageSource,
        runtime: Runtime,
        rehearsed: Rehearsed | None = None,
        *,
        label_free_images: int,
        report_images: int,
    ) -> None:
        """Estimate a run.

        Args:
            config: its settings.
            source: its images.
            runtime: where it computes.
            rehearsed: the rehearsal that chose its threads; None: there was none.
            label_free_images: number of images that the label-free metrics embed over the run.
            report_images: number of images that its report embeds.
        """
        self.config, self.source, self.runtime = config, source, runtime
        self.label_free_images, self.report_images = label_free_images, report_images
        self._keys: list[dict[str, Any]] = []
        self._rehearsal: Rehearsal | None = None
        if rehearsed is not None:  # the run with the number that was chosen is found again too
            known = rehearsed.rehearsal
            self._keys = [rehearsed.key, key_with_threads(rehearsed.key, known.threads)]
            self._rehearsal = known
        self._said: Estimate | None = None
        self._real: RealSteps | None = None

    def on_start(self, run: RunContext) -> None:
        """Say how long it will take."""
        if run.ended is not None or run.start_step >= run.total_steps:
            return
        self._run, self._began = run, time.perf_counter()
        self._real = RealSteps(2 + 2 * self.runtime.workers, run.start_step)
        if self._rehearsal is None and not self.config.custom:
            self._keys = [rehearsal_key(self.config, self.source, self.runtime)]
            self._rehearsal = load_rehearsal(self._keys[0])
            if self._rehearsal is None and not is_silent(self.runtime.logger):
                self._rehearsal = self._rehearse(run.logger)
        if self._rehearsal is not None:
            self._say(self._rehearsal, run.start_step)

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        """Time the first steps; on a CUDA device, where a step is only queued, :meth:`on_metrics` does."""
        if self._real is not None and self.runtime.device.type != "cuda":
            self._after(progress.step + 1)

    def on_metrics(self, record: dict[str, object]) -> None:
        """Time the first steps by the lines of the log, before which the device was waited for."""
        if self._real is not None and self.runtime.device.type == "cuda" and "loss" in record:
            self._after(int(str(record["step"])) + 1)

    def _after(self, steps: int) -> None:
        assert self._real is not None
        self._real.mark(steps)
        found = self._real.typical(last=steps == self._run.total_steps)
        if found is None:
            return
        timed, self._real = self._real.timed, None
        real = self._measured(found, timed)
        for key in self._keys:
            save_rehearsal(key, real if len(key["threads"]) > 1 else replace(real, why=""))
        if steps == self._run.total_steps:
            return
        if self._said is None:
            self._say(real, steps)
            return
        passed = time.perf_counter() - self._began
        left = self._estimate(real, steps)
        line = corrected_line(self._said.seconds, passed + left.seconds - left.starting, found, self._said.step)
        if line is not None and self.config.run.minutes is None:  # a budget is laid out again, and says so
            self._run.logger.info(line)

    def _measured(self, step: float, timed: int) -> Rehearsal:
        """The rehearsal with the time of the real steps in place of its own."""
        today, batch = date.today().isoformat(), self.config.batch_size
        known = self._rehearsal or Rehearsal(step, 0.0, 0.0, 0.0, 0.0, batch, batch, timed, today)
        return replace(known, step=step, part=batch, steps=timed, day=today, real=True)

    def _estimate(self, rehearsal: Rehearsal, start: int) -> Estimate:
        return estimate(
            self.config,
            len(self.source),
            rehearsal,
            start=start,
            label_free_images=self.label_free_images,
            report_images=self.report_images,
        )

    def _say(self, rehearsal: Rehearsal, start: int) -> None:
        images, device, logger = len(self.source), self.runtime.device, self._run.logger
        self._said = self._estimate(rehearsal, start)
        logger.info(time_line(self.config, images, self._said, device, start=start, now=datetime.now()))
        advice = None if self._run.start_step else advice_line(self.config, images, self._said, device)
        if advice is not None:
            logger.info(advice)

    def _rehearse(self, logger: Logger) -> Rehearsal | None:
        """A new rehearsal in this process; None where it cannot be had, for reasons that the run itself will give."""
        if world_size() > 1 or self.config.run.fsdp:  # its collectives would wait for the other processes
            return None
        try:
            rehearsal = rehearse_here(self.config, self.source, replace(self.runtime, logger=logger), SECONDS)
        except UserError:
            return None
        save_rehearsal(self._keys[0], rehearsal)
        return rehearsal
