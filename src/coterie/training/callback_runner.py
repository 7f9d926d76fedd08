"""Calls the callbacks of a run in order, and records which of their slow work is done."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from coterie.distributed.processes import alone, broadcast_object, rank
from coterie.errors import UserError, first_cause
from coterie.logger import Logger
from coterie.signals import Interrupted
from coterie.training.callback import Callback
from coterie.training.checkpoint_schedule import Checkpointer
from coterie.training.run_folder import FinishedWork, RunFolder
from coterie.training.run_state import RunState
from coterie.training.student import Student
from coterie.types import Progress, StepResult

END = "end:"
"""Marks ``on_end`` among the names of finished work."""


class Ended(Exception):  # noqa: N818
    """A callback ended the run before its last step, for the reason in the message. Everything is saved."""


class CallbackError(UserError):
    """A callback failed and stopped the run. What was trained before is saved."""


class CallbackRunner:
    """Calls the callbacks of one run in the order that :mod:`coterie.training.callback` describes."""

    def __init__(
        self,
        callbacks: Sequence[Callback],
        checkpointer: Checkpointer,
        state: RunState,
        folder: RunFolder,
        whole_student: Callable[[], Student],
        logger: Logger,
    ) -> None:
        """Prepare to call ``callbacks`` and then ``checkpointer``.

        Args:
            callbacks: called in this order.
            checkpointer: saves after their cheap methods and before their slow ones.
            state: state of the run.
            folder: folder of the run.
            whole_student: returns the complete student; a collective.
            logger: receives messages and metrics.

        Raises:
            UserError: an object is not a callback, or two have the same name.
        """
        self.callbacks: dict[str, Callback] = {}
        for each in callbacks:
            if not isinstance(each, Callback):
                raise UserError(f"{each!r} is not a callback: derive its class from coterie.Callback")
            name = each.name or type(each).__name__
            if name in self.callbacks:
                raise UserError(f"two callbacks are called {name}: give one of them another `name`")
            self.callbacks[name] = each
        self.checkpointer, self.state, self.folder = checkpointer, state, folder
        self.whole_student, self.logger = whole_student, logger
        self.first = rank() == 0
        self._done = FinishedWork()
        self._progress: Progress | None = None
        self._running: str | None = None  # the callback whose method is being called
        self._buffer: list[dict[str, Any]] | None = None  # lines from slow work in progress
        self._failure: tuple[str, Exception] | None = None
        checkpointer.on_saved = partial(self.call, "on_checkpoint")

    def after_step(self, progress: Progress, result: StepResult) -> None:
        """Do everything that follows a step.

        Raises:
            CallbackError: a callback failed whose errors stop the run.
            Ended: a callback ended the run.
        """
        self._progress = progress
        self.call("on_step_end", progress, result)
        if progress.step_in_epoch + 1 == progress.steps_per_epoch:
            self.call("on_epoch_end", progress)
        self.state.pending = [name for name, each in self.callbacks.items() if each.is_due(progress)]
        self.checkpointer.on_step_end(progress, result)
        if self.checkpointer.stopping or progress.step + 1 == progress.total_steps:
            self._agree()
        self.run_pending(progress)

    def call(self, hook: str, *values: Any) -> None:
        """Call a cheap method of every callback. An error that stops the run is kept until the next save."""
        for name, callback in self.callbacks.items():
            if callback.every_process and hook == "on_step_end":
                callback.on_step_end(*values)
            elif self.first:
                outer, self._running = self._running, name
                try:
                    getattr(callback, hook)(*values)
                except Interrupted:  # the checkpointer has heard of it too
                    pass
                except Exception as error:
                    self._fail(name, error)
                finally:
                    self._running = outer

    def run_pending(self, progress: Progress) -> None:
        """Do the slow work that is due after a step, in order. A resumed run starts with it.

        Raises:
            CallbackError: a callback failed whose errors stop the run.
            Ended: a callback ended the run.
        """
        if not self.state.pending:
            return
        self._progress = progress
        if self._done.step != progress.step:
            self._done = FinishedWork(progress.step)
        while self.state.pending:
            name = self.state.pending[0]
            if name in self.callbacks:  # a resumed run may have fewer callbacks
                self._work(name, name, lambda callback, student: callback.on_due(student, progress))
            del self.state.pending[0]
        self._agree()

    def end(self) -> None:
        """Call ``on_end`` of every callback for which it has not been called yet."""
        for name in self.callbacks:
            if END + name not in self._done.names:
                self._work(name, END + name, lambda callback, student: callback.on_end(student))

    def resume(self, start: int, *, extended: bool = False) -> None:
        """Restore log, pending work and an early end as they were after ``start`` steps; a run that is extended has no end."""
        if self.first:
            done = self.folder.finished_work()
            if done.step == start - 1:
                self._done = done
            else:
                self._done = FinishedWork(start - 1)
            lines = self._done.lines if self.state.pending or self._done.names else None
            logged = self.state.lengths[:-1] if extended else self.state.lengths
            self.folder.truncate_log(start, lines, logged)
            if extended or not self.folder.report.exists():  # removed by the user: write it again
                self._done.names = [name for name in self._done.names if not name.startswith(END)]
        self._done = broadcast_object(self._done)
        self.state.pending = [name for name in self.state.pending if name not in self._done.names]
        if self._done.ended is not None:
            self.state.ended, self.state.ended_by = self._done.ended, self._done.ended_by
        by = self.callbacks.get(self.state.ended_by or "")
        if by is None or not by.keeps_ended or extended:
            self.state.ended = self.state.ended_by = None

    @property
    def everything_is_done(self) -> bool:
        """Whether an ended run has no work left."""
        return not self.state.pending and all(END + name in self._done.names for name in self.callbacks)

    def end_run(self, reason: str) -> None:
        """End the run after this step, on behalf of the callback that is being called."""
        self.state.ended, self.state.ended_by = reason, self._running
        if self._buffer is None:  # after slow work, all processes agree anyway
            self.checkpointer.request_stop()

    def log(self, record: dict[str, Any]) -> None:
        """Add a callback's line to the log; lines from slow work are written together when it is done."""
        place = {} if self._progress is None else {"step": self._progress.step, "epoch": self._progress.epoch}
        if self._buffer is not None:
            self._buffer.append(place | record)
        else:
            self.write(place | record)

    def write(self, record: dict[str, Any]) -> None:
        """Add a line to the log and pass it to logger and callbacks; does nothing on processes other than the first."""
        if not self.first:
            return
        self.folder.append(record)
        self.logger.log_metrics(record, self._progress.total_steps if self._progress else 0)
        self.call("on_metrics", record)
        if "warning" in record:
            self.logger.warning(record["warning"])
            self.call("on_warning", record["warning"])

    def _work(self, name: str, mark: str, work: Callable[[Callback, Student], None]) -> None:
        """Do the slow work of one callback on the first process, with the whole student; all processes learn how it ended."""
        callback = self.callbacks[name]
        failure: Exception | None = None
        student: Student | None = None
        self._buffer, self._running = [], name
        try:
            self.checkpointer.settle_together()  # slow work forks processes, and a writing thread may hold locks they need
            student = self.whole_student()
            if self.first:
                student.eval()
                with alone():
                    work(callback, student)
        except Exception as error:
            failure = error
        finally:
            lines, self._buffer, self._running = self._buffer, None, None
            if student is not None:
                student.train()
        agreed = broadcast_object(None if failure is None else _as_user_error(name, failure))
        if agreed is not None and (callback.on_error == "stop" or agreed.status > 128):  # a signal leaves it pending
            raise agreed from failure
        if self.first:
            if agreed is not None:
                self.logger.warning(f"{agreed}; the run continues without it")
            self._done.names.append(mark)
            self._done.lines += lines
            self._done.ended, self._done.ended_by = self.state.ended, self.state.ended_by
            self.folder.write_finished_work(self._done)
            for line in lines:
                self.write(line)
            if self._done.ended != self.state.ended:  # who reads the lines may have ended the run
                self._done.ended, self._done.ended_by = self.state.ended, self.state.ended_by
                self.folder.write_finished_work(self._done)

    def _fail(self, name: str, error: Exception) -> None:
        if self.callbacks[name].on_error == "continue":
            self.logger.warning(f"{_as_user_error(name, error)}; the run continues")
        elif self._failure is None:
            self._failure = name, error
            self.checkpointer.request_stop()

    def _agree(self) -> None:
        """Share a failure or an early end on the first process with all processes."""
        own = None if self._failure is None else _as_user_error(*self._failure)
        error, self.state.ended, self.state.ended_by = broadcast_object((own, self.state.ended, self.state.ended_by))
        if error is not None:
            raise error from (self._failure[1] if self._failure else None)
        if self.state.ended is not None and self._progress and self._progress.step + 1 < self._progress.total_steps:
            raise Ended(self.state.ended)


def _as_user_error(name: str, error: Exception) -> UserError:
    """The error of a callback as one that every process can raise; a user error keeps its message and status."""
    if isinstance(error, UserError):
        copied = UserError(str(error))
        copied.status = error.status
        return copied
    return CallbackError(
        f"the callback {name} failed ({first_cause(error)}): the run is saved; fix the callback and run the same command again"
    )
