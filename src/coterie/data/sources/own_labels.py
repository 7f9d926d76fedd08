"""The labels of a dataset of the user's own: without reading its images where that is possible."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from coterie.data.sources.columns import LABEL_NAMES, Columns, find_columns
from coterie.data.sources.items import Label, WrongItem, label_part, read_label
from coterie.data.sources.label_values import ImageLabels
from coterie.data.sources.labels import encode_labels, encode_multilabels
from coterie.data.sources.source import random_positions
from coterie.errors import UserError
from coterie.logger import Logger
from coterie.signals import check_interrupted

_COMPARED = 16


def find_labels(items: Any, columns: Columns, read_items: bool, logger: Logger) -> ImageLabels:
    """The labels of a dataset.

    Those of a list are in its items; those of a dataset of Hugging Face in a column, those of torch's in ``targets`` or
    ``labels`` if they agree with its items. Of any other dataset each item must be read.

    Args:
        items: the dataset.
        columns: the key of the label in dictionaries, if it has no common name.
        read_items: read each item if need be, and refuse labels that cannot be used; else there are no labels then.
        logger: receives the progress of reading.

    Raises:
        UserError: a label is no number, name or list of these.
    """
    if isinstance(items, np.ndarray | Tensor):
        return ImageLabels()
    try:
        values, names = _without_images(items, columns), _class_names(items, columns)
        if values is None and not read_items:
            return ImageLabels()
        if values is None:
            values = _from_items(items, columns, logger)
        return encode_own_labels(values, names)
    except WrongItem as error:
        if read_items:
            raise UserError(f"a label {error}") from None
        return ImageLabels()


def encode_own_labels(values: Sequence[Any], names: Sequence[str] = ()) -> ImageLabels:
    """Number the classes of labels as users have them.

    Args:
        values: one per image: a number, a name, None, or several of these; rows of zeros and ones have one column per class.
        names: of the classes 0, 1, 2, ..., where known.

    Raises:
        WrongItem: a label is something else.
    """
    found: list[Label] = _several_hot(values) or [read_label(each) for each in values]
    if any(isinstance(each, tuple) for each in found):
        lists = [each if isinstance(each, tuple) or each is None else (each,) for each in found]
        return ImageLabels(matrix=encode_multilabels(lists, names))
    numbers, classes = encode_labels(found, names)  # type: ignore[arg-type]
    return ImageLabels(numbers, classes)


def _several_hot(values: Sequence[Any]) -> list[Label] | None:
    """Rows of zeros and ones, one column per class, as lists of labels; None if these are no such rows."""
    if not len(values) or not all(isinstance(each, np.ndarray | Tensor) and each.ndim == 1 for each in values):
        return None
    if len({len(each) for each in values}) > 1 or len(values[0]) < 2:
        return None
    rows = np.stack([np.asarray(each) for each in values])
    if not np.isin(rows, (0, 1)).all():
        return None
    return [tuple(np.flatnonzero(row).tolist()) for row in rows]


def _without_images(items: Any, columns: Columns) -> Sequence[Any] | None:
    """The labels of all items, if they are to be had without reading the items; None if not."""
    if isinstance(items, list):
        return [label_part(each, columns) for each in items]
    column = _hugging_face_column(items, columns)
    if column is not None:
        return list(items.with_format(None)[column])
    stored = _stored(items)
    if stored is None or len(stored) != len(items):
        return None
    compared = random_positions(_COMPARED, len(items)).tolist()
    return stored if all(_same_label(items, columns, index, stored[index]) for index in compared) else None


def _stored(items: Any) -> Sequence[Any] | None:
    """The list of labels that a dataset of torch has; of a ``Subset``, that of its part."""
    if hasattr(items, "indices") and hasattr(items, "dataset"):
        inner = _stored(items.dataset)
        return None if inner is None else [inner[int(index)] for index in items.indices]
    if hasattr(items, "tensors") and len(items.tensors) == 2:
        return list(items.tensors[1])
    found = (getattr(items, name, None) for name in ("targets", "labels"))
    return next((list(each) for each in found if isinstance(each, list | tuple | np.ndarray | Tensor)), None)


def _same_label(items: Any, columns: Columns, index: int, stored: Any) -> bool:
    try:
        return read_label(label_part(items[index], columns)) == read_label(stored)
    except Exception:  # a bad image has a label too
        return True


def _from_items(items: Any, columns: Columns, logger: Logger) -> list[Any]:
    found: list[Any] = []
    for index in logger.progress(range(len(items)), len(items), "reading the labels"):
        check_interrupted()
        try:
            found.append(label_part(items[index], columns))
        except Exception:  # a bad image
            found.append(None)
    return found


def _hugging_face_column(items: Any, columns: Columns) -> str | None:
    names = getattr(items, "column_names", None)
    if not isinstance(names, list) or not hasattr(items, "with_format"):
        return None
    return next(iter(find_columns(names, LABEL_NAMES, columns.label, "label", "the dataset")), None)


def _class_names(items: Any, columns: Columns) -> Sequence[str]:
    """The names of the classes that a dataset knows, for labels that are numbers."""
    column = _hugging_face_column(items, columns)
    if column is not None:
        feature = items.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
    else:
        while hasattr(items, "indices") and hasattr(items, "dataset"):
            items = items.dataset
        names = getattr(items, "classes", None)
    plain = isinstance(names, list | tuple) and all(isinstance(each, str) for each in names)
    return names if plain and names is not None else ()
