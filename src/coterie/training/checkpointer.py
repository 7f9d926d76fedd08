"""When a run saves, and what; the disk is written to while training continues."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from coterie.atomic import remove_unfinished
from coterie.distributed.collectives import all_reduce_max
from coterie.distributed.fsdp import full_state_dict, local_tensor
from coterie.distributed.processes import Poll, all_gather_dict, broadcast_object, rank
from coterie.errors import BadRun, UserError
from coterie.training import checkpoint
from coterie.training.callback import Callback
from coterie.training.monitor import Monitor, NotFinite
from coterie.training.run_state import RunState
from coterie.types import Progress, StepResult

_SAVE = 1  # what a process whose clock says that it is time to save tells the others
_STOP = 1000  # what a callback wants; what lies between is the number of a signal


@runtime_checkable
class HasState(Protocol):
    """A part whose state is saved: a module, an optimizer, a monitor."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore the state."""


class Interrupted(UserError):  # noqa: N818
    """A signal asked the run to stop, and it has saved. The exit status is 128 plus the number of the signal."""

    def __init__(self, number: int, steps: int) -> None:
        """Stopped by signal ``number`` after ``steps`` steps."""
        super().__init__(f"stopped and saved after step {steps}: run the same command again to resume")
        self.status = 128 + number


class Checkpointer(Callback):
    """Saves every so many steps or minutes, at the end, before slow work, and when the run is asked to stop.

    A save follows only a loss that is finite. The run waits while its state is copied to the host's memory; a thread writes
    it, and the next save, the end, and whatever forks wait for that thread. Of several processes the first one writes; what
    makes any of them save or stop, a clock or a signal, makes all of them do so after the same step.

    Attributes:
        stopping: whether a callback asked for the run to stop, as all processes know by now.
        on_saved: called on the first process with the number of steps that were saved.
    """

    every_process = True

    def __init__(
        self,
        folder: Path,
        parts: dict[str, HasState],
        monitor: Monitor,
        state: RunState,
        *,
        steps: int,
        minutes: float,
        also: Callable[[dict[str, Tensor]], Callable[[], None]],
    ) -> None:
        """Save to a folder.

        Args:
            folder: for checkpoints.
            parts: what is saved, by name; one of them is the ``student``.
            monitor: knows whether loss and gradients were finite.
            state: of the run, saved beside the parts.
            steps: steps between two saves; 0: only by the clock, at the end, and as above.
            minutes: minutes between two saves.
            also: given the student's state on the host, returns a function that writes something of it before the
                checkpoint is written; what a finished run promises must be there first.
        """
        self.folder, self.parts, self.monitor, self.state = folder, parts, monitor, state
        self.steps, self.minutes, self.also = steps, minutes, also
        self.stopping = False
        self.on_saved: Callable[[int], None] = lambda steps: None
        self._asked: int | None = None
        self._done = 0
        self._poll = Poll()
        self._saved_at = time.monotonic()
        self._writer: threading.Thread | None = None
        self._failed: BaseException | None = None

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        """Save if it is time, if slow work is due, or if the run is to stop.

        Raises:
            Interrupted: a signal asked for it; on all processes after the same step.
            UserError: an earlier checkpoint could not be written.
        """
        self._done = done = progress.step + 1
        late = time.monotonic() - self._saved_at >= 60 * self.minutes
        heard = self._poll(self._asked or int(late) * _SAVE)  # of several processes, what was said at the step before
        self.stopping = heard == _STOP
        last = done == progress.total_steps
        due = self.steps > 0 and done % self.steps == 0
        if due or last or heard or self.state.pending:
            self._save(done)
        if last or heard > _SAVE:
            self.settle()
        if _SAVE < heard < _STOP and not last:
            broadcast_object(None)  # when one has gone torchrun kills the others, and the first may still be writing
            raise Interrupted(heard, done)

    def request_stop(self) -> None:
        """Save and set ``stopping`` on all processes, after this step or the next."""
        self._asked = _STOP

    def check_interrupted(self) -> None:
        """During slow work, after the step before it was saved.

        Raises:
            Interrupted: a signal has come.
        """
        if self._asked is not None and self._asked < _STOP:
            raise Interrupted(self._asked, self._done)

    def _save(self, done: int) -> None:
        self.monitor.check_finite()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        _check_finite(state["student"])
        self.state.bad_images.update(all_gather_dict(self.state.bad_images))
        self._saved_at = time.monotonic()
        self.settle()
        state = full_state_dict(state)
        if rank() == 0:
            on_host = tree.tree_map_only(Tensor, _copied, state | {"run": self.state.state_dict()})
            write = self.also(on_host["student"])
            self._writer = threading.Thread(target=self._write, args=(on_host, done, write), name="checkpointer")
            self._writer.start()
            self.on_saved(done)

    def _write(self, state: dict[str, Any], done: int, also: Callable[[], None]) -> None:
        try:
            also()
            checkpoint.save(self.folder, state, done)
        except BaseException as error:  # it is raised where the run can be told
            self._failed = error

    def settle(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            UserError: something could not be written; the earlier checkpoints are whole.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Whatever happens inside, everything is on the disk afterwards."""
        try:
            yield
        finally:
            self.settle()

    def resume(self) -> tuple[int, list[str]]:
        """Restore the newest whole checkpoint, if there is one.

        Returns:
            The steps done, and a line for each damaged checkpoint that was skipped.

        Raises:
            BadRun: no checkpoint is whole, or it is of other images or of another version.
        """
        first = rank() == 0
        if first:
            remove_unfinished(self.folder)
        step, state, skipped = checkpoint.load(self.folder, set_aside=True) if first else (0, None, [])
        step = broadcast_object(step)
        if step and not first:  # damaged files have been set aside
            step, state, _ = checkpoint.load(self.folder)
        if state is not None:
            with checkpoint.restoring(self.folder):
                self._restore(state)
        self._done = step
        return step, skipped

    def _restore(self, state: dict[str, Any]) -> None:
        saved = RunState.from_checkpoint(state)
        if saved.images != self.state.images:  # asked before anything is restored: labels are kept for each image
            raise BadRun(
                f"{self.folder.parent} was begun with {saved.images} images, now there are {self.state.images}: bring the "
                "images back, or choose another --out"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        vars(self.state).update(vars(saved))

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM let the step finish, save and stop the run; a second SIGINT stops it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: object) -> None:
            if self._asked is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._asked = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _check_finite(weights: dict[str, Tensor]) -> None:
    """A loss may be finite when the step after it was not."""
    finite = [local_tensor(value).isfinite().all() for value in weights.values() if value.is_floating_point()]
    if all_reduce_max((~torch.stack(finite).all()).int()):  # of sharded weights, each process sees its part
        raise NotFinite(
            "weights are no longer finite; the last checkpoint is from before: start again with a lower learning_rate.peak"
        )
