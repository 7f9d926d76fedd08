"""A logger hears of a step when it is done, and what follows is no part of the next one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coterie.logger import NullLogger
from coterie.training import step_progress
from coterie.training.step_progress import StepProgress
from coterie.types import Batch, Progress, StepResult

RESULT = StepResult(torch.zeros(()), torch.zeros(1, 2, 3), [], torch.zeros(2, dtype=torch.int64))
BATCH = Batch(torch.zeros(2, dtype=torch.int64), {})


class Steps(NullLogger):
    def __init__(self) -> None:
        self.heard: list[tuple[int, float | None]] = []

    def log_step(self, progress: Progress, seconds: float | None) -> None:
        self.heard.append((progress.step, seconds))


@pytest.mark.parametrize("logger", [Steps(), NullLogger()], ids=["steps", "no steps"])
def test_pauses_are_no_part_of_a_step(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(step_progress, "time", SimpleNamespace(perf_counter=lambda: now))
    shown = StepProgress(logger)
    batches = [(Progress(step, 5, 10), BATCH) for step in (3, 4)]
    now += 60.0  # the memory is filled
    for progress, _ in shown.starting(batches, batches[0][0]):
        now += 2.0  # the step
        shown.done(progress, RESULT)
        now += 30.0  # an evaluation
        shown.resumed(progress, RESULT)
        now += 0.5  # the next batch
    if isinstance(logger, Steps):
        assert logger.heard == [(3, None), (3, 2.0), (4, 2.5)]
