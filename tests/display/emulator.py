"""A terminal of a given width, just enough of one to see what a person sees."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

_CODE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Emulator:
    """Lines of characters that a program has written, and where its cursor is."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.wrapped: list[str] = []  # lines that were too long
        self.cursor_shown = True
        self.history: list[str] = []  # what stood on a line when the cursor went back to its start

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
            line = "".join(self.lines[self.row]).rstrip()
            if line and line not in self.history[-1:]:
                self.history.append(line)
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
    command: Sequence[str], width: int, *, stdout: Path, env: dict[str, str] | None = None
) -> tuple[int, Emulator]:
    """Run a command whose standard error is a terminal; returns its status, and the terminal at the end."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    own |= {"TERM": "xterm", "LANG": "C.UTF-8"} | (env or {})
    with stdout.open("w") as out:
        process = subprocess.Popen(command, stdin=there, stdout=out, stderr=there, env=own)
    os.close(there)
    data = b""
    while True:
        try:
            more = os.read(here, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        data += more
    os.close(here)
    emulator = Emulator(width)
    emulator.feed(data.decode())
    return process.wait(), emulator
