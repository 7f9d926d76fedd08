"""Tables of image paths as sources: ``images.csv`` with the columns ``path`` and ``label``."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from coterie.data.sources.columns import IMAGE_NAMES, Columns, find_columns
from coterie.data.sources.file_names import FileNames, is_image_name
from coterie.data.sources.files import ImageFiles
from coterie.data.sources.label_table import name_text, row_labels
from coterie.data.sources.label_values import ImageLabels, Label, more_labels
from coterie.data.sources.object_store import is_remote
from coterie.data.sources.tables import Table, read_table
from coterie.errors import NoImages, UserError


def open_path_table(path: str, columns: Columns) -> ImageFiles:
    """Open the images whose paths are in a table, in the order of its rows; paths are relative to its folder, or absolute.

    Several rows of an image are several labels of it.

    Args:
        path: the table: CSV, TSV, JSON lines or parquet.
        columns: which of its columns hold paths and labels.

    Raises:
        NoImages: It has no rows.
        UserError: It cannot be read, or has no column of paths.
    """
    table = read_table(path)
    column = path_column(table, columns)
    paths = [name_text(value).strip() for value in table.column(column)]
    if not any(paths):
        raise NoImages(f"{path}: no paths in column {column!r} of this table")
    if any(map(is_remote, paths)):
        raise UserError(f"{path}: column {column!r} holds addresses: fetch these images, and give their paths")
    labels = row_labels(table, columns, column)
    rows = labels.rows or [None] * len(paths)
    found: dict[str, list[Label] | None] = {}
    for each, row in zip(paths, rows, strict=True):
        if each:
            found[each] = more_labels(found.get(each), row)
    root = os.fsencode(Path(path).absolute().parent)
    given = ImageLabels.of(list(found.values()), labels.names, labels.notes)
    return ImageFiles(
        root, FileNames(map(os.fsencode, found)), given=given, image_remarks=_left_out(path, paths, found)
    )


def _left_out(path: str, paths: Sequence[str], found: Collection[str]) -> tuple[str, ...]:
    """A line about rows that are no further image: none if all are."""
    empty = sum(not each for each in paths)
    again = len(paths) - empty - len(found) if found else 0  # with labels, each row is one more label
    parts = [
        f"{empty:,} {'row' if empty == 1 else 'rows'} without a path" if empty else "",
        f"{again:,} {'row that names' if again == 1 else 'rows that name'} an image again" if again else "",
    ]
    text = ", ".join(part for part in parts if part)
    return (f"{path}: left out: {text}",) if text else ()


def path_column(table: Table, columns: Columns) -> str:
    """The column of a table that holds paths of images.

    Raises:
        UserError: there is none.
    """
    candidates = find_columns(table.names, IMAGE_NAMES, columns.image, "image", table.where)
    if columns.image is None:  # of an identifier and a path, the one that looks like files
        candidates = [*candidates, *(name for name in table.names if name not in candidates)]
        candidates = [name for name in candidates if _looks_like_paths(table.column(name))]
    if not candidates:
        raise UserError(
            f"{table.where}: no column holds paths of images; there are: {', '.join(table.names)}; choose one with "
            "--image-column, or give the images and this table with --labels"
        )
    return candidates[0]


def _looks_like_paths(values: Sequence[object]) -> bool:
    """Whether the first values that are there are names of images."""
    some = [name_text(value).strip() for value in values[:1000] if value not in (None, "")][:20]
    return bool(some) and all(is_image_name(os.fsencode(each)) for each in some)
