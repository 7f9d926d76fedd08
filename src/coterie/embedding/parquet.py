"""Tables of images: one row per image, as parquet or CSV; wide columns also as an array of NumPy."""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from torch import Tensor

from coterie.data.sources.file_names import one_line
from coterie.data.sources.source import ImageSource
from coterie.embedding.rows import Rows, row_bytes

_ROW_GROUP = 4096
"""Rows that are collected and written together: small row groups are slow to read and make long footers."""
_GROUP_BYTES = 2**27
"""Bytes of numbers that are collected at most, beyond the rows of one batch."""


def row_schema(rows: Rows, precision: str = "float32", *, apart: bool = False) -> pa.Schema:
    """The columns of a table.

    Args:
        rows: what a row holds.
        precision: of the network; kept in the metadata of the table.
        apart: leave out the wide column, which an array holds.
    """
    fields = {name: kind for name, kind in rows.fields().items() if not (apart and name == rows.array)}
    return pa.schema({"name": pa.string(), **fields}, {"precision": precision})


def write_rows(
    path: Path,
    rows: Rows,
    source: ImageSource,
    batches: Iterable[tuple[np.ndarray, tuple[Tensor, ...], tuple[tuple[int, str], ...]]],
    precision: str = "float32",
    *,
    csv: bool = False,
    array: Path | None = None,
) -> tuple[int, list[tuple[int, str]]]:
    """Write batches to a table as they come; without any rows the table is empty.

    Args:
        path: of the table; to be written atomically by the caller (`coterie.atomic.writing`), as is ``array``.
        rows: what a row holds.
        source: provides names, labels and classes.
        batches: positions in the source, outputs of the network and bad images of each, in the order of the rows.
        precision: of the network; the numbers are float32 in any case.
        csv: write CSV in place of parquet.
        array: an ``.npy`` file for the wide column, row by row as in the table, which then lacks it.

    Returns:
        The number of rows written, and the bad images.
    """
    written, bad = 0, list[tuple[int, str]]()
    collected, schema = list[pa.Table](), row_schema(rows, precision, apart=array is not None)
    most = max(1, min(_ROW_GROUP, _GROUP_BYTES // max(1, row_bytes(rows))))
    with _table_writer(path, schema, csv) as writer, array.open("wb") if array else nullcontext() as numbers:
        if numbers is not None:
            _write_header(numbers, len(source), rows)
        for positions, outputs, failed in batches:
            bad += failed
            if not len(positions):
                continue
            columns = dict(rows.columns(source, positions, outputs))
            if numbers is not None and rows.array is not None:
                numbers.write(np.asarray(columns.pop(rows.array)).data)
            collected.append(_table(schema, source, positions, columns))
            written += len(positions)
            if sum(map(len, collected)) >= most:
                writer.write_table(pa.concat_tables(collected))
                collected.clear()
        if collected:
            writer.write_table(pa.concat_tables(collected))
        if numbers is not None:
            _write_header(numbers, written, rows)
    return written, bad


def bad_lines(source: ImageSource, bad: Iterable[tuple[int, str]]) -> str:
    """List images that could not be decoded, one per line: name, tab, reason; a line break in a name is escaped.

    Args:
        source: provides the names.
        bad: (position, reason) of the images.
    """
    named = ((valid_utf8(source.name(position)), reason) for position, reason in bad)
    return "".join(f"{one_line(name)}\t{one_line(reason)}\n" for name, reason in named)


def _table_writer(path: Path, schema: pa.Schema, csv: bool) -> pq.ParquetWriter | pyarrow.csv.CSVWriter:
    return pyarrow.csv.CSVWriter(path, schema) if csv else pq.ParquetWriter(path, schema)


def _write_header(file: BinaryIO, count: int, rows: Rows) -> None:
    """The header of an ``.npy`` file; that of the largest number of rows has room for any smaller one."""
    file.seek(0)
    shape = (count, *rows.shape())
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f4"})


def _table(
    schema: pa.Schema, source: ImageSource, positions: np.ndarray, columns: dict[str, pa.Array | np.ndarray]
) -> pa.Table:
    names = pa.array([valid_utf8(source.name(int(i))) for i in positions], pa.string())
    lists = {name: _lists(each, schema.field(name).type) for name, each in columns.items()}
    return pa.table({"name": names, **lists}, schema=schema)


def _lists(column: pa.Array | np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of arrow; rows of numbers become fixed-size lists."""
    if not isinstance(column, np.ndarray):
        return column
    flat = pa.array(column.reshape(-1))
    if not isinstance(kind, pa.FixedShapeTensorType):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type))


def valid_utf8(name: str) -> str:
    """A name that parquet accepts: bytes that are not UTF-8 are escaped.

    Args:
        name: as a source gives it.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
