"""Labels: from whatever a source provides to class numbers and class names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32

_LARGEST_CLASS = 1_000_000  # a larger integer is an identifier rather than a class number

Labels = Int32[np.ndarray, " n"]


def label_at(labels: Labels | None, index: int) -> int | None:
    """The class number of an image among those of all images (-1: none); None without a label."""
    return None if labels is None or labels[index] < 0 else int(labels[index])


@dataclass(frozen=True)
class LabelMatrix:
    """Classes of images that may have several, one or none.

    Attributes:
        rows: One row per image, one column per class.
        known: False for an image whose labels are unknown; its row is empty.
        classes: Names of the columns.
    """

    rows: Bool[np.ndarray, "n c"]
    known: Bool[np.ndarray, " n"]
    classes: tuple[str, ...]

    def __getitem__(self, positions: Int[np.ndarray, " m"]) -> "LabelMatrix":
        """The rows of these images, in this order."""
        return LabelMatrix(self.rows[positions], self.known[positions], self.classes)

    def with_classes(self, classes: tuple[str, ...]) -> "LabelMatrix":
        """The same images with these columns, matched by name; new classes are empty, missing ones are dropped."""
        if classes == self.classes:
            return self
        columns = {name: number for number, name in enumerate(classes)}
        rows = np.zeros((len(self.rows), len(classes)), dtype=bool)
        for column, name in enumerate(self.classes):
            if name in columns:
                rows[:, columns[name]] |= self.rows[:, column]
        return LabelMatrix(rows, self.known, classes)


def encode_labels(
    values: Iterable[int | str | None], names: Sequence[str] = ()
) -> tuple[Labels | None, tuple[str, ...]]:
    """Number the classes of single labels.

    Integers keep their values, so that a training and a test set agree even if one of them lacks a class. Class names are
    numbered in sorted order.

    Args:
        values: One label per image: an integer (negative: none), a class name, or None.
        names: Names of the classes 0, 1, 2, ..., where known.

    Returns:
        The class number of each image (-1: none) and the class names; (None, ()) if no image has a label.
    """
    known: dict[int | str, int] = {}
    codes = np.fromiter(
        (-1 if value is None else known.setdefault(value, len(known)) for value in values), dtype=np.int32
    )
    numbers = [value for value in known if isinstance(value, int)]
    if len(numbers) < len(known):  # at least one is a name: all are
        return _encode_names(codes, [str(value) for value in known])
    if max(numbers, default=-1) < 0:
        return None, ()
    if max(numbers) > _LARGEST_CLASS:
        return _encode_names(codes, ["" if value < 0 else str(value) for value in numbers])
    lookup = np.array([*(max(value, -1) for value in numbers), -1], dtype=np.int32)  # code -1 finds the last
    unnamed = range(len(names), max(numbers) + 1)
    return lookup[codes], (*names, *(str(number) for number in unnamed))


def one_hot(labels: Int[np.ndarray, " n"], classes: tuple[str, ...]) -> LabelMatrix:
    """The matrix of single labels; -1 is an image without a label."""
    known = labels >= 0
    rows = np.zeros((len(labels), len(classes)), dtype=bool)
    rows[np.flatnonzero(known), labels[known]] = True
    return LabelMatrix(rows, known, classes)


def encode_multilabels(
    values: Iterable[Sequence[int | str | None] | None], names: Sequence[str] = ()
) -> LabelMatrix | None:
    """Number the classes of images that may have several labels; numbering is as in :func:`encode_labels`.

    Args:
        values: The labels of each image; None if they are unknown, an empty list if there are none. Negative integers, None
            and empty names in a list are skipped; a list that holds nothing else counts as unknown.
        names: Names of the classes 0, 1, 2, ..., where known.

    Returns:
        The matrix; None if no image has a label.
    """
    lists = list(values)
    labels, classes = encode_labels((value for each in lists for value in each or ()), names)
    if labels is None:
        return None
    counts = np.array([len(each or ()) for each in lists], dtype=np.int64)
    images = np.repeat(np.arange(len(lists)), counts)[labels >= 0]
    rows = np.zeros((len(lists), len(classes)), dtype=bool)
    rows[images, labels[labels >= 0]] = True
    empty = np.array([each is not None and not len(each) for each in lists], dtype=bool)
    return LabelMatrix(rows, empty | rows.any(axis=1), classes)


def _encode_names(codes: Labels, names: list[str]) -> tuple[Labels, tuple[str, ...]]:
    """Renumber codes by the sorted names that they stand for; an empty name is no label."""
    classes = sorted({name for name in names if name})
    numbers = {name: number for number, name in enumerate(classes)}
    lookup = np.array([*(numbers.get(name, -1) for name in names), -1], dtype=np.int32)
    return lookup[codes], tuple(classes)
