"""Keeps a training of a classifier in a folder, so that it goes on where it was stopped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.atomic import remove_unfinished
from coterie.evaluation.probes.classifier_training import ClassifierTraining
from coterie.logger import Logger
from coterie.signals import Interrupted, check_interrupted, heard, if_stopped, interruption, listening, saved_after
from coterie.training import checkpoint_io

SAVE_SECONDS = 60.0
"""How much of a training a killed process may lose."""


class TrainingCheckpoints:
    """Saves a training every minute and where a signal stops it.

    Attributes:
        records: lines about the epochs that are done, which are kept with it.
    """

    def __init__(self, folder: Path, training: ClassifierTraining) -> None:
        """Keep ``training`` in ``folder``."""
        self.folder, self.training = folder, training
        self.records: list[dict[str, Any]] = []
        self._saved, self._saved_at = 0, time.monotonic()

    def resume(self, logger: Logger) -> None:
        """Go on from the newest intact checkpoint, if there is one.

        Args:
            logger: is told of damaged ones.

        Raises:
            BadRun: there are checkpoints, but none is intact or fits.
        """
        if not self.folder.is_dir():
            return
        remove_unfinished(self.folder)
        done, state, skipped = checkpoint_io.load(self.folder, set_aside=True)
        for line in skipped:
            logger.warning(line)
        if state is None:
            return
        with checkpoint_io.restoring(self.folder):
            self.training.load_state_dict(state["training"])
            self.records = list(state["records"])
        self._saved = done
        logger.info(f"{self.training.what}: resumes after step {done} of {self.training.loader.total_steps}")

    def save(self) -> None:
        """Save the steps so far, unless they are.

        Raises:
            UserError: the file cannot be written; earlier ones are intact.
        """
        if self._saved == self.training.done:
            return
        state = {"training": self.training.state_dict(), "records": self.records}
        checkpoint_io.save(self.folder, state, self.training.done)
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
