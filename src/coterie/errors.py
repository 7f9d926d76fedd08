"""Errors that the user can fix (one plain line, exit status 2), and warnings."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix; its message is one line that says what is wrong and what to do.

    The command line prints the line without a traceback and exits with ``status``.
    """

    status = 2


class CoterieWarning(UserWarning):
    """Something that does not stop the work, but that the user should know; sent through :mod:`warnings`."""


class BadImage(UserError):  # noqa: N818 -- it names the thing, like KeyError
    """An image cannot be decoded; the run continues without it."""


class NoImages(UserError):  # noqa: N818
    """A source has no image that can be decoded."""


class BadConfig(UserError):  # noqa: N818
    """A setting is unknown, has the wrong type or contradicts another setting."""


class BadRun(UserError):  # noqa: N818
    """A run folder is missing, in use, unfinished or was made with other settings."""


def first_cause(error: Exception) -> str:
    """Describe the root cause of an exception in one line.

    Args:
        error: an exception, possibly raised ``from`` others. torch's compiler only quotes its cause in the message; the quoted
            line is used then.

    Returns:
        Type and first line of the root cause, at most about 200 characters.
    """
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    quoted = lines[0].endswith("raised:") and len(lines) > 1
    return lines[1][:200] if quoted else f"{type(error).__name__}: {lines[0][:200]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is closest to a misspelt one, whatever its case, with ``-`` for ``_`` or the other way round.

    Args:
        word: a word that is not known.
        known: words that are.

    Returns:
        ``"; did you mean X?"``, to end a message; empty if no word is close.
    """
    plain = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=0.5)
    return f"; did you mean {plain[near[0]]}?" if near else ""


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_")
