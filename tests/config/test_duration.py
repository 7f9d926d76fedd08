"""Durations as people write them."""

import math

import pytest

from coterie.config.duration import format_minutes, parse_minutes
from coterie.errors import UserError


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("30m", 30),
        ("2h", 120),
        ("90s", 1.5),
        ("1h30m", 90),
        ("1h 30m 6s", 90.1),
        ("1.5h", 90),
        (".5h", 30),
        ("45", 45),
        (45, 45),
        (0.5, 0.5),
        (" 2H ", 120),
    ],
)
def test_a_duration_is_read_in_minutes(text: str | float, minutes: float) -> None:
    assert parse_minutes(text) == pytest.approx(minutes)


@pytest.mark.parametrize(
    "text", ["0", 0, "0m", "-5m", -3, "nan", math.nan, "inf", "5 parsecs", "", "m", "30m2h", "1e400h"]
)
def test_anything_else_is_refused_in_one_line(text: str | float) -> None:
    with pytest.raises(UserError, match=r"^--time .*: give a duration above 0, such as 90s, 30m, 2h, 1h30m[^\n]*$"):
        parse_minutes(text)


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(0.6, "36s"), (2, "2m"), (1.501, "91s"), (30, "30m"), (29.2, "30m"), (90, "90m"), (150, "2h30m")],
)
def test_it_is_written_rounded_up_and_read_again(minutes: float, text: str) -> None:
    assert format_minutes(minutes) == text
    assert parse_minutes(text) >= minutes
