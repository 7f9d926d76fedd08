"""Output on standard error: live progress at a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from coterie.cli.tables import LABEL_FREE_SHOWN

Item = TypeVar("Item")
PLAIN_SECONDS = 15.0
"""Seconds between two plain lines about progress."""


class Terminal:
    """A logger that writes to standard error, so that standard output holds results only."""

    def __init__(self) -> None:
        """Show live progress if standard error is a terminal."""
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._printed_at = 0.0
        self._first: tuple[float, int] | None = None

    def info(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def warning(self, text: str) -> None:
        """Print a line that is marked as a warning."""
        self.console.print(f"warning: {text}", markup=False, style="yellow")

    def _print_evaluation(self, record: dict[str, Any]) -> None:
        """Print a line of the log that is not about a step: probes, or label-free metrics."""
        for probe, metrics in record.items():
            if isinstance(metrics, dict) and probe != "label_free":
                best = ", ".join(f"{name} {value:.1f} %" for name, value in metrics.items() if "top1" in name)
                self.info(f"epoch {record['epoch'] + 1}: {'kNN' if probe == 'knn' else probe} {best}")
        label_free = record.get("label_free", {})
        shown = ", ".join(f"{name} {label_free[name]:.3g}" for name in LABEL_FREE_SHOWN if name in label_free)
        if shown:
            self.info(f"epoch {record['epoch'] + 1}: label-free {shown}")

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """Show a line of a run's log: advance the bar, or regularly print a plain line."""
        if "loss" not in record:
            self._print_evaluation(record)
            return
        done, now = record["step"] + 1, time.monotonic()
        self._first = self._first or (now, done)
        text = (
            f"epoch {record['epoch'] + 1}  loss {record['loss']:.3f} ({record['loss_over_ln_k']:.2f} ln K)  "
            f"groups {record['groups_used']}/{record['groups']}  spread {record['spread']:.2f}  "
            f"{record['images_per_second']:.0f} images/s  waiting for data {100 * record['data_wait']:.0f} %"
        )
        if self.live:
            self._advance_bar(text, done, total_steps)
        elif now - self._printed_at >= PLAIN_SECONDS or done == total_steps or "warning" in record:
            self._printed_at = now
            left = self._time_left(now, done, total_steps)
            self.info(f"step {done}/{total_steps}  {text}{left}")

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on the items, with a bar at a terminal and regular plain lines elsewhere."""
        if self.live:
            with self._new_bar() as bar:
                yield from bar.track(items, total=total, description=what)
            return
        printed_at = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - printed_at >= PLAIN_SECONDS:
                printed_at = time.monotonic()
                self.info(f"{what}: {done}/{total}")

    def close(self) -> None:
        """Stop the bar and restore the cursor."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        sys.stderr.flush()

    def _new_bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
        return Progress(*columns, console=self.console)

    def _advance_bar(self, text: str, done: int, total_steps: int) -> None:
        if self._bar is None or self._task is None:
            self._bar = self._new_bar()
            self._task = self._bar.add_task("", total=total_steps)
            self._bar.start()
        self._bar.update(self._task, description=text, completed=done)
        if done == total_steps:
            self.close()

    def _time_left(self, now: float, done: int, total_steps: int) -> str:
        assert self._first is not None
        began, first = self._first
        if done <= first:
            return ""
        seconds = (total_steps - done) * (now - began) / (done - first)
        return f"  {seconds / 60:.0f} min left" if seconds >= 90 else f"  {seconds:.0f} s left"
