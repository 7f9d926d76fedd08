"""When a run saves, and what; files are written while training continues."""

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
from coterie.distributed.processes import Poll, all_gather_dict, broadcast_object, largest, rank, world_size
from coterie.errors import BadRun, UserError
from coterie.signals import Interrupted, heard, if_stopped, interruption, listening, saved_after
from coterie.training import checkpoint_io
from coterie.training.callback import Callback
from coterie.training.monitor import Monitor, NotFinite
from coterie.training.run_state import RunState
from coterie.types import Progress, StepResult

# Requests that processes exchange after each step, the largest of which counts; numbers between these two are signals.
_SAVE = 1  # save_minutes have passed
_STOP = 1000  # a callback stops the run
_FAILED = 1001  # the first process could not write


@runtime_checkable
class HasState(Protocol):
    """A part whose state is saved: a module, an optimizer, a monitor."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state."""


class Checkpointer(Callback):
    """Saves every so many steps or minutes, at the end, before slow work, and when the run is stopped.

    A run is saved only while its loss is finite. Training waits while the state is copied to the host; a thread then writes
    it, and the next save, the end, and anything that forks wait for that thread. The first process writes. A clock or a
    signal on any process makes all processes save or stop after the same step. A run that is to stop while a checkpoint is
    being written waits for it and leaves with that one: it waits for one write at most.

    Attributes:
        stopping: whether a callback stops the run; the same on all processes.
        on_saved: called on the first process with the number of steps saved.
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
            folder: folder of the checkpoints.
            parts: what is saved, by name, including the ``student``.
            monitor: checks that loss and gradient are finite.
            state: state of the run, saved beside the parts.
            steps: steps between two saves; 0: none because of steps.
            minutes: minutes between two saves.
            also: given the state of the student on the host, returns a function that writes further files. It runs before
                the checkpoint is written, so that the files of a finished run exist when its last checkpoint does.
        """
        self.folder, self.parts, self.monitor, self.state = folder, parts, monitor, state
        self.steps, self.minutes, self.also = steps, minutes, also
        self.stopping = False
        self.on_saved: Callable[[int], None] = lambda steps: None
        self._request = 0
        self._now = False
        self._done = 0  # steps
        self._written = 0  # steps of the newest checkpoint on the disk, as this process knows
        self._agreed = 0  # as all processes know
        self._poll = Poll()
        self._saved_at = time.monotonic()
        self._writer: threading.Thread | None = None
        self._failed: BaseException | None = None

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        """Save if it is time, if slow work is due, or if the run is to stop.

        Raises:
            Interrupted: a signal stopped the run; on all processes after the same step.
            UserError: an earlier checkpoint could not be written.
        """
        self._done = done = progress.step + 1
        late = time.monotonic() - self._saved_at >= 60 * self.minutes
        request = self._poll(self._request or heard() or int(late) * _SAVE)  # several hear requests one step later
        self.stopping = request == _STOP
        last = done == progress.total_steps
        due = self.steps > 0 and done % self.steps == 0
        if _SAVE < request < _STOP and not last:
            self._leave_saved()
            raise interruption(request)
        if due or last or request or self.state.pending or self._now:
            self._now = False
            self._save(done)
        if last or self.stopping:
            self.settle()

    def save_now(self) -> None:
        """Save after this step; called on all processes."""
        self._now = True

    def request_stop(self) -> None:
        """Save and set ``stopping`` on all processes, after this step or the next."""
        self._request = _STOP

    def settle_together(self) -> None:
        """Wait until everything is on the disk, on all processes: from then on they may leave at any moment.

        Raises:
            Interrupted: a signal stops the run; on all processes.
            UserError: a file could not be written; on all processes.
        """
        failed: Exception | None = None
        try:
            self.settle()
        except Exception as error:
            failed = error
        number = largest(_FAILED if failed else heard() or 0)
        if failed is not None:
            raise failed
        if number == _FAILED:
            raise UserError("the first process could not write a checkpoint")
        self._written = self._agreed = broadcast_object(self._written)
        if number:
            raise interruption(number)

    def _leave_saved(self) -> None:
        """Save, unless a checkpoint is being written, which then is the last one; all processes leave together."""
        writing = self._writer is not None and self._writer.is_alive()
        if not broadcast_object(writing or self._written == self._done):
            self._save(self._done)
        self.settle()
        kept = broadcast_object(self._written)  # torchrun kills the others when one leaves: all wait for the writer
        self._done = self._written = self._agreed = kept

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
            checkpoint_io.save(self.folder, state, done)
            self._written = done
        except BaseException as error:  # settle raises it in the main thread
            self._failed = error

    def settle(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            UserError: a file could not be written; earlier checkpoints are intact.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Context after which everything is on the disk, whatever happens inside."""
        try:
            yield
        finally:
            self.settle()

    def resume(self) -> tuple[int, list[str]]:
        """Restore the newest intact checkpoint, if there is one.

        Returns:
            The steps done, and a line for each damaged checkpoint that was skipped.

        Raises:
            BadRun: no checkpoint is intact, or it belongs to other images or another version.
        """
        first = rank() == 0
        if first:
            remove_unfinished(self.folder)
        step, state, skipped = checkpoint_io.load(self.folder, set_aside=True) if first else (0, None, [])
        step = broadcast_object(step)
        if step and not first:  # damaged files have been set aside
            step, state, _ = checkpoint_io.load(self.folder)
        if state is not None:
            with checkpoint_io.restoring(self.folder):
                self._restore(state)
        self._done = self._written = self._agreed = step
        return step, skipped

    def _restore(self, state: dict[str, Any]) -> None:
        saved = RunState.from_checkpoint(state)
        if saved.images != self.state.images:  # checked first, because labels are kept for each image
            raise BadRun(
                f"{self.folder.parent} was started with {saved.images} images, but now there are {self.state.images}: restore "
                "the images, or choose another --out"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        vars(self.state).update(vars(saved))

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Context in which SIGTERM, SIGINT and SIGUSR1 save and stop the run; a second SIGINT stops it at once.

        Raises:
            Interrupted: a signal stopped the run; everything is on the disk.
        """
        with listening(), if_stopped(self._kept):
            try:
                yield
            except Interrupted as stopped:  # between two steps, on all processes if any is not saved
                if self._kept() is None:
                    self._leave_saved()
                raise interruption(stopped.number) from None
            except Exception as error:
                number = heard()
                if isinstance(error, UserError) or number is None or self._kept() is None:
                    raise
                raise interruption(number) from error  # another process has left, and the connection to it is gone

    def _kept(self) -> str | None:
        """How the line about a stop at this moment ends; None if that would lose a step."""
        known = self._written if world_size() == 1 else self._agreed
        return saved_after(self._done) if known == self._done else None


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _check_finite(weights: dict[str, Tensor]) -> None:
    """Check the weights too: the loss of a step may be finite although the update after it was not."""
    finite = [local_tensor(value).isfinite().all() for value in weights.values() if value.is_floating_point()]
    if all_reduce_max((~torch.stack(finite).all()).int()):  # each process sees its shard of sharded weights
        raise NotFinite(
            "weights are no longer finite; the last checkpoint is from before: start over with another --out and a lower "
            "learning_rate.peak"
        )
