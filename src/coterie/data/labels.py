"""From the labels that a source happens to have to numbers and the names of classes."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32

_LARGEST_NUMBER = 1_000_000  # an integer above this is an identifier rather than the number of a class

Labels = Int32[np.ndarray, " n"]


def classify(values: Iterable[int | str | None], names: Sequence[str] = ()) -> tuple[Labels | None, tuple[str, ...]]:
    """Number the classes.

    Integers stay what they are, so that a training and a test set agree even where one of them lacks a class; names are
    numbered in sorted order.

    Args:
        values: one label an image: an integer (negative: none), the name of a class, or None for none.
        names: the names of the classes 0, 1, 2 ..., where they are known.

    Returns:
        The number of each image's class (-1 for none) and the names of the classes; (None, ()) if nothing has a label.
    """
    known: dict[int | str, int] = {}
    codes = np.fromiter(
        (-1 if value is None else known.setdefault(value, len(known)) for value in values), dtype=np.int32
    )
    numbers = [value for value in known if isinstance(value, int)]
    if len(numbers) < len(known):  # at least one name: all are names
        return _rename(codes, [str(value) for value in known])
    if max(numbers, default=-1) < 0:
        return None, ()
    if max(numbers) > _LARGEST_NUMBER:
        return _rename(codes, ["" if value < 0 else str(value) for value in numbers])
    lookup = np.array([*(max(value, -1) for value in numbers), -1], dtype=np.int32)  # code -1 finds the last
    more = range(len(names), max(numbers) + 1)
    return lookup[codes], (*names, *(str(number) for number in more))


def _rename(codes: Labels, names: list[str]) -> tuple[Labels, tuple[str, ...]]:
    """Renumber codes by the sorted names of what they stand for; an empty name is no label."""
    classes = sorted({name for name in names if name})
    place = {name: number for number, name in enumerate(classes)}
    lookup = np.array([*(place.get(name, -1) for name in names), -1], dtype=np.int32)
    return lookup[codes], tuple(classes)
