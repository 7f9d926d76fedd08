"""A terminal of a given width, just enough of one to see what a person sees."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

_CODE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Emulator:
    """Lines of characters that a program has written, and where its cursor is."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.wrapped: list[str] = []  # lines that were too long
        self.cursor_shown = True

    def feed(self, text: str) -> None:
        while text:
            code = _CODE.match(text)
            if code:
                self._command(code[1], code[2])
                text = text[code.end() :]
                continue
            self._character(text[0])
            text = text[1:]

    def text(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.lines]

    def _command(self, value: str, letter: str) -> None:
        number = int(value) if value.isdecimal() else 1
        if letter == "A":
            self.row = max(0, self.row - number)
        elif letter == "K":
            line = self.lines[self.row]
            self.lines[self.row] = [] if value == "2" else line[: self.column]
        elif value == "?25":
            self.cursor_shown = letter == "h"
        elif letter not in "m":
            raise AssertionError(f"this terminal does not know {value}{letter}")

    def _character(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self.row, self.column = self.row + 1, self.column
            while len(self.lines) <= self.row:
                self.lines.append([])
        else:
            if self.column == self.width:
                self.wrapped.append("".join(self.lines[self.row]))
                self._character("\n")
                self.column = 0
            line = self.lines[self.row]
            line += " " * (self.column - len(line) + 1)
            line[self.column] = letter
            self.column += 1


def run_in_terminal(
    command: Sequence[str], width: int, *, stdout: str, env: dict[str, str] | None = None, every: float = 0.2
) -> tuple[int, Emulator, list[str]]:
    """Run a command whose standard error is a terminal: its status, the terminal at the end, and its last line over time."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    without = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with open(stdout, "w") as out:  # noqa: PTH123
        process = subprocess.Popen(
            command, stdin=there, stdout=out, stderr=there, env=without | {"TERM": "xterm"} | (env or {})
        )
    os.close(there)
    emulator, seen, looked = Emulator(width), list[str](), 0.0
    rest = b""
    while True:
        ready, _, _ = select.select([here], [], [], every)
        if ready:
            try:
                data = os.read(here, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            rest += data
            text = rest.decode("utf-8", "ignore")
            rest = b""
            emulator.feed(text)
        now = time.monotonic()
        if now - looked >= every:
            looked = now
            last = emulator.text()[emulator.row]
            if last and last not in seen[-1:]:
                seen.append(last)
    os.close(here)
    return process.wait(), emulator, seen
