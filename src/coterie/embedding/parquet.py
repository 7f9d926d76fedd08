"""Embeddings as parquet: one row per image."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from coterie.data.sources.file_names import one_line
from coterie.data.sources.source import ImageSource

_ROW_GROUP = 4096
"""Rows that are collected and written together: small row groups are slow to read and make long footers."""


def row_schema(width: int, precision: str = "float32") -> pa.Schema:
    """The columns of a table of embeddings.

    Args:
        width: of the embeddings.
        precision: of the network; kept in the metadata of the table.
    """
    return pa.schema(
        {
            "name": pa.string(),
            "label": pa.int64(),
            "class": pa.string(),
            "embedding": pa.list_(pa.field("element", pa.float32()), width),  # the name that parquet gives it
            "group": pa.int32(),
            "probability": pa.float32(),
        },
        {"precision": precision},
    )


def write_rows(
    path: Path,
    width: int,
    source: ImageSource,
    batches: Iterable[tuple[np.ndarray, tuple[Tensor, ...], tuple[tuple[int, str], ...]]],
    precision: str = "float32",
) -> tuple[int, list[tuple[int, str]]]:
    """Write batches to a parquet file as they come; without any rows the table is empty.

    Args:
        path: of the file; to be written atomically by the caller (`coterie.atomic.writing`).
        width: f.
        source: provides names, labels and classes.
        batches: positions in the source, (embedding ``[b, f]``, group ``[b]``, probability ``[b]``) and bad images of each, in
            the order of the rows.
        precision: of the network; the embeddings are float32 in any case.

    Returns:
        The number of rows written, and the bad images.
    """
    written, bad = 0, list[tuple[int, str]]()
    collected, schema = list[pa.Table](), row_schema(width, precision)
    with pq.ParquetWriter(path, schema) as writer:
        for positions, outputs, failed in batches:
            bad += failed
            if not len(positions):
                continue
            collected.append(_table(schema, source, positions, outputs))
            written += len(positions)
            if sum(map(len, collected)) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(collected))
                collected.clear()
        if collected:
            writer.write_table(pa.concat_tables(collected))
    return written, bad


def bad_lines(source: ImageSource, bad: Iterable[tuple[int, str]]) -> str:
    """List images that could not be decoded, one per line: name, tab, reason; a line break in a name is escaped.

    Args:
        source: provides the names.
        bad: (position, reason) of the images.
    """
    named = ((_valid_utf8(source.name(position)), reason) for position, reason in bad)
    return "".join(f"{one_line(name)}\t{one_line(reason)}\n" for name, reason in named)


def _table(schema: pa.Schema, source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]) -> pa.Table:
    embedding, group, probability = (each.cpu().numpy() for each in outputs)
    labels = [source.label(int(i)) for i in positions]
    classes = [source.classes[label] if label is not None and label < len(source.classes) else None for label in labels]
    flat = pa.array(np.ascontiguousarray(embedding, dtype=np.float32).ravel())
    columns = {
        "name": pa.array([_valid_utf8(source.name(int(i))) for i in positions], pa.string()),
        "label": pa.array(labels, pa.int64()),
        "class": pa.array(classes, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
        "group": pa.array(group.astype(np.int32)),
        "probability": pa.array(probability.astype(np.float32)),
    }
    return pa.table(columns, schema=schema)


def _valid_utf8(name: str) -> str:
    """A name that parquet accepts: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
