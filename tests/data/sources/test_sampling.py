"""What is looked at of a source, before it is trained on and while it is."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources import tar_index as index
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.open import open_source
from coterie.data.sources.remote_parquet import RemoteTable
from coterie.data.sources.source import SAMPLED_BLOCKS, blocks, sampled
from coterie.data.statistics import measure
from tests.data.store import png, tar

pytest.importorskip("fsspec", reason="fsspec is not installed: scripts/install remote")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "copies"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*") if path.is_file()]


def tables(folder: Path, count: int, rows: int = 30) -> str:
    """So many tables in a store, in row groups of 15 images each."""
    for number in range(count):
        file = io.BytesIO()
        pq.write_table(pa.table({"image": [png(rows * number + row) for row in range(rows)]}), file, row_group_size=15)
        (folder / f"{number:03d}.parquet").write_bytes(file.getvalue())
    return f"file://{folder}/*.parquet"


def test_of_images_at_hand_an_even_sample():
    source = Arrays(np.zeros((100, 4, 4, 3), np.uint8))
    assert sampled(4, source).tolist() == [0, 25, 50, 75]
    assert sampled(200, source).tolist() == list(range(100))


def test_of_a_store_the_first_images_of_some_shards(tmp_path):
    for number in range(2 * SAMPLED_BLOCKS):
        images = [4, 0, 3, 12][number % 4]
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(100 * number, images))
    source = open_source(f"file://{tmp_path}/*.tar")
    first = [int(start) for start in blocks(source).starts]
    found = sampled(5 * SAMPLED_BLOCKS, source).tolist()
    filled = [shard for shard in range(32) if shard % 4 != 1]
    assert len(filled) == 24
    chosen = {source.name(image)[:3] for image in found}
    assert len(chosen) == SAMPLED_BLOCKS
    assert found == sorted(set(found))
    assert all(image - first[int(np.searchsorted(first, image, "right")) - 1] < 5 for image in found)
    assert sampled(3, source).tolist() == [first[shard] for shard in (0, filled[8], filled[16])]
    assert sampled(10**6, source).tolist() == list(range(len(source)))


def test_measuring_tables_of_a_store_reads_a_row_group_of_some(tmp_path, cache, monkeypatch):
    read = []

    def group(self: RemoteTable, number: int) -> pa.Array:
        read.append((self.name(0), number))
        return whole(self, number)

    whole = RemoteTable._read_group
    monkeypatch.setattr(RemoteTable, "_read_group", group)
    source = open_source(tables(tmp_path, 20))
    found = measure(source)
    assert len(read) == len(set(read)) == SAMPLED_BLOCKS
    assert {number for _, number in read} == {0}
    assert copies(cache) == []
    assert (found.sampled, found.bad, found.channels, found.median_size) == (160, 0, 3, (16, 16))
    np.testing.assert_allclose(found.mean, [0.5] * 3, atol=0.01)
    assert measure(source) == found


def test_measuring_shards_of_a_store_copies_none(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(index, "WORTH_KEEPING", 1)
    for number in range(20):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(30 * number, 30))
    open_source(f"file://{tmp_path}/*.tar")
    assert len(copies(cache)) == 20  # for their index
    for copy in copies(cache):
        copy.unlink()
    found = measure(open_source(f"file://{tmp_path}/*.tar"))
    assert found.sampled == 160
    assert copies(cache) == []


def test_a_store_and_a_disk_of_few_images_are_measured_alike(tmp_path):
    spec = tables(tmp_path, 4)
    assert measure(open_source(spec)) == measure(open_source(spec.removeprefix("file://")))
