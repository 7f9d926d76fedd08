"""Results as tables: lines of text for a terminal, HTML for a notebook."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class TextTable:
    """Cells below a header, all of them texts.

    Attributes:
        header: one title per column.
        rows: one text per column.
        align: one letter per column: ``<`` left, ``>`` right; "": all left.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str = ""

    def lines(self) -> list[str]:
        """The table as lines, the header among them unless all its titles are empty."""
        rows = [self.header, *self.rows] if any(self.header) else list(self.rows)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(_padded, row, widths, self._sides())).rstrip() for row in rows]

    def html(self) -> str:
        """The table as HTML without any style but the alignment of its cells."""
        head = self._html_row("th", self.header) if any(self.header) else ""
        return f"<table>{head}{''.join(self._html_row('td', row) for row in self.rows)}</table>"

    def _html_row(self, tag: str, cells: Sequence[str]) -> str:
        inner = "".join(
            f'<{tag} style="text-align:{"right" if side == ">" else "left"}">{escape(cell)}</{tag}>'
            for cell, side in zip(cells, self._sides(), strict=True)
        )
        return f"<tr>{inner}</tr>"

    def _sides(self) -> str:
        return self.align or "<" * len(self.header)


class ShownInTables(ABC):
    """A result that ``print`` shows as text, and a notebook as tables and paragraphs: both from the same parts."""

    @abstractmethod
    def tables(self) -> Sequence[TextTable | str]:
        """The parts in their order: tables, and lines of text."""

    def __str__(self) -> str:
        """Return the text that the command of the same name prints."""
        lines: list[str] = []
        for part in self.tables():
            if isinstance(part, TextTable):
                lines += part.lines()
            else:
                lines.append(part)
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the text in IPython."""
        printer.text(str(self))

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        parts = [part.html() if isinstance(part, TextTable) else f"<div>{escape(part)}</div>" for part in self.tables()]
        return "\n".join(parts)


def _padded(text: str, width: int, side: str) -> str:
    return text.rjust(width) if side == ">" else text.ljust(width)
