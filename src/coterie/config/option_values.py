"""How values of options are read from the command line, and what Python takes in their place."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from coterie.errors import UserError


def _whole_number(kind: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number; cyclopts would round 1.5."""
    (token,) = tokens
    if not re.fullmatch(r"[+-]?\d+", token.value.replace("_", "")):
        raise UserError(f"{token.keyword} is {token.value}: give a whole number, such as {token.keyword} 10")
    return int(token.value)


def _numbers(kind: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    """Read numbers between commas or spaces."""
    try:
        return tuple(float(word) for token in tokens for word in token.value.split(",") if word.strip())
    except ValueError:
        name = tokens[0].keyword
        raise UserError(
            f"{name} is {' '.join(token.value for token in tokens)}: give numbers, such as {name} .5,.5,.5"
        ) from None


def _whole_numbers(kind: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Read whole numbers between commas."""
    words = [word for token in tokens for word in token.value.split(",") if word.strip()]
    if not all(re.fullmatch(r"\d+", word.strip()) for word in words):
        raise UserError(
            f"{tokens[0].keyword} is {','.join(words)}: give whole numbers, such as {tokens[0].keyword} 2,3"
        )
    return tuple(map(int, words))


Whole = Annotated[int, Parameter(converter=_whole_number)]

if TYPE_CHECKING:  # in Python also a module, and a dictionary of values by path, such as {"groups.counts": 300}
    from torch import nn

    Backbone = str | nn.Module
    Settings = Sequence[str] | Mapping[str, Any]
    Numbers = Sequence[float] | float
    Wholes = Sequence[int] | int
else:  # the command line reads these
    Backbone = str
    Settings = Sequence[str]
    Numbers = Annotated[tuple[float, ...], Parameter(converter=_numbers, consume_multiple=True, negative=())]
    Wholes = Annotated[tuple[int, ...], Parameter(converter=_whole_numbers, negative=())]
