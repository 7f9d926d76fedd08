"""What is written on the command line in a form of its own."""

from coterie.errors import UserError


def listed(words: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(word.strip() for word in words.split(",") if word.strip())


def named_set(text: str) -> tuple[str, str | tuple[str, str]]:
    """``NAME=TRAIN`` or ``NAME=TRAIN,TEST``.

    Raises:
        UserError: it is neither.
    """
    name, equals, where = text.partition("=")
    parts = [part for part in where.split(",") if part]
    if not (name and equals and 1 <= len(parts) <= 2):
        raise UserError(f"{text}: write each set as NAME=TRAIN or NAME=TRAIN,TEST")
    return name, parts[0] if len(parts) == 1 else (parts[0], parts[1])
