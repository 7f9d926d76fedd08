"""How long work tells what it does: the library speaks to a logger and never prints."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Logger(Protocol):
    """Somebody who wants to know."""

    def info(self, text: str) -> None:
        """A plain line."""

    def warning(self, text: str) -> None:
        """A plain line that asks for attention."""

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """A line of the log of a run of so many steps."""

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items as they are, while the progress through the ``total`` of them is shown."""


class NullLogger:
    """Nobody wants to know."""

    def info(self, text: str) -> None:
        """Ignored."""

    def warning(self, text: str) -> None:
        """Ignored."""

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        """Ignored."""

    def progress(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items."""
        return iter(items)
