"""What a person can mend: one plain line, exit status 2."""


class UserError(Exception):
    """Something that the person who started the program can mend; the message says how, in one line."""

    status = 2


class BadImage(UserError):  # noqa: N818 -- it names the thing, like KeyError
    """One image that cannot be decoded; the run goes on without it."""


class NoImages(UserError):  # noqa: N818
    """A source without a single image that can be decoded."""


class BadConfig(UserError):  # noqa: N818
    """A setting that is unknown, of the wrong type, or at odds with another."""


class BadRun(UserError):  # noqa: N818
    """A run folder that is missing, in use, unfinished or made with other settings."""


def first_cause(error: Exception) -> str:
    """Kind and first line of what an error came from in the end; of torch's compiler too, which only quotes it."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    quoted = lines[0].endswith("raised:") and len(lines) > 1
    return lines[1][:200] if quoted else f"{type(error).__name__}: {lines[0][:200]}"
