"""Labels as tables and JSON hold them (numbers, names, truth values, lists, a 0 or 1 per class), as images have them."""

import math
import numbers
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.data.sources.labels import LabelMatrix, Labels, encode_labels, encode_multilabels

Label = int | str
TRUTH_VALUES = ("False", "True")
"""The classes of a column of truth values."""
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.0*)?")


@dataclass(frozen=True)
class LabelNotes:
    """What there is to say about the labels of a source.

    Attributes:
        origin: where they are from, such as ``folders``; empty without labels.
        folder: the folder whose subfolders are the classes, if they are.
        remarks: lines about choices that were made, and about what was left out.
        absent: why there are none, to end a message; empty if nothing is known of it.
    """

    origin: str = ""
    folder: str = ""
    remarks: tuple[str, ...] = ()
    absent: str = ""


@dataclass(frozen=True)
class ImageLabels:
    """The labels of images.

    Attributes:
        numbers: the class number of each image, -1 for none; None where there are no single labels.
        classes: names of the classes 0, 1, 2, ...
        matrix: the classes of each image, where some have several; else None.
        notes: what there is to say about them.
    """

    numbers: Labels | None = None
    classes: tuple[str, ...] = ()
    matrix: LabelMatrix | None = None
    notes: LabelNotes = LabelNotes()

    @classmethod
    def of(cls, lists: Sequence[Sequence[Label] | None], names: Sequence[str], notes: LabelNotes) -> "ImageLabels":
        """The labels of images that may have several; single ones if no image has.

        Args:
            lists: the labels of each image; None if they are unknown.
            names: names of the classes 0, 1, 2, ..., where known.
            notes: what there is to say about them.
        """
        if any(each is not None and len(each) != 1 for each in lists):
            return cls(matrix=encode_multilabels(lists, names), notes=notes)
        return cls(*encode_labels((None if each is None else each[0] for each in lists), names), notes=notes)


def more_labels(so_far: Sequence[Label] | None, row: Sequence[Label] | None) -> list[Label] | None:
    """The labels of an image after one more row of a table names it: each label once; None as long as none is known."""
    if row is None:
        return None if so_far is None else list(so_far)
    known = list(so_far or ())
    return known + [label for label in row if label not in known]


def single_labels(values: Iterable[Any]) -> list[Label | None] | None:
    """One label per image: whole numbers, names, truth values (0 and 1); None, NaN and empty names are no label.

    Returns:
        The labels; None if a value is none, such as 0.5 or a list.
    """
    found: list[Label | None] = []
    for value in values:
        if value is None or isinstance(value, str):
            found.append(value or None)
        elif isinstance(value, numbers.Integral):
            found.append(int(value))
        elif isinstance(value, (float, np.floating)) and (math.isnan(value) or float(value).is_integer()):
            found.append(None if math.isnan(value) else int(value))
        else:
            return None
    return found


def as_numbers(labels: Iterable[Label | None]) -> list[Label | None]:
    """Labels as numbers if all are written as whole numbers without leading zeros; else as they are, without outer spaces."""
    found = [(label.strip() or None) if isinstance(label, str) else label for label in labels]
    texts = {label for label in found if isinstance(label, str)}
    if not texts or not all(_WHOLE.fullmatch(label) for label in texts):
        return found
    return [int(label.partition(".")[0]) if isinstance(label, str) else label for label in found]


def several_labels(values: Iterable[Any], names: Sequence[str] = ()) -> list[list[Label | None] | None] | None:
    """The labels of images that may have several: lists of them, or a 0 or 1 for each class.

    Rows of zeros and ones are taken for one value per class if all have the same length, two or more, and if there are no
    names for more or fewer classes than that. Truth values are always one per class.

    Returns:
        The labels of each image; None if a value is neither a list of labels nor None.
    """
    rows: list[list[Any] | None] = []
    for value in values:
        if value is not None and (isinstance(value, (str, bytes)) or not isinstance(value, Iterable)):
            return None
        rows.append(None if value is None else list(value))
    if _one_per_class([row for row in rows if row is not None], len(names)):
        return [None if row is None else [place for place, on in enumerate(row) if on] for row in rows]
    plain = single_labels(value for row in rows if row is not None for value in row)
    if plain is None:
        return None
    each = iter(plain)
    return [None if row is None else [next(each) for _ in row] for row in rows]


def _one_per_class(rows: Sequence[Sequence[Any]], classes: int) -> bool:
    widths = {len(row) for row in rows}
    if len(widths) != 1 or classes not in (0, *widths):
        return False
    values = [value for row in rows for value in row]
    if any(isinstance(value, (list, dict)) or value not in (0, 1) for value in values):
        return False
    return max(widths) > 1 or all(isinstance(value, (bool, np.bool_)) for value in values)
