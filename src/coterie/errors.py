"""Errors that the user can fix (one plain line, exit status 2), and warnings."""


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
