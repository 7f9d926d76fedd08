"""The callback protocol: what a run calls during training.

After each step a run calls, in this order:

1. ``on_step_end`` of the monitor, which accumulates metrics and regularly writes a line of the log;
2. ``on_step_end`` of each other callback, then ``on_epoch_end`` if an epoch ends;
3. the checkpointer, which saves if it is time, if the run is to stop, or if slow work is due;
4. ``on_due`` of each callback whose ``is_due`` returned true before the step was saved.

Cheap work and saving thus come before slow work: whatever happens during slow work, the step before it is saved together with
the list of what is due, and a resumed run starts with that. :mod:`coterie.training.callback_runner` implements this order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coterie.config.schema import PretrainConfig
from coterie.data.sources.source import ImageSource
from coterie.logger import Logger
from coterie.training.student import Student
from coterie.types import Progress, StepResult


@dataclass(frozen=True)
class RunContext:
    """What a callback can read about its run, and how it can act on it.

    Attributes:
        folder: the run's folder.
        config: its settings.
        source: its images.
        start_step: steps already done: 0, or where the run resumes.
        total_steps: steps of the whole run.
        logger: receives messages and progress.
        log: adds a line to ``metrics.jsonl``, together with the current step and epoch.
        end: ends the run after this step, for the given reason.
        ended: why the run has ended before its last step; None: it has not.
    """

    folder: Path
    config: PretrainConfig
    source: ImageSource
    start_step: int
    total_steps: int
    logger: Logger
    log: Callable[[dict[str, Any]], None]
    end: Callable[[str], None]
    ended: str | None = None


class Callback:
    """Called by a run during training: subclass it and override what you need. Every method is optional.

    Methods are called on the first process only, so they must not use collectives; :meth:`is_due` is called on every process.
    A callback may read everything, but must not change what is learned.

    After an exception in a method the run saves, and then stops or continues as ``on_error`` says, on all processes.

    Attributes:
        name: names the callback in messages and checkpoints; the name of its class unless it is set.
        on_error: what to do after an exception in one of its methods: ``stop``, or ``continue`` with a warning.
        every_process: call :meth:`on_step_end` on every process, and let its exceptions through; only for callbacks that use
            collectives and raise the same exception on all processes.
        keeps_ended: whether a run that this callback has ended stays ended when it is resumed.
    """

    name: str = ""
    on_error: Literal["stop", "continue"] = "stop"
    every_process: bool = False
    keeps_ended: bool = True

    def on_start(self, run: RunContext) -> None:
        """Called before the first step of this process, after a resume too."""

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        """Called after each step. Keep it cheap, and do not wait for the device, which holds ``result``."""

    def on_epoch_end(self, progress: Progress) -> None:
        """Called after the last step of each epoch. Keep it cheap."""

    def on_metrics(self, record: dict[str, Any]) -> None:
        """Called after a line was added to ``metrics.jsonl``."""

    def on_warning(self, text: str) -> None:
        """Called after a warning in the log, such as that the run looks collapsed."""

    def on_checkpoint(self, steps: int) -> None:
        """Called after the state of ``steps`` steps was handed to the thread that writes checkpoints."""

    def is_due(self, progress: Progress) -> bool:
        """Whether to call :meth:`on_due` after this step; called on every process, so it must depend on nothing else."""
        return False

    def on_due(self, student: Student, progress: Progress) -> None:
        """Slow work, such as an evaluation; the student is complete (not sharded) and in evaluation mode."""

    def on_end(self, student: Student) -> None:
        """Called when the run has ended: after its last step, early, or because it collapsed; with the complete student."""
