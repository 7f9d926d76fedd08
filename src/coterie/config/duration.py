"""Durations as people write them: 90s, 30m, 2h, 1h30m, or a number of minutes."""

import math
import re

from coterie.errors import UserError

MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0}
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_PARTS = re.compile(rf"(?:({_NUMBER})\s*h)?\s*(?:({_NUMBER})\s*m)?\s*(?:({_NUMBER})\s*s)?", re.IGNORECASE)


def parse_minutes(value: str | float) -> float:
    """The minutes of a duration.

    Args:
        value: hours, minutes and seconds, as in 2h, 30m, 90s or 1h30m; a bare number is minutes.

    Raises:
        UserError: it is no duration, or not above 0.
    """
    text = str(value).strip()
    found = _PARTS.fullmatch(text)
    minutes = math.nan
    if found and any(found.groups()):
        minutes = sum(float(each) * MINUTES[unit] for each, unit in zip(found.groups(), "hms", strict=True) if each)
    elif re.fullmatch(_NUMBER, text):
        minutes = float(text)
    if not 0 < minutes < math.inf:
        raise UserError(f"--time {text}: give a duration above 0, such as 90s, 30m, 2h, 1h30m, or a number of minutes")
    return minutes


def format_minutes(minutes: float) -> str:
    """Write a duration so that :func:`parse_minutes` reads it: 90s, 30m, 2h, 1h30m; to the second below three minutes.

    Args:
        minutes: the minutes; from three on, they are rounded up to whole ones.
    """
    if minutes < 3:
        seconds = max(1, math.ceil(60 * minutes - 1e-6))
        return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"
    whole = math.ceil(minutes - 1e-6)
    hours, rest = divmod(whole, 60)
    return f"{whole}m" if whole < 120 and rest else f"{hours}h{f'{rest}m' if rest else ''}"
