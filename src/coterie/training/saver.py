"""When to save, and what."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from coterie.atomic import remove_unfinished
from coterie.errors import BadRun, UserError
from coterie.training import checkpoint
from coterie.training.monitor import Monitor, NotFinite
from coterie.types import Progress, StepResult


@runtime_checkable
class HasState(Protocol):
    """A part whose state is saved: a module, an optimiser, a monitor."""

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


class Saver:
    """Saves every so many steps or minutes, at the end, and when the run is asked to stop or is called ended.

    A save follows only a loss that is a number.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, HasState],
        monitor: Monitor,
        *,
        steps: int,
        minutes: float,
        also: Callable[[], None],
        extra: dict[str, Any],
    ) -> None:
        """Call ``also``, then save the state of ``parts`` and the values in ``extra`` to ``folder``."""
        self.folder, self.parts, self.monitor = folder, parts, monitor
        self.steps, self.minutes, self.also, self.extra = steps, minutes, also, extra
        self.asked: int | None = None
        self._saved = time.monotonic()

    def __call__(self, progress: Progress, result: StepResult) -> None:
        """After a step: save if it is time."""
        done = progress.step + 1
        due = self.steps > 0 and done % self.steps == 0
        late = time.monotonic() - self._saved >= 60 * self.minutes
        ended = self.extra.get("ended")
        if due or late or done == progress.total_steps or self.asked is not None or ended:
            self.monitor.check_finite()
            state = {name: part.state_dict() for name, part in self.parts.items()}
            _check_finite(state["student"])
            self.also()  # before the checkpoint: what a finished run says is done must be there
            checkpoint.save(self.folder, state | {"extra": self.extra}, done)
            self._saved = time.monotonic()
        if self.asked is not None and done < progress.total_steps:
            raise Interrupted(self.asked, done)
        if ended and done < progress.total_steps:
            raise Ended(ended)

    def resume(self) -> tuple[int, list[str]]:
        """Take over the newest whole checkpoint, if there is one: the steps done, and what was passed over."""
        remove_unfinished(self.folder)
        step, state, passed_over = checkpoint.load(self.folder, set_aside=True)
        if state is not None:
            before, now = state["extra"]["images"], self.extra["images"]
            if before != now:  # asked before anything is taken over: labels are kept for each image
                raise BadRun(
                    f"{self.folder.parent} was begun with {before} images, now there are {now}: bring the images back, or "
                    "choose another --out"
                )
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.extra.update(state["extra"])
        return step, passed_over

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


def _check_finite(weights: dict[str, Tensor]) -> None:
    """A loss may be a number when the step after it was not."""
    finite = [value.isfinite().all() for value in weights.values() if value.is_floating_point()]
    if not torch.stack(finite).all():
        raise NotFinite(
            "weights are no longer numbers; the last checkpoint is from before: begin again with a lower learning_rate.peak"
        )
