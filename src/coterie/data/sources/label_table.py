"""Labels of images in a table beside them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from coterie.data.sources.columns import IMAGE_NAMES, LABEL_NAMES, Columns, choice_remark, find_columns, plain
from coterie.data.sources.label_values import (
    TRUTH_VALUES,
    ImageLabels,
    Label,
    LabelNotes,
    as_numbers,
    more_labels,
    several_labels,
    single_labels,
)
from coterie.data.sources.labels import LabelMatrix, label_at, one_hot
from coterie.data.sources.name_matching import match_names
from coterie.data.sources.parquet_labels import no_column
from coterie.data.sources.source import Concatenated, ImageSource, image_remarks
from coterie.data.sources.tables import Table
from coterie.errors import UserError
from coterie.formatting import first_few


@dataclass(frozen=True)
class RowLabels:
    """The labels in the rows of a table.

    Attributes:
        rows: the labels of each row; None if it has none.
        names: names of the classes 0, 1, 2, ..., where the table has them.
        notes: what there is to say about them.
    """

    rows: Sequence[Sequence[Label] | None]
    names: Sequence[str]
    notes: LabelNotes


class WithLabels(Concatenated):
    """A source with the labels of a table in place of its own."""

    def __init__(self, source: ImageSource, given: ImageLabels) -> None:
        """Put labels, one per image, on a source."""
        super().__init__(source.sources if isinstance(source, Concatenated) else (source,), image_remarks(source))
        self._given = given
        self.classes = given.classes

    @property
    def label_notes(self) -> LabelNotes:
        """What there is to say about the labels."""
        return self._given.notes

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self._given.numbers, index)

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The class numbers of all images, -1 for none."""
        return np.full(len(self), -1) if self._given.numbers is None else self._given.numbers

    @property
    def label_matrix(self) -> LabelMatrix:
        """The classes of all images, which may have several."""
        return one_hot(self.labels, self.classes) if self._given.matrix is None else self._given.matrix


def with_labels(source: ImageSource, table: Table, columns: Columns) -> WithLabels:
    """A source with the labels of a table in place of its own; images and rows are matched by name.

    Args:
        source: the images.
        table: names and labels.
        columns: which of its columns hold them.

    Raises:
        UserError: the table has no column of names or of labels.
    """
    return WithLabels(source, matched_labels(*_names(source), table, columns, guess=True))


def for_images(columns: Columns, table: Table) -> Columns:
    """Which columns the images beside a table of labels have: what the user names is in that table, if it is there."""
    image = columns.image if columns.image is not None and not _has(table, columns.image) else None
    return Columns(image=image, label_key=columns.label_key, pages=columns.pages)


def _has(table: Table, column: str) -> bool:
    return plain(column) in map(plain, table.names)


def matched_labels(names: Sequence[str], root: str, table: Table, columns: Columns, guess: bool = False) -> ImageLabels:
    """The labels in a table of images with these names.

    Args:
        names: names of images.
        root: the folder that they are relative to; empty if there is none.
        table: names and labels; several rows of an image are several labels.
        columns: which of its columns hold them.
        guess: as of `row_labels`.

    Raises:
        UserError: the table has no column of names or of labels.
    """
    image_column = _name_column(table, columns)
    labels = row_labels(table, columns, image_column, guess)
    if labels.notes.absent:
        raise UserError(f"{table.where}: {labels.notes.absent}")
    wanted = [name_text(value) for value in table.column(image_column)]
    found = match_names(wanted, names, root)
    lists: list[list[Label] | None] = [None] * len(names)
    for images, row in zip(found.images, labels.rows, strict=True):
        for place in images:
            lists[place] = more_labels(lists[place], row)
    remarks = (*labels.notes.remarks, *_unmatched(table, wanted, found.images, names, lists))
    if found.ambiguous:
        name, *two = found.ambiguous[0]
        remarks += (
            f"{table.where}: {len(found.ambiguous)} names mean one of several images, as {name!r} means {' or '.join(two)}: "
            "write their paths below the folder of the images, or name a folder that holds only one of them",
        )
    known = any(each is not None for each in lists)
    absent = "" if known else remarks[-1] if remarks else f"{table.where} has no label of these images"
    return ImageLabels.of(lists, labels.names, LabelNotes(labels.notes.origin if known else "", "", remarks, absent))


