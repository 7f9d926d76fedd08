from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from coterie.embedding.parquet import bad_lines, row_schema, write_rows
from coterie.embedding.rows import EmbeddingRows


class Named:
    """A source of names and labels; its images are not used."""

    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 5_000

    def __getitem__(self, index: int) -> bytes:
        raise AssertionError

    def name(self, index: int) -> str:
        return ["a.png", "b\udcff.png", "sub/c.png", "d.png"][index] if index < 4 else f"{index}.png"

    def label(self, index: int) -> int | None:
        return [0, 1, None, 7][index] if index < 4 else 0


Batch = tuple[np.ndarray, tuple[torch.Tensor, ...], tuple[tuple[int, str], ...]]


def batch(*positions: int, bad: tuple[tuple[int, str], ...] = (), width: int = 3) -> Batch:
    count = len(positions)
    embedding = torch.tensor(positions)[:, None] + torch.linspace(0, 0.5, width)
    outputs = (embedding, torch.tensor(positions) % 4, torch.linspace(0.5, 1, count)) if count else ()
    return np.array(positions, dtype=np.int64), outputs, bad


def test_rows_have_name_label_class_embedding_group_and_probability(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    batches = [batch(0, 1), batch(3, bad=((2, "no image"),))]
    assert write_rows(path, EmbeddingRows(3), Named(), batches) == (3, [(2, "no image")])
    table = pq.read_table(path)
    assert table.schema.equals(row_schema(EmbeddingRows(3)), check_metadata=True)
    assert table.to_pydict() == {
        "name": ["a.png", "b\\xff.png", "d.png"],
        "label": [0, 1, 7],
        "class": ["cat", "dog", None],  # a label beyond the named classes has no name
        "embedding": [[0, 0.25, 0.5], [1, 1.25, 1.5], [3, 3.25, 3.5]],
        "group": [0, 1, 3],
        "probability": [0.5, 1, 0.5],
    }


def test_an_image_without_a_label_has_none(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", EmbeddingRows(3), Named(), [batch(2)])
    table = pq.read_table(tmp_path / "rows.parquet")
    assert (table["label"].to_pylist(), table["class"].to_pylist()) == ([None], [None])


def test_without_rows_the_table_is_empty(tmp_path: Path) -> None:
    bad = ((0, "broken"), (1, "broken"))
    assert write_rows(tmp_path / "rows.parquet", EmbeddingRows(7), Named(), [batch(bad=bad)]) == (0, [*bad])
    table = pq.read_table(tmp_path / "rows.parquet")
    assert (table.num_rows, table.schema) == (0, row_schema(EmbeddingRows(7)))


def test_many_batches_are_written_in_few_row_groups(tmp_path: Path) -> None:
    """5,000 rows in 20 batches: those of 17 batches are written together."""
    batches = [batch(*range(first, first + 250), width=2) for first in range(0, 5_000, 250)]
    assert write_rows(tmp_path / "rows.parquet", EmbeddingRows(2), Named(), batches) == (5_000, [])
    found = pq.ParquetFile(tmp_path / "rows.parquet").metadata
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [4_250, 750]
    assert pq.read_table(tmp_path / "rows.parquet")["embedding"].to_pylist()[4_321] == [4_321, 4_321.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_embeddings_of_any_precision_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    positions, (embedding, *others), bad = batch(0, 1)
    write_rows(tmp_path / "rows.parquet", EmbeddingRows(3), Named(), [(positions, (embedding.to(dtype), *others), bad)])
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 3)
    assert table["embedding"].to_pylist() == [[0, 0.25, 0.5], [1, 1.25, 1.5]]


def test_bad_images_are_listed_with_their_reason() -> None:
    lines = bad_lines(Named(), [(1, "no image"), (4, "cut short")])
    assert lines == "b\\xff.png\tno image\n4.png\tcut short\n"
