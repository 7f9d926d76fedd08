"""How long work reports what it does: the library speaks to a logger and never prints."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

from coterie.types import Progress

Item = TypeVar("Item")


@runtime_checkable
class Logger(Protocol):
    """Receives messages, metrics and progress."""

    def info(self, text: str) -> None:
        """Receive a message of one line."""

    def warning(self, text: str) -> None:
        """Receive a warning of one line."""

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """Receive a line of the log of a run of ``total_steps`` steps."""

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on ``items``, of which there are ``total``, while showing the progress of ``what``."""


@runtime_checkable
class StepLogger(Logger, Protocol):
    """A logger that also wants to hear of every step; a logger without this method is not asked to."""

    def log_step(self, progress: Progress, seconds: float | None) -> None:
        """Receive that a step is done. Called after every step, so it must be quick.

        Args:
            progress: the step.
            seconds: how long it took, without the callbacks. None: the step begins; it is the first one of this process.
        """


@runtime_checkable
class BudgetLogger(Logger, Protocol):
    """A logger that also wants to hear how much of a budget of time is used; a logger without this method is not asked to."""

    def log_budget(self, used: float, seconds: float) -> None:
        """Receive how much is used. Called after every step of a run with a budget, so it must be quick.

        Args:
            used: seconds that are used by now.
            seconds: the budget.
        """


class NullLogger:
    """Discards all messages."""

    def info(self, text: str) -> None:
        """Discard it."""

    def warning(self, text: str) -> None:
        """Discard it."""

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """Discard it."""

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on the items."""
        return iter(items)


class ProgressOnly(NullLogger):
    """Passes on progress, and discards all messages."""

    def __init__(self, logger: Logger) -> None:
        """Pass on to ``logger``."""
        self.logger = logger

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on the items, by way of the logger."""
        return self.logger.progress(items, total, what)


class CheckedLogger:
    """Passes everything on to another logger, and calls a function after each item of a progress: it may raise.

    Work that shows its progress can thus be stopped between two items, where nothing is half done.
    """

    def __init__(self, logger: Logger, check: Callable[[], None]) -> None:
        """Pass on to ``logger`` and call ``check``."""
        self.logger, self.check = logger, check
        self.info, self.warning, self.log_metrics = logger.info, logger.warning, logger.log_metrics
        if isinstance(logger, StepLogger):
            self.log_step = logger.log_step
        if isinstance(logger, BudgetLogger):
            self.log_budget = logger.log_budget

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Pass on the items, as long as the check does not raise."""
        for item in self.logger.progress(items, total, what):
            self.check()
            yield item


def is_silent(logger: Logger) -> bool:
    """Whether a logger, in whatever it is wrapped, discards all messages."""
    while not isinstance(logger, NullLogger) and (inner := getattr(logger, "logger", None)) is not None:
        logger = inner
    return isinstance(logger, NullLogger)
