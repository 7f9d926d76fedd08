"""The labels of a parquet table: in one of its columns, or in the names of the folders that it is in (Hive's partitions)."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote

import pyarrow as pa

from coterie.data.sources.columns import LABEL_NAMES, Columns, choice_remark, find_columns, plain
from coterie.data.sources.label_values import (
    TRUTH_VALUES,
    ImageLabels,
    LabelNotes,
    as_numbers,
    several_labels,
    single_labels,
)
from coterie.data.sources.labels import LabelMatrix, encode_labels, encode_multilabels
from coterie.errors import UserError

_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@runtime_checkable
class Rows(Protocol):
    """What is read of a table: an opened parquet file, or something like it."""

    @property
    def schema_arrow(self) -> pa.Schema:
        """The columns."""

    @property
    def metadata(self) -> Any:
        """Something whose ``num_rows`` is the number of rows."""

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns."""


def partitions(path: str) -> dict[str, str | None]:
    """The columns that are in the names of the folders around a table, as in ``class=cat/year=2024/part-0.parquet``."""
    found: dict[str, str | None] = {}
    for folder in reversed(path.split("/")[:-1]):
        match = _PARTITION.fullmatch(folder)
        if match is None:
            break
        value = unquote(match[2])
        found.setdefault(unquote(match[1]), None if value == _NO_VALUE else value)
    return found


def is_partitioned(folder: str) -> bool:
    """Whether a folder has subfolders such as ``class=cat``."""
    with os.scandir(folder) as entries:
        return any(_PARTITION.fullmatch(entry.name) and entry.is_dir() for entry in entries)


def read_labels(path: str, file: Rows, columns: Columns) -> ImageLabels:
    """The single labels of a table; where it holds lists, see :func:`read_label_matrix`.

    Args:
        path: its path or address.
        file: the opened table.
        columns: which of its columns the user wants.

    Raises:
        BadConfig: the column that the user wants is not there.
        UserError: it holds no labels.
    """
    schema, folders = file.schema_arrow, partitions(path)
    there = [*schema.names, *(name for name in folders if name not in schema.names)]
    names = find_columns(there, LABEL_NAMES, columns.label, "label", path)
    for place, name in enumerate(names):
        found = _single(file, name, folders)
        if found is not None:
            others = [each for each in names[place + 1 :] if each not in schema.names or _is_likely(schema, each)]
            notes = LabelNotes(f"column {name!r}", remarks=choice_remark(name, map(repr, others), "label"))
            return ImageLabels(*found, notes=notes)
    lists = [name for name in names if name in schema.names and _is_list(schema.field(name).type)]
    if columns.label is not None and not lists:
        kind = schema.field(names[0]).type
        raise UserError(f"{path}: column {names[0]!r} holds no labels ({kind}): choose another with --label-column")
    return ImageLabels(notes=LabelNotes(absent=no_column(there)))


def no_column(there: Collection[str]) -> str:
    """Says that no column looks like labels, and lists those that are there."""
    return f"no column has a name such as label or class; there are: {', '.join(there)}; choose one with --label-column"


def read_label_matrix(file: Rows, columns: Columns) -> LabelMatrix | None:
    """The labels of a table if they are lists; None if they are not."""
    schema = file.schema_arrow
    known = LABEL_NAMES if columns.label is None else (plain(columns.label),)
    lists = [name for name in schema.names if _is_list(schema.field(name).type)]
    for name in find_columns(lists, known, None, "label", ""):
        names = class_names(schema, name)
        found = several_labels(_values(file, name), names)
        if found is not None:
            return encode_multilabels(found, names)
    return None


def class_names(schema: pa.Schema, column: str) -> Sequence[str]:
    """The names that Hugging Face's metadata gives to a column of class numbers, or of lists of them."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature  # lists in the old notation
        names = feature.get("feature", feature)["names"]  # and in the new one
    except (AttributeError, IndexError, TypeError, KeyError, ValueError):
        return ()
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _single(file: Rows, name: str, folders: Mapping[str, str | None]) -> tuple[Any, tuple[str, ...]] | None:
    """Numbers and names of the labels in a column; None if it holds none."""
    schema = file.schema_arrow
    if name not in schema.names:  # the same for all rows
        return encode_labels(as_numbers([folders[name]] * int(file.metadata.num_rows)))
    kind = schema.field(name).type
    values = single_labels(_values(file, name)) if _holds_single(kind) else None
    if values is None:
        return None
    return encode_labels(values, TRUTH_VALUES if pa.types.is_boolean(kind) else class_names(schema, name))


def _values(file: Rows, name: str) -> list[Any]:
    values: list[Any] = file.read(columns=[name]).column(0).to_pylist()
    return values


def _holds_single(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(is_kind(kind) for is_kind in (*texts, *numbers))


def _is_likely(schema: pa.Schema, name: str) -> bool:
    """Whether a column is of a type that nearly always means labels."""
    kind = schema.field(name).type
    return _holds_single(kind) and not pa.types.is_floating(kind)


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(is_kind(kind) for is_kind in lists)
