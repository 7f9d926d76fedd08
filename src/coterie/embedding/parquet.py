"""Embeddings on disk: one row an image, as parquet."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from coterie.data.sources.source import ImageSource

_GROUP_ROWS = 4096
"""Rows that are held until they are written together: small groups of rows are slow to read and make long footers."""


def row_schema(width: int) -> pa.Schema:
    """The columns of a table whose embeddings have so many numbers."""
    return pa.schema(
        {
            "name": pa.string(),
            "label": pa.int64(),
            "class": pa.string(),
            "embedding": pa.list_(pa.field("element", pa.float32()), width),  # its name in a file
            "group": pa.int32(),
            "probability": pa.float32(),
        }
    )


def write_rows(
    path: Path,
    width: int,
    source: ImageSource,
    batches: Iterable[tuple[np.ndarray, tuple[Tensor, ...], tuple[tuple[int, str], ...]]],
) -> tuple[int, list[tuple[int, str]]]:
    """Stream the rows of some batches to a parquet file; a table without rows is written too.

    Each batch brings positions in the source, (embedding ``[b, f]``, group ``[b]``, probability ``[b]``) and bad images.

    Args:
        path: of the file; whoever calls sees to it that it is whole or not there (`coterie.atomic.writing`).
        width: f.
        source: says names, labels and classes.
        batches: in the order in which their rows are to stand.

    Returns:
        The number of rows written and the bad images.
    """
    written, bad = 0, list[tuple[int, str]]()
    held: list[pa.Table] = []
    with pq.ParquetWriter(path, row_schema(width)) as writer:
        for positions, outputs, failed in batches:
            bad += failed
            if not len(positions):
                continue
            held.append(_table(source, positions, outputs))
            written += len(positions)
            if sum(map(len, held)) >= _GROUP_ROWS:
                writer.write_table(pa.concat_tables(held))
                held.clear()
        if held:
            writer.write_table(pa.concat_tables(held))
    return written, bad


def bad_lines(source: ImageSource, bad: Iterable[tuple[int, str]]) -> str:
    """A line an image that could not be decoded: name, tab, reason."""
    return "".join(f"{_text(source.name(position))}\t{reason}\n" for position, reason in bad)


def _table(source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]) -> pa.Table:
    embedding, group, probability = (each.cpu().numpy() for each in outputs)
    labels = [source.label(int(i)) for i in positions]
    classes = [source.classes[label] if label is not None and label < len(source.classes) else None for label in labels]
    schema, flat = row_schema(embedding.shape[1]), pa.array(np.ascontiguousarray(embedding, dtype=np.float32).ravel())
    columns = {
        "name": pa.array([_text(source.name(int(i))) for i in positions], pa.string()),
        "label": pa.array(labels, pa.int64()),
        "class": pa.array(classes, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
        "group": pa.array(group.astype(np.int32)),
        "probability": pa.array(probability.astype(np.float32)),
    }
    return pa.table(columns, schema=schema)


def _text(name: str) -> str:
    """A name that parquet takes: bytes that are no UTF-8 are shown as they are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
