"""What the documentation, and the code's own docstrings and messages, tell a reader to type."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
CODE = sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "examples").glob("*.py"))
HISTORY = ROOT / "docs" / "log.md"
"""What was run once is no promise: its commands may be of names that are no more."""

SHOWN_TO_BE_WRONG = {"path=value", "groups.counts=abc"}
"""A form, and the example of a message."""

_FENCE = re.compile(r"```(?:sh|bash|console|text)?\n(.*?)```", re.DOTALL)
_SETTING = re.compile(r"--set[ =]([^`\n]+)")
_INLINE = re.compile(r"`(coterie [a-z][^`]*)`")
_START = re.compile(r"^(?:.*(?:/|-m ))?coterie(?= [a-z])")


def commands() -> list[tuple[str, list[str]]]:
    """Every command line, as (where it stands, the words after ``coterie``)."""
    found = [(name, words) for page in PAGES if page != HISTORY for name, words in _of_page(page)]
    for path in CODE:
        text = re.sub(r"\s*\n\s*", " ", path.read_text("utf-8"))
        found += [(_name(path), words) for line in _INLINE.findall(text) if (words := _words(line))]
    return found


def settings() -> list[tuple[str, str]]:
    """Every ``PATH=VALUE`` of a ``--set`` of the pages, as (where it stands, the setting); a capital letter is any number."""
    found = []
    for page in PAGES:
        for rest in _SETTING.findall(page.read_text("utf-8")) if page != HISTORY else ():
            setting = _split(rest)[0].rstrip(".,;:)")
            if re.fullmatch(r"[a-z_.0-9]+=.+", setting) and setting not in SHOWN_TO_BE_WRONG:
                found.append((_name(page), re.sub(r"=[A-Z]$", "=2", setting)))
    return found


def python() -> list[tuple[str, str]]:
    """Every block of Python of the pages, as (where it stands, the code)."""
    block = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    return [
        (f"{_name(page)}, block {number}", textwrap.dedent(code))
        for page in PAGES
        for number, (_, code) in enumerate(block.findall(page.read_text("utf-8")), 1)
    ]


def _of_page(page: Path) -> Iterator[tuple[str, list[str]]]:
    text = page.read_text("utf-8")
    for block in _FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if _START.match(line.strip()) and (words := _words(line)):
                yield _name(page), words
    outside = re.sub(r"\s*\n\s*", " ", _FENCE.sub("", text))
    for line in _INLINE.findall(outside):
        if words := _words(line):
            yield _name(page), words


def _words(line: str) -> list[str]:
    """The words after ``coterie``; none of a line that breaks off, which leaves the rest to the reader."""
    line = re.split(r"  +#|\s[|>&]\s", _START.sub("", line.strip()).strip())[0]
    line = line.rstrip(".:;,")
    words = _split(re.sub(r"\[(--[^\]]*)\]", r"\1", line))  # [--size N] is an option that may be left out
    return [re.sub(r"^[A-Z]$", "2", word).partition("|")[0] for word in words if word != "..."]


def _split(text: str) -> list[str]:
    """The words of a shell's line, or of the part of it before quotes that are not closed."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))
