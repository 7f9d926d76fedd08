"""From the labels that a source happens to have to numbers and the names of classes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32

_LARGEST_NUMBER = 1_000_000  # an integer above this is an identifier rather than the number of a class

Labels = Int32[np.ndarray, " n"]


@dataclass(frozen=True)
class LabelMatrix:
    """Which images carry which classes: several, one or none.

    Attributes:
        rows: one row an image, one column a class.
        known: False for an image whose labels nobody has said; its row is empty.
        classes: the names of the columns.
    """

    rows: Bool[np.ndarray, "n c"]
    known: Bool[np.ndarray, " n"]
    classes: tuple[str, ...]

    def __getitem__(self, positions: Int[np.ndarray, " m"]) -> "LabelMatrix":
        """The rows of these images, in their order."""
        return LabelMatrix(self.rows[positions], self.known[positions], self.classes)

    def arranged(self, classes: tuple[str, ...]) -> "LabelMatrix":
        """The same images with these columns, found by name: one that is not here is empty, others are dropped."""
        if classes == self.classes:
            return self
        place = {name: number for number, name in enumerate(classes)}
        rows = np.zeros((len(self.rows), len(classes)), dtype=bool)
        for column, name in enumerate(self.classes):
            if name in place:
                rows[:, place[name]] |= self.rows[:, column]
        return LabelMatrix(rows, self.known, classes)


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


def one_hot(labels: Int[np.ndarray, " n"], classes: tuple[str, ...]) -> LabelMatrix:
    """The matrix of single labels: one class an image; -1 is an image that has none."""
    known = labels >= 0
    rows = np.zeros((len(labels), len(classes)), dtype=bool)
    rows[np.flatnonzero(known), labels[known]] = True
    return LabelMatrix(rows, known, classes)


def classify_several(
    values: Iterable[Sequence[int | str | None] | None], names: Sequence[str] = ()
) -> LabelMatrix | None:
    """Number the classes where an image may have several; classes are numbered as in :func:`classify`.

    Args:
        values: the labels of each image. None says that nobody knows them, an empty list that the image has none. A
            negative integer, None or an empty name in a list is passed over; a list that holds nothing else says nothing.
        names: the names of the classes 0, 1, 2 ..., where they are known.

    Returns:
        None if nothing has a label.
    """
    lists = list(values)
    labels, classes = classify((value for several in lists for value in several or ()), names)
    if labels is None:
        return None
    counts = np.array([len(several or ()) for several in lists], dtype=np.int64)
    images = np.repeat(np.arange(len(lists)), counts)[labels >= 0]
    rows = np.zeros((len(lists), len(classes)), dtype=bool)
    rows[images, labels[labels >= 0]] = True
    empty = np.array([several is not None and not len(several) for several in lists], dtype=bool)
    return LabelMatrix(rows, empty | rows.any(axis=1), classes)


def _rename(codes: Labels, names: list[str]) -> tuple[Labels, tuple[str, ...]]:
    """Renumber codes by the sorted names of what they stand for; an empty name is no label."""
    classes = sorted({name for name in names if name})
    place = {name: number for number, name in enumerate(classes)}
    lookup = np.array([*(place.get(name, -1) for name in names), -1], dtype=np.int32)
    return lookup[codes], tuple(classes)
