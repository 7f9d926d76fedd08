"""The clock of a run with a budget, and when the rest of the run is laid out again because a step takes more or less time."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from coterie.config.duration import format_minutes
from coterie.config.schema import PretrainConfig
from coterie.data.loading.loader import Loader
from coterie.distributed.processes import broadcast_object, rank
from coterie.errors import BadRun
from coterie.formatting import format_duration
from coterie.logger import BudgetLogger, Logger
from coterie.training.callback_runner import CallbackRunner
from coterie.training.run_folder import add_fact
from coterie.training.run_state import RunState
from coterie.types import Progress, StepResult, Stretch

LATE, EARLY = 0.02, 0.05
"""The rest is laid out again where it would end later, or earlier, by more than this share of the budget."""
CHECKS = 16
"""After each sixteenth of the steps that are left, the clock is looked at."""
FIRST_STEPS, FIRST_SHARE = 5, 50
"""The first look is after so many steps, or a fiftieth of all, the first one not counted; less would be chance."""
REMEMBERED = 4
"""The time of a step is that since so many looks before, so that a machine that has become slower is noticed."""


@dataclass(frozen=True)
class Ending:
    """What is planned besides the steps, in seconds.

    Attributes:
        after: what follows the last step: the report.
        per_step: the label-free metrics, divided by all steps.
    """

    after: float = 3.0
    per_step: float = 0.0


@dataclass(frozen=True)
class Look:
    """What the clock says after a step, the same in all processes.

    Attributes:
        total: steps of the whole run from now on.
        next: the step count after which to look again.
    """

    total: int
    next: int


class TimeBudget:
    """Decides on the first process how many steps fit; it keeps no state but the seconds used, which a checkpoint has.

    ``ended`` and ``begins`` belong around the callbacks after a step, so that what they take is told from the steps.

    Attributes:
        seconds: the budget.
        most: steps beyond which the run is not trained, however much time is left.
        before: seconds that earlier processes of this run have used.
    """

    def __init__(
        self,
        seconds: float,
        most: int,
        *,
        began: float | None = None,
        ending: Ending | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            seconds: the budget.
            most: steps beyond which the run is not trained.
            began: the clock when the command began; None: now.
            ending: what is planned besides the steps.
            clock: returns seconds from some moment on.
        """
        self.seconds, self.most, self.clock, self.ending = seconds, most, clock, ending or Ending()
        self.began = clock() if began is None else began
        self.before = 0.0
        self._ahead = self._warm_up = self._steps = 0
        self._step_began: float | None = None
        self._working = self._pausing = 0.0
        self._marks: deque[tuple[int, float]] = deque(maxlen=REMEMBERED + 1)

    def used(self) -> float:
        """Seconds of the budget that are used by now, over all processes of this run one after the other."""
        return self.before + self.clock() - self.began

    def start(self, step: int, total: int, ahead: int) -> Look:
        """Begin with a step.

        Args:
            step: steps done.
            total: steps of the whole run.
            ahead: batches that are loaded ahead: the loader has gone to the end when so many are left.

        Returns:
            When to look first.
        """
        self._ahead, self._warm_up = ahead, step + 1
        self._step_began = self.clock()
        return Look(total, min(total - 1, step + 1 + max(FIRST_STEPS, (total - step) // FIRST_SHARE)))

    def ended(self, steps: int) -> None:
        """So many steps are done; the callbacks follow."""
        now = self.clock()
        if self._step_began is not None and steps > self._warm_up:
            self._working += now - self._step_began
            self._steps += 1
        self._step_began = now

    def begins(self) -> None:
        """The next step begins."""
        now = self.clock()
        if self._step_began is not None and self._steps:
            self._pausing += now - self._step_began
        self._step_began = now

    def resume(self, state: RunState, total: int, folder: Path) -> None:
        """Go on with the seconds that the run has used; a run that had no budget, or is new, begins with none.

        Args:
            state: the run's state, in which the budget is recorded.
            total: steps of the run that is resumed; 0: it is new.
            folder: of the run, for messages.

        Raises:
            BadRun: the budget is less than what is used.
        """
        self.before = state.used
        if state.used >= self.seconds != 60 * state.minutes:
            raise BadRun(
                f"{folder} has used {format_duration(state.used)} of training: give more than --time "
                f"{format_minutes(state.used / 60)}, or leave it out"
            )
        state.most = state.most or total or self.most

    def extended(self, state: RunState, total: int) -> int:
        """The steps of a finished run whose budget is larger now, by what it has used; ``total`` if it is not.

        Args:
            state: the run's state.
            total: its steps so far, all done.
        """
        if not state.used or self.seconds <= 60 * state.minutes:
            return total
        return min(state.most, int(total * self.seconds / state.used))

    def facts(self, state: RunState) -> dict[str, Any]:
        """What ``run.json`` says of it: seconds in all and used, steps, and (step, new total) of each change of the length."""
        steps = state.lengths[-1][1]
        return {"seconds": self.seconds, "used": self.used(), "steps": steps, "laid_out": state.lengths[1:]}

    def look(self, done: int, total: int) -> Look:
        """Decide how long the run is; called on the first process.

        Args:
            done: steps done.
            total: steps of the whole run so far.
        """
        fits, each = self._fitting(done)
        late, left = (total - done - fits) * each, total - done
        target = done + max(1, min(fits, self.most - done))
        longer = target > total and left > self._ahead
        if late > LATE * self.seconds or (longer and -late > EARLY * self.seconds):
            total = target
        self._marks.append((self._steps, self._working))
        return Look(total, min(total - 1, done + max(1, (total - done) // CHECKS)))

    def _fitting(self, done: int) -> tuple[int, float]:
        """The steps that fit into what is left, and the seconds of one."""
        steps, working = self._marks[0] if self._marks else (0, 0.0)
        if self._steps == steps:
            steps, working = 0, 0.0
        each = (self._working - working) / max(1, self._steps - steps)
        each += max(self.ending.per_step, self._pausing / max(1, self._steps))
        left = self.seconds - self.used() - self.ending.after
        return int(max(0.0, left) / max(each, 1e-9)), max(each, 1e-9)


class BudgetWatch:
    """Looks at the clock of a budget after some steps of a run, and lays the rest of the run out again where it is needed.

    The first process decides, and all processes follow after the same step. The new length is written to the log, to
    ``run.json``, and to a checkpoint after that step, so that a resumed run goes on with it.
    """

    def __init__(
        self,
        budget: TimeBudget,
        loader: Loader,
        state: RunState,
        callbacks: CallbackRunner,
        logger: Logger,
        folder: Path,
    ) -> None:
        """Watch a run.

        Args:
            budget: its budget.
            loader: its loader, which knows its length.
            state: its state.
            callbacks: write its log.
            logger: receives a message about each change.
            folder: its folder.
        """
        self.budget, self.loader, self.state = budget, loader, state
        self.callbacks, self.logger, self.folder = callbacks, logger, folder
        self.first = rank() == 0
        self._next = 0
        self._save: Callable[[], None] = lambda: None

    def start(self, step: int, save: Callable[[], None]) -> None:
        """Begin with a step; ``save`` makes all processes save after the present one."""
        self._save, self.state.minutes = save, self.budget.seconds / 60
        self._next = self.budget.start(step, self.loader.total_steps, self.loader.ahead).next

    def after_step(self, progress: Progress, result: StepResult) -> None:
        """Look at the clock if it is time; belongs before the callbacks of a step."""
        done = progress.step + 1
        self.budget.ended(done)
        self.state.used = self.budget.used()
        if isinstance(self.logger, BudgetLogger):
            self.logger.log_budget(self.state.used, self.budget.seconds)
        if done == self._next:
            look = broadcast_object(self.budget.look(done, progress.total_steps) if self.first else Look(0, 0))
            self._next = look.next
            if look.total != progress.total_steps:
                self._lay_out(progress, look.total)

    def before_step(self, progress: Progress, result: StepResult) -> None:
        """The callbacks of a step are done; belongs after them."""
        self.budget.begins()

    def _lay_out(self, progress: Progress, total: int) -> None:
        done, before = progress.step + 1, progress.total_steps
        stretch = Stretch(done, progress.on_schedule(1), progress.scheduled_steps)
        self.loader.set_length(total, stretch)
        self.state.lengths.append((done, total))
        self.state.stretch = astuple(stretch)
        self._save()
        if not self.first:
            return
        left = self.budget.seconds - self.state.used
        pace = "slower" if total < before else "faster"
        self.logger.info(
            f"laid out again for the {format_duration(left)} left of {format_duration(self.budget.seconds)}: {total} steps, "
            f"not {before}, as they are {pace} than planned; schedules go on without a jump"
        )
        self.callbacks.write({"step": progress.step, "epoch": progress.epoch, "laid_out": [done, total]})
        add_fact(self.folder, "budget", self.budget.facts(self.state))


def with_steps(config: PretrainConfig, steps: int, images: int) -> PretrainConfig:
    """The settings of a run that has so many steps.

    Args:
        config: its settings, with another length.
        steps: its steps.
        images: number of images in its source.
    """
    if config.total_steps(images) == steps:
        return config
    per_epoch = images // config.batch_size
    return replace(
        config, epochs=-(-steps // per_epoch), images=steps * config.batch_size if steps % per_epoch else None
    )
