"""What the status line says about the steps of a run, and about any other long work: its columns, the most important first."""

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from coterie.display.time_left import TimeLeft, clock_time
from coterie.types import Progress

GAP = "  "
LONGEST_BAR, SHORTEST_BAR = 30, 10


class StepStatus:
    """The steps of a run: how far it is, and the latest line of its log."""

    def __init__(self, progress: Progress, begins: bool) -> None:
        """Start at a step that begins, or that is done."""
        self.total = progress.total_steps
        self.done = progress.step + (not begins)
        self.epochs = -(-progress.total_steps // progress.steps_per_epoch)
        self.epoch = progress.epoch + 1
        self.time_left = TimeLeft(self.total, progress.step)
        self.metrics: dict[str, Any] = {}
        self.budget: tuple[float, float] | None = None
        """Seconds used when it was told, and in all."""
        self.steps_here = 0

    def step(self, progress: Progress, seconds: float) -> None:
        """Count a step that is done."""
        self.steps_here += 1
        self.done, self.epoch = progress.step + 1, progress.epoch + 1
        self.total = self.time_left.total = progress.total_steps  # which a budget changes
        self.epochs = -(-progress.total_steps // progress.steps_per_epoch)
        self.time_left.step(self.done, seconds)

    def columns(self) -> list[str]:
        """The columns; those about the loss only once the log has a line."""
        return [*filter(None, [self.time_left.text()]), *self._budget(), *self._place(), *metric_columns(self.metrics)]

    def last_columns(self) -> list[str]:
        """The columns to leave when no more steps come: how long it took in place of the time left."""
        return [*self._place(), f"in {clock_time(self.time_left.elapsed)}", *metric_columns(self.metrics)]

    def _budget(self) -> list[str]:
        if self.budget is None:
            return []
        used, seconds = self.budget
        return [f"{clock_time(max(0.0, seconds - used))} of {clock_time(seconds)} to go"]

    def _place(self) -> list[str]:
        return [f"step {self.done}/{self.total}", f"epoch {self.epoch}/{self.epochs}"]


class WorkStatus:
    """Work on a number of items."""

    def __init__(self, what: str, total: int) -> None:
        """Start with none of the items done."""
        self.what, self.total, self.done = what, total, 0
        self.time_left = TimeLeft(total)

    def step(self) -> None:
        """Count an item."""
        self.done += 1
        self.time_left.step(self.done)

    def columns(self) -> list[str]:
        """The columns."""
        return [*filter(None, [self.time_left.text()]), f"{self.what}: {self.done}/{self.total}"]


def metric_columns(record: dict[str, Any]) -> list[str]:
    """The columns about a line of the log of a run."""
    if "loss" not in record:
        return []
    return [
        f"loss {record['loss']:.3f}",
        f"{record['loss_over_ln_k']:.2f} ln K",
        f"groups {record['groups_used']}/{record['groups']}",
        *([f"regularizer {record['regularization']:.2f}"] if "regularization" in record else []),
        f"{record['images_per_second']:.0f} images/s",
        f"spread {record['spread']:.2f}",
        f"waiting for data {100 * record['data_wait']:.0f} %",
    ]


def fit(columns: Sequence[str], width: int) -> str:
    """Join as many of the columns, from the first on, as fit into so many cells; the first one is cut if it has to be."""
    line = ""
    for column in columns:
        longer = line + GAP * bool(line) + column
        if cell_len(longer) > width:
            break
        line = longer
    return line or set_cell_size("".join(columns[:1]), max(width, 0)).rstrip()


def bar(done: int, total: int, room: int, *, ascii_only: bool = False) -> tuple[str, str]:
    """The done and the other part of a bar that fits into so many cells; empty texts if it would be too short."""
    length = min(LONGEST_BAR, room)
    if length < SHORTEST_BAR or total < 1:
        return "", ""
    full = min(length, length * done // total)
    dark, light = ("#", ".") if ascii_only else ("━", "┈")
    return dark * full, light * (length - full)
