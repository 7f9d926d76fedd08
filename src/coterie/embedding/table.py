"""Embeddings on disk: one row an image, as parquet."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from coterie.atomic import writing
from coterie.data.source import ImageSource
from coterie.errors import NoImages


def write_table(
    path: str | Path,
    source: ImageSource,
    batches: Iterable[tuple[np.ndarray, tuple[Tensor, ...], tuple[tuple[int, str], ...]]],
) -> tuple[int, list[tuple[int, str]]]:
    """Stream ``name, label, class, embedding, group, probability`` to a parquet file, a row group a batch.

    Each batch brings positions, (embedding ``[b, f]``, group ``[b]``, probability ``[b]``) and bad images. The file appears
    only when it is whole.

    Returns:
        The number of rows written and the bad images.
    """
    written, bad = 0, list[tuple[int, str]]()
    writer: pq.ParquetWriter | None = None
    with writing(path) as part:
        try:
            for positions, outputs, failed in batches:
                bad += failed
                if not len(positions):
                    continue
                table = _table(source, positions, outputs)
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
                written += len(positions)
        finally:
            if writer is not None:
                writer.close()
        if not written:
            raise NoImages(f"not one of the {len(source)} images can be decoded")
    return written, bad


def _table(source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]) -> pa.Table:
    embedding, group, probability = (each.cpu().numpy() for each in outputs)
    labels = [source.label(int(i)) for i in positions]
    classes = [source.classes[label] if label is not None and label < len(source.classes) else None for label in labels]
    flat = pa.array(np.ascontiguousarray(embedding, dtype=np.float32).ravel())
    return pa.table(
        {
            "name": pa.array([_text(source.name(int(i))) for i in positions], pa.string()),
            "label": pa.array(labels, pa.int64()),
            "class": pa.array(classes, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, embedding.shape[1]),
            "group": pa.array(group.astype(np.int32)),
            "probability": pa.array(probability.astype(np.float32)),
        }
    )


def _text(name: str) -> str:
    """A name that parquet takes: bytes that are no UTF-8 are shown as they are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
