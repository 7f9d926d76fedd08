"""The logger that shows a person what happens: a status line with the time left, and messages."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from coterie.display.screens import choose_screen
from coterie.display.status import StepStatus, WorkStatus, metric_columns
from coterie.display.time_left import clock_time
from coterie.types import Progress

Item = TypeVar("Item")
LABEL_FREE_SHOWN = ("effective_rank", "perplexity", "lidar", "stability")
"""The label-free metrics that are shown during training."""


class Terminal:
    """A logger for a person; see :mod:`coterie.display.screens` for what it looks like where.

    At a terminal and in a pipe it writes to standard error, so that standard output holds results only.
    """

    def __init__(self, *, prints_warnings: bool = True) -> None:
        """Show everything on the screen of this process.

        Args:
            prints_warnings: false: somebody else shows the warnings.
        """
        self.screen = choose_screen()
        self.prints_warnings = prints_warnings
        self._steps: StepStatus | None = None
        self._work: list[WorkStatus] = []  # the innermost last
        self._drawn = 0.0

    def info(self, text: str) -> None:
        """Show a message."""
        self.screen.message(text)

    def warning(self, text: str) -> None:
        """Show a warning."""
        if self.prints_warnings:
            self.screen.message(f"warning: {text}", "yellow")

    def log_step(self, progress: Progress, seconds: float | None) -> None:
        """Advance the status line; see :meth:`coterie.logger.StepLogger.log_step`."""
        if self._steps is None:
            self._steps = StepStatus(progress, begins=seconds is None)
        if seconds is not None:
            self._steps.step(progress, seconds)
        elif not self.screen.redraws:
            return
        early = self._steps.steps_here <= 2  # from then on the time left is known
        if early or time.monotonic() - self._drawn >= self.screen.seconds:
            self._draw()

    def log_budget(self, used: float, seconds: float) -> None:
        """Show how much of a budget is left, with the next step."""
        if self._steps is not None:
            self._steps.budget = (used, seconds)

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """Show a line of the log of a run: on the status line, or what an evaluation found as a message."""
        if "loss" not in record:
            self._show_evaluation(record)
            return
        last = record["step"] + 1 == total_steps
        if self._steps is not None:
            self._steps.metrics = record
            if last:
                self._end_steps()
            elif "warning" in record:
                self._draw()
        elif last or time.monotonic() - self._drawn >= self.screen.seconds:  # a caller that logs no steps
            self._drawn = time.monotonic()
            place = [f"step {record['step'] + 1}/{total_steps}", f"epoch {record['epoch'] + 1}"]
            self.screen.status([*place, *metric_columns(record)], record["step"] + 1, total_steps)

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on the items, and show how far they are in place of the steps."""
        status, inside = WorkStatus(what, total), bool(self._work) or self._steps is not None
        began = time.monotonic()
        soon = began + self.screen.first_seconds  # quick work is not worth a line of its own
        self._work.append(status)
        try:
            if soon == began:
                self._draw()
            for item in items:
                yield item
                status.step()
                now = time.monotonic()
                if now >= soon and (now - self._drawn >= self.screen.seconds or self._drawn < soon):
                    self._draw()
        finally:
            self._work.remove(status)
            took = time.monotonic() - began
            if inside and self.screen.redraws:
                self._draw()
            elif not inside:
                done = f"{what}: {status.done}/{total} in {clock_time(took)}"
                self.screen.end_status([done] if took >= self.screen.worth_keeping else [])

    def close(self) -> None:
        """Leave the last status of the steps, if they did not reach their end, and restore the cursor."""
        self._work.clear()
        if self._steps is not None:
            self._end_steps()
        self.screen.end_status()
        sys.stderr.flush()

    def _draw(self) -> None:
        status = self._work[-1] if self._work else self._steps
        if status is not None:
            self._drawn = time.monotonic()
            self.screen.status(status.columns(), status.done, status.total)

    def _end_steps(self) -> None:
        assert self._steps is not None
        columns, self._steps = self._steps.last_columns(), None
        self.screen.end_status(columns)

    def _show_evaluation(self, record: dict[str, Any]) -> None:
        """Show a line of the log that is not about a step: probes, or label-free metrics."""
        for probe, metrics in record.items():
            if isinstance(metrics, dict) and probe != "label_free":
                best = ", ".join(f"{name} {value:.1f} %" for name, value in metrics.items() if "top1" in name)
                self.info(f"epoch {record['epoch'] + 1}: {'kNN' if probe == 'knn' else probe} {best}")
        label_free = record.get("label_free", {})
        shown = ", ".join(f"{name} {label_free[name]:.3g}" for name in LABEL_FREE_SHOWN if name in label_free)
        if shown:
            self.info(f"epoch {record['epoch'] + 1}: label-free {shown}")
