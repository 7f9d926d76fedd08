"""What a person at a terminal sees: live progress, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from coterie.estimating import Plan
from coterie.evaluation.drawing import duration
from coterie.evaluation.selection import Selection
from coterie.telling import reasoned

Item = TypeVar("Item")
PLAIN_SECONDS = 15.0
"""How often a plain line tells of progress."""
LABEL_FREE_SHOWN = ("effective_rank", "perplexity", "lidar", "stability")


class Terminal:
    """Tells on standard error what goes on, so that standard output stays free for results."""

    def __init__(self) -> None:
        """Look whether there is a terminal."""
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0
        self._first: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        """A plain line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A line that asks for attention."""
        self.console.print(f"warning: {text}", markup=False, style="yellow")

    def _aside(self, record: dict[str, Any]) -> None:
        """A line of the log that is no step: a probe with labels, or a look without."""
        for probe, figures in record.items():
            if isinstance(figures, dict) and probe != "label_free":
                best = ", ".join(f"{name} {value:.1f} %" for name, value in figures.items() if "top1" in name)
                self.say(f"epoch {record['epoch'] + 1}: {'kNN' if probe == 'knn' else probe} {best}")
        seen = record.get("label_free", {})
        shown = ", ".join(f"{name} {seen[name]:.3g}" for name in LABEL_FREE_SHOWN if name in seen)
        if shown:
            self.say(f"epoch {record['epoch'] + 1}: without labels {shown}")

    def record(self, record: dict[str, Any], total_steps: int) -> None:
        """A line of a run's log: the bar moves on, or now and then a plain line."""
        if "loss" not in record:
            self._aside(record)
            return
        done, now = record["step"] + 1, time.monotonic()
        self._first = self._first or (now, done)
        text = (
            f"epoch {record['epoch'] + 1}  loss {record['loss']:.3f} ({record['loss_over_ln_k']:.2f} ln K)  "
            f"groups {record['groups_used']}/{record['groups']}  spread {record['spread']:.2f}  "
            f"{record['images_per_second']:.0f} images/s  waiting for data {100 * record['data_wait']:.0f} %"
        )
        if self.live:
            self._move(text, done, total_steps)
        elif now - self._said >= PLAIN_SECONDS or done == total_steps or "warning" in record:
            self._said = now
            left = self._left(now, done, total_steps)
            self.say(f"step {done}/{total_steps}  {text}{left}")

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items, with a bar at a terminal and a plain line now and then elsewhere."""
        if self.live:
            with self._new_bar() as bar:
                yield from bar.track(items, total=total, description=what)
            return
        said = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                self.say(f"{what}: {done}/{total}")

    def close(self) -> None:
        """Leave the screen as a person expects it."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        sys.stderr.flush()

    def _new_bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
        return Progress(*columns, console=self.console)

    def _move(self, text: str, done: int, total_steps: int) -> None:
        if self._bar is None or self._task is None:
            self._bar = self._new_bar()
            self._task = self._bar.add_task("", total=total_steps)
            self._bar.start()
        self._bar.update(self._task, description=text, completed=done)
        if done == total_steps:
            self.close()

    def _left(self, now: float, done: int, total_steps: int) -> str:
        assert self._first is not None
        began, first = self._first
        if done <= first:
            return ""
        seconds = (total_steps - done) * (now - began) / (done - first)
        return f"  {seconds / 60:.0f} min left" if seconds >= 90 else f"  {seconds:.0f} s left"


def plan_lines(plan: Plan) -> list[str]:
    """A plan as it is shown: the settings that were found, with their reasons; then what a run takes."""
    rows = [("setting", "value", "reason"), *reasoned(plan.config, plan.reasons)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    found = plan.estimate
    phases = {
        "start": found.starting,
        "filling the memory": found.filling,
        "training": found.training,
        "refreshes": found.refreshes,
        "looks": found.looking,
        "report": found.reporting,
    }
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases.items() if seconds >= 0.5)
    lines = [
        *(f"{path:<{first}}  {value:<{second}}  {reason}" for path, value, reason in rows),
        "",
        plan.summary,
        f"time    about {duration(found.seconds)}: {parts} ({found.step:.3g} s a step)",
        f"memory  about {found.memory / 2**30:.2f} GiB: {found.main_memory / 2**30:.2f} the main process, "
        f"{found.worker_memory / 2**30:.2f} what loads images",
    ]
    if found.device_memory:
        lines.append(f"device  about {found.device_memory / 2**30:.2f} GiB of tensors")
    return [*lines, f"from {found.steps} steps rehearsed here; another load of this machine is another time"]


def figure_lines(result: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What probes found, a line a figure."""
    width = max((len(name) for figures in result.values() for name in figures), default=0)
    return [
        f"{probe}  {name:<{width}}  {value:10.4g}"
        for probe, figures in result.items()
        for name, value in figures.items()
    ]


def transfer_lines(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A row a set, a column a figure."""
    names = list(dict.fromkeys(name for figures in table.values() for name in figures))
    rows = [
        ("", *names),
        *(
            (each, *(f"{figures[name]:.4g}" if name in figures else "-" for name in names))
            for each, figures in table.items()
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def selection_lines(found: Selection) -> list[str]:
    """The snapshot that was chosen and why; below it what every look said."""
    table: dict[str, dict[str, float]] = {}
    for look in found.table:
        first = {"score": look.score, "knn": look.knn}
        mark = "*" if look.step == found.step else " "
        table[f"{mark} {look.snapshot}"] = {
            name: each for name, each in first.items() if each is not None
        } | look.figures
    return [found.snapshot, *found.reasons, "", *transfer_lines(table)]
