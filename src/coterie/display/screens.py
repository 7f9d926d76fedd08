"""Where messages and the status line appear: at a terminal, as plain lines, in a notebook."""

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from coterie.display.status import GAP, bar, fit

NOTEBOOK_WIDTH = 80


class LiveScreen:
    """A terminal: the status line is its last line, redrawn in place, and messages appear above it.

    It is drawn only when it is asked to, without a thread: loader workers are forked while it is there.
    """

    seconds = 0.25
    """Between two drawings of the status line."""
    first_seconds = 0.0
    """Before the first line about work other than steps."""
    worth_keeping = 5.0
    """Seconds that work has to take for its last status to stay."""
    redraws = True
    """Whether the status line changes in place."""

    def __init__(self, console: Console) -> None:
        """Draw on a console."""
        self.console = console
        self._live: Live | None = None

    def message(self, text: str, style: str = "") -> None:
        """Show a message, wrapped between words."""
        for line in wrapped(text, self.console.width):
            self.console.print(Text(line, style=style), soft_wrap=True)

    def status(self, columns: Sequence[str], done: int, total: int) -> None:
        """Draw the status line: the columns that fit, and a bar if there is room for it."""
        width = self.console.width - 1  # a full line would wrap on some terminals
        line = fit(columns, width)
        ascii_only = not self.console.encoding.startswith("utf")
        full, rest = bar(done, total, width - len(line) - len(GAP), ascii_only=ascii_only)
        text = Text.assemble(line, GAP if full or rest else "", (full, "green"), (rest, "dim"))
        text.no_wrap, text.overflow = True, "crop"
        if self._live is None:
            self._live = Live(text, console=self.console, auto_refresh=False, transient=True)
            self._live.start()
            self.console.show_cursor(True)  # a process that is killed could not bring it back
        self._live.update(text, refresh=True)

    def end_status(self, columns: Sequence[str] = ()) -> None:
        """Remove the status line; leave these columns in its place."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if columns:
            self.console.print(Text(fit(columns, self.console.width - 1)), soft_wrap=True)


class PlainScreen:
    """A pipe or a file: now and then the status as a line of its own."""

    seconds = 15.0
    first_seconds = 2.0
    worth_keeping = 5.0
    redraws = False

    def __init__(self) -> None:
        """Write to standard error. Messages are as long as they are; the status fits into ``COLUMNS``, if that is set."""
        width = os.environ.get("COLUMNS", "")
        self.width = int(width) if width.isdecimal() and int(width) > 0 else None

    def message(self, text: str, style: str = "") -> None:
        """Write a message."""
        sys.stderr.write(text + "\n")  # one line each, for whoever searches in them
        sys.stderr.flush()

    def status(self, columns: Sequence[str], done: int, total: int) -> None:
        """Write the status as a line."""
        self.message(GAP.join(columns) if self.width is None else fit(columns, self.width))

    def end_status(self, columns: Sequence[str] = ()) -> None:
        """Write the last status, if there is one to leave."""
        if columns:
            self.status(columns, 1, 1)


class NotebookScreen:
    """A notebook: messages are output of the cell, and the status is one line among them that changes in place."""

    seconds = 0.5
    first_seconds = 0.0
    worth_keeping = 0.0
    redraws = True

    def __init__(self) -> None:
        """Show in the cell that is running."""
        display: Callable[..., Any] = sys.modules["IPython"].display.display
        self._display = display
        self._handle: Any = None

    def message(self, text: str, style: str = "") -> None:
        """Write a message to the output of the cell, wrapped between words."""
        sys.stdout.write("\n".join(wrapped(text, NOTEBOOK_WIDTH)) + "\n")
        sys.stdout.flush()

    def status(self, columns: Sequence[str], done: int, total: int) -> None:
        """Change the status line."""
        line = fit(columns, NOTEBOOK_WIDTH)
        full, rest = bar(done, total, NOTEBOOK_WIDTH - len(line) - len(GAP))
        self._show(line + (GAP if full or rest else "") + full + rest)

    def end_status(self, columns: Sequence[str] = ()) -> None:
        """Leave these columns in place of the status line, or nothing."""
        if columns or self._handle is not None:
            self._show(fit(columns, NOTEBOOK_WIDTH))
        self._handle = None

    def _show(self, line: str) -> None:
        bundle = {"text/plain": line}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


Screen = LiveScreen | PlainScreen | NotebookScreen


def choose_screen() -> Screen:
    """The screen of this process: a notebook's, a terminal's if standard error is one, or plain lines."""
    if in_notebook():
        return NotebookScreen()
    console = Console(stderr=True, highlight=False)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveScreen(console)
    return PlainScreen()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, VS Code, Colab)."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of so many characters, broken only between words; the lines after the first are indented."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    lines = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return lines or [""]