def row_labels(table: Table, columns: Columns, image_column: str, guess: bool = False) -> RowLabels:
    """The labels in the rows of a table.

    Args:
        table: the table.
        columns: which of its columns the user wants.
        image_column: the column of its images, which holds no labels.
        guess: whether labels may also be in the only other column, whatever its name, or in columns of zeros and ones, one per
            class.
    """
    others = [name for name in table.names if name != image_column]
    named = find_columns(others, LABEL_NAMES, columns.label, "label", table.where)
    fitting = [(name, rows) for name in named if (rows := _labels_in(table, name)) is not None]
    if guess and not named and len(others) == 1 and (rows := _labels_in(table, others[0])) is not None:
        fitting = [(others[0], rows)]
    origin = os.path.basename(table.where)  # noqa: PTH119 -- of a URL, too
    if fitting:
        (name, rows), *rest = fitting
        remarks = choice_remark(name, (repr(other) for other, _ in rest), "label")
        return RowLabels(rows, _class_names(table, name), LabelNotes(f"{origin}, column {name!r}", "", remarks))
    per_class = [name for name in others if guess and columns.label is None and _are_flags(table.column(name))]
    if len(per_class) > 1:
        flags = [single_labels(as_numbers(table.column(name))) or [] for name in per_class]
        rows = [[name for name, flag in zip(per_class, row, strict=True) if flag] for row in zip(*flags, strict=True)]
        shown = f"{len(per_class)} columns of zeros and ones ({first_few(per_class, ', ')})"
        return RowLabels(rows, (), LabelNotes(f"{origin}, {shown}", "", (f"labels are from {shown} of {origin}",)))
    if columns.label is not None:
        return RowLabels(
            (), (), LabelNotes(absent=f"column {columns.label!r} holds no labels; there are: {', '.join(others)}")
        )
    return RowLabels((), (), LabelNotes(absent=no_column(others)))


def name_text(value: Any) -> str:
    """A name in a table as text; numbers without a fraction, nothing for a missing one."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):  # Hugging Face's struct of an image
        return str(value.get("path") or "")
    return str(value)


def _labels_in(table: Table, name: str) -> list[list[Label] | None] | None:
    """The labels in a column, row by row; None if it holds none."""
    values = table.column(name)
    single = single_labels(values)
    if single is not None:
        return [None if label is None or _negative(label) else [label] for label in as_numbers(single)]
    lists = several_labels(values, table.class_names(name))
    if lists is None:
        return None
    return [
        None if row is None else [each for each in row if each is not None and not _negative(each)] for row in lists
    ]


def _negative(label: Label) -> bool:
    return isinstance(label, int) and label < 0


def _class_names(table: Table, name: str) -> Sequence[str]:
    values = [value for value in table.column(name) if value is not None]
    return TRUTH_VALUES if values and all(isinstance(each, bool) for each in values) else table.class_names(name)


def _are_flags(values: Sequence[Any]) -> bool:
    """Whether a column says of each image whether it is of a class."""
    single = single_labels(values)
    return single is not None and bool(single) and set(as_numbers(single)) <= {0, 1}


def _name_column(table: Table, columns: Columns) -> str:
    """The column of the names of images in a table."""
    wanted = columns.image if columns.image is not None and _has(table, columns.image) else None
    found = find_columns(table.names, IMAGE_NAMES, wanted, "image", table.where)
    if found:
        return found[0]
    label = find_columns(table.names, LABEL_NAMES, columns.label, "label", table.where)
    others = [name for name in table.names if name not in label[:1]]
    if len(others) == 1:
        return others[0]
    raise UserError(
        f"{table.where}: no column has a name such as image, file_name or path; there are: {', '.join(table.names)}; choose "
        "one with --image-column"
    )


def _unmatched(
    table: Table, wanted: Sequence[str], images: Sequence[Sequence[int]], names: Sequence[str], lists: Sequence[Any]
) -> tuple[str, ...]:
    """A line about rows that match no image, and about images without a label."""
    rows = [name for name, places in zip(wanted, images, strict=True) if not places]
    bare = [name for name, labels in zip(names, lists, strict=True) if labels is None]
    parts = [
        f"{len(rows):,} of {len(wanted):,} rows match no image (such as {rows[0]!r})" if rows else "",
        f"{len(bare):,} of {len(names):,} images have no label in it (such as {bare[0]!r})" if bare else "",
    ]
    text = ", and ".join(part for part in parts if part)
    return (f"{table.where}: {text}",) if text else ()


def _names(source: ImageSource) -> tuple[list[str], str]:
    """The names of the images of a source, and the folder that they are relative to, if there is one."""
    parts = source.sources if isinstance(source, Concatenated) else (source,)
    roots = [str(getattr(part, "root", "")) for part in parts]
    if len(parts) == 1:
        return [source.name(place) for place in range(len(source))], roots[0]
    places = ((root, part, place) for root, part in zip(roots, parts, strict=True) for place in range(len(part)))
    return [f"{root}/{part.name(place)}" if root else part.name(place) for root, part, place in places], ""
