"""Small tables of names and labels: CSV, TSV, JSON lines or parquet, recognized by their content."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.object_store import OPEN_RETRY_SECONDS, is_remote, open_stream, retry
from coterie.data.sources.parquet_labels import class_names
from coterie.errors import UserError
from coterie.paths import expand

DELIMITERS = "\t;,|"
_MOST_CELLS = 2**31 - 1
TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Files that are opened as tables of image paths."""


def _unnamed(column: str) -> Sequence[str]:
    """The names of class numbers in a table of text: none."""
    del column
    return ()


@dataclass(frozen=True)
class Table:
    """A table with named columns.

    Attributes:
        where: its path, for messages.
        names: of its columns.
        rows: how many.
        column: gives the values of a column.
        class_names: the names of the class numbers in a column, where the table has any.
    """

    where: str
    names: tuple[str, ...]
    rows: int
    column: Callable[[str], Sequence[Any]]
    class_names: Callable[[str], Sequence[str]] = _unnamed


def read_table(path: str) -> Table:
    """Read a table from a file on this machine or in a store.

    Text may have any of the usual delimiters, quotes, a byte-order mark and line ends of any system. A table whose first row
    names an image has no header: that column is called file, the other one of two label, and more by their numbers.

    Raises:
        UserError: it is missing, empty or no table.
    """
    path = path if is_remote(path) else str(expand(path))
    try:
        data = _read(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.startswith(b"PAR1"):
        return _parquet(path, data)
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path}: this is a file of Excel or the like, not a table of text: save it as CSV")
    try:
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a table of UTF-8 text: save it as CSV in UTF-8") from error
    if not text.strip() or "\0" in text:
        raise UserError(f"{path}: {'this table is empty' if not text.strip() else 'not a table of text'}")
    return _json_lines(path, text) if text.lstrip().startswith("{") else _delimited(path, text)


def _read(path: str) -> bytes:
    if not is_remote(path):
        return Path(path).read_bytes()

    def fetch() -> bytes:
        with open_stream(path) as stream:
            return bytes(stream.read())

    return retry(path, fetch, OPEN_RETRY_SECONDS)


def _parquet(path: str, data: bytes) -> Table:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:160]})") from error
    return Table(
        path,
        tuple(table.schema.names),
        len(table),
        lambda name: table.column(name).to_pylist(),
        lambda name: class_names(table.schema, name),
    )


def _json_lines(path: str, text: str) -> Table:
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON ({error}): write one object per line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not an object: write one object per line")
        rows.append(row)
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(path, names, len(rows), lambda name: [row.get(name) for row in rows])


def _delimited(path: str, text: str) -> Table:
    first = text.lstrip("\r\n").splitlines()[0]
    counts = {each: first.count(each) for each in DELIMITERS}
    delimiter = max(DELIMITERS, key=counts.__getitem__)
    if counts[delimiter]:
        csv.field_size_limit(_MOST_CELLS)
        try:
            rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(map(str.strip, row))]
        except csv.Error as error:
            raise UserError(f"{path}: not a table of text ({error})") from error
    else:  # one column; or a name and a label with spaces between them
        rows = [line.rsplit(None, 1) for line in text.splitlines() if line.strip()]
        if not is_image_name(os.fsencode(rows[0][0])) or not all(len(row) == 2 for row in rows):
            rows = [[" ".join(row)] for row in rows]
    header, width = [cell.strip() for cell in rows[0]], max(map(len, rows))
    if any(is_image_name(os.fsencode(cell)) for cell in header):
        other = "label" if width == 2 else ""
        header = ["file" if is_image_name(os.fsencode(cell)) else other for cell in header]
    else:
        rows = rows[1:]
    names = tuple(name or str(number) for number, name in enumerate(header, 1))
    place = {name: number for number, name in reversed(list(enumerate(names)))}
    return Table(
        path,
        names,
        len(rows),
        lambda name: [row[place[name]] if place[name] < len(row) else "" for row in rows],
    )
