"""Keeps the training of a classifier, a detector or a segmenter in its folder, so that it goes on where it was stopped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from coterie.atomic import remove_unfinished
from coterie.logger import Logger
from coterie.signals import Interrupted, check_interrupted, heard, if_stopped, interruption, listening, saved_after
from coterie.training import checkpoint_io
from coterie.training.checkpoint_schedule import HasState
from coterie.training.trained_folder import TrainedFolder

SAVE_SECONDS = 60.0
"""How much of a training a killed process may lose."""


class Training(HasState, Protocol):
    """What goes on with the same bits from the state after any of its steps.

    Attributes:
        what: its name for people.
        done: steps that are done.
        total_steps: how many there are.
    """

    what: str
    done: int
    total_steps: int


class TrainingCheckpoints:
    """Saves a training every minute and where a signal stops it, with the lines that it has written to the log."""

    def __init__(self, folder: TrainedFolder, training: Training) -> None:
        """Keep ``training`` in ``folder``."""
        self.folder, self.training = folder, training
        self.records: list[dict[str, Any]] = []
        self._saved, self._saved_at = 0, time.monotonic()

    def resume(self, logger: Logger) -> None:
        """Go on from the newest intact checkpoint, if there is one; the log goes back to it.

        Args:
            logger: is told of damaged ones.

        Raises:
            BadRun: there are checkpoints, but none is intact or fits.
        """
        folder = self.folder.checkpoints
        remove_unfinished(folder)
        done, state, skipped = checkpoint_io.load(folder, set_aside=True)
        for line in skipped:
            logger.warning(line)
        if state is not None:
            with checkpoint_io.restoring(folder):
                self.training.load_state_dict(state["training"])
                self.records = list(state["records"])
            self._saved = done
            logger.info(f"{self.training.what}: resumes after step {done:,} of {self.training.total_steps:,}")
        if self.records or self.folder.log.exists():
            self.folder.write_log(self.records)

    def log(self, record: dict[str, Any]) -> None:
        """Add a line to the log, which is kept with the training.

        Raises:
            BadRun: the log cannot be written.
        """
        self.records.append(record)
        self.folder.append(record)

    def save(self) -> None:
        """Save the steps so far, unless they are.

        Raises:
            UserError: the file cannot be written; earlier ones are intact.
        """
        if self._saved == self.training.done:
            return
        state = {"training": self.training.state_dict(), "records": self.records}
        checkpoint_io.save(self.folder.checkpoints, state, self.training.done)
        self._saved, self._saved_at = self.training.done, time.monotonic()

    def after_step(self) -> None:
        """Save if it is time, and stop if a signal came; belongs after each step.

        Raises:
            Interrupted: a signal stopped the training; it is saved.
        """
        if heard() is not None or time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()
        check_interrupted()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Context of the training, in which signals save and stop it.

        Raises:
            Interrupted: a signal stopped it; it is saved.
        """
        with listening(), if_stopped(self._kept):
            try:
                yield
            except Interrupted as stopped:
                self.save()
                raise interruption(stopped.number) from None

    def _kept(self) -> str | None:
        return saved_after(self._saved) if self._saved == self.training.done else None
