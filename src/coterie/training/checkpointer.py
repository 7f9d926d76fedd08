"""When to save, and what; the disk is written to while the run goes on."""

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
from coterie.training.monitor import Monitor, NotFinite
from coterie.types import Progress, StepResult

_LATE = 1  # what a process says whose clock says that it is time; more is the number of a signal


@runtime_checkable
class HasState(Protocol):
    """A part whose state is saved: a module, an optimizer, a monitor."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state over."""


class Interrupted(UserError):  # noqa: N818
    """The run was asked to stop and has saved; ``signal`` says by which signal."""

    def __init__(self, number: int, step: int) -> None:
        """Stopped by signal ``number`` after ``step`` steps."""
        super().__init__(f"stopped and saved after step {step}: the same command goes on from there")
        self.status = 128 + number


class Ended(Exception):  # noqa: N818
    """The run is over before its last step, and saved; the text says why."""


class Checkpointer:
    """Saves every so many steps or minutes, at the end, and when the run is asked to stop or is called ended.

    A save follows only a loss that is a number. The run waits while its state is copied to the host's memory; a thread writes
    it, and the next save, the end and whatever forks wait for that thread. Of several processes the first writes; what
    makes any of them save or stop, a clock or a signal, makes all do so after the same step.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, HasState],
        monitor: Monitor,
        *,
        steps: int,
        minutes: float,
        also: Callable[[dict[str, Tensor]], Callable[[], None]],
        extra: dict[str, Any],
    ) -> None:
        """Save the state of ``parts`` and the values in ``extra`` to ``folder``.

        ``also`` is given the student's state on the host, and gives what writes something of it: before the checkpoint, for
        what a finished run says is done must be there.
        """
        self.folder, self.parts, self.monitor = folder, parts, monitor
        self.steps, self.minutes, self.also, self.extra = steps, minutes, also, extra
        self.asked: int | None = None
        self._poll = Poll()
        self._saved = time.monotonic()
        self._writer: threading.Thread | None = None
        self._failed: BaseException | None = None

    def __call__(self, progress: Progress, result: StepResult) -> None:
        """After a step: save if it is time."""
        done = progress.step + 1
        late = time.monotonic() - self._saved >= 60 * self.minutes
        said = self._poll(self.asked or int(late))  # of several processes, what was said at the step before
        due = self.steps > 0 and done % self.steps == 0
        ended = self.extra.get("ended")
        last = done == progress.total_steps
        if due or last or said or ended:
            self._save(done)
        if last or said > _LATE or ended:
            self.settle()
        if said > _LATE and not last:
            broadcast_object(None)  # when one has gone torchrun kills the others, and the first may still be writing
            raise Interrupted(said, done)
        if ended and not last:
            raise Ended(ended)

    def _save(self, done: int) -> None:
        self.monitor.check_finite()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        _check_finite(state["student"])
        self.extra["bad"].update(all_gather_dict(self.extra["bad"]))
        self._saved = time.monotonic()
        self.settle()
        state = full_state_dict(state)
        if rank() == 0:
            on_host = tree.tree_map_only(Tensor, _copied, state | {"extra": self.extra})
            write = self.also(on_host["student"])
            self._writer = threading.Thread(target=self._write, args=(on_host, done, write), name="saver")
            self._writer.start()

    def _write(self, state: dict[str, Any], done: int, also: Callable[[], None]) -> None:
        try:
            also()
            checkpoint.save(self.folder, state, done)
        except BaseException as error:  # it is raised where the run can be told
            self._failed = error

    def settle(self) -> None:
        """Wait until what is being written is on the disk.

        Raises:
            UserError: it could not be written; the earlier checkpoints are whole.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Whatever happens in it, at its end all that was to be written is on the disk."""
        try:
            yield
        finally:
            self.settle()

    def resume(self) -> tuple[int, list[str]]:
        """Take over the newest whole checkpoint, if there is one: the steps done, and what was passed over."""
        first = rank() == 0
        if first:
            remove_unfinished(self.folder)
        step, state, passed_over = checkpoint.load(self.folder, set_aside=True) if first else (0, None, [])
        step = broadcast_object(step)
        if step and not first:  # damaged files have been set aside
            step, state, _ = checkpoint.load(self.folder)
        if state is not None:
            with checkpoint.restoring(self.folder):
                self._take_over(state)
        return step, passed_over

    def _take_over(self, state: dict[str, Any]) -> None:
        before, now = state["extra"]["images"], self.extra["images"]
        if before != now:  # asked before anything is taken over: labels are kept for each image
            raise BadRun(
                f"{self.folder.parent} was begun with {before} images, now there are {now}: bring the images back, or choose "
                "another --out"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.extra.update(state["extra"])

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """While this lasts, SIGINT and SIGTERM let the step finish, save and leave; a second SIGINT leaves at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: object) -> None:
            if self.asked is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _check_finite(weights: dict[str, Tensor]) -> None:
    """A loss may be a number when the step after it was not."""
    finite = [local_tensor(value).isfinite().all() for value in weights.values() if value.is_floating_point()]
    if all_reduce_max((~torch.stack(finite).all()).int()):  # of what is shared out, each process sees its part
        raise NotFinite(
            "weights are no longer numbers; the last checkpoint is from before: begin again with a lower learning_rate.peak"
        )
