"""How long work tells what it does: the library speaks to a listener and never prints."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Listener(Protocol):
    """Somebody who wants to know."""

    def say(self, text: str) -> None:
        """A plain line."""

    def warn(self, text: str) -> None:
        """A plain line that asks for attention."""

    def record(self, record: dict[str, Any], total_steps: int) -> None:
        """A line of the log of a run of so many steps."""

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items as they are, while the progress through the ``total`` of them is shown."""


class Silent:
    """Nobody wants to know."""

    def say(self, text: str) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""

    def record(self, record: dict[str, Any], total_steps: int) -> None:
        """Ignored."""

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items."""
        return iter(items)
