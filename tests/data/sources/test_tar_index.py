from pathlib import Path

import pytest

from coterie.data.sources import tar, tar_index
from coterie.data.sources.source import labels
from coterie.data.sources.tar import TarShards
from coterie.data.sources.tar_index import MIN_SAVED_IMAGES, cached_index, read_index, save_index
from coterie.errors import BadImage
from tests.data.sources.helpers import pack, saved


def test_the_headers_of_a_shard_are_read_once(cache, reads, tmp_path):
    paths = [
        pack(tmp_path / "0.tar", MIN_SAVED_IMAGES, "cat"),
        pack(tmp_path / "1.tar", 3),
        pack(tmp_path / "2.tar", 0),
    ]
    first, again = TarShards(paths), TarShards(paths)
    assert reads == ["0.tar", "1.tar", "2.tar", "1.tar", "2.tar"]  # small indices are not saved
    assert len(saved(cache)) == 1
    for source in (first, again):
        assert len(source) == MIN_SAVED_IMAGES + 3
        assert [source.name(row) for row in (0, 999, 1000)] == ["00000.jpg", "00999.jpg", "00000.jpg"]
        assert [source[row] for row in (0, 999, 1002)] == [b"0.tar 0", b"0.tar 999", b"1.tar 2"]
        assert (source.classes, labels(source).tolist()) == (("cat",), [0] * 1000 + [-1] * 3)
    TarShards([paths[0], pack(tmp_path / "3.tar", MIN_SAVED_IMAGES)])  # a set of shards that grows
    assert reads[5:] == ["3.tar"]


def test_a_changed_shard_is_read_again(cache, reads, tmp_path):
    path = pack(tmp_path / "0.tar", MIN_SAVED_IMAGES)
    source = TarShards([path])
    pack(tmp_path / "0.tar", MIN_SAVED_IMAGES + 1)
    assert len(TarShards([path])) == MIN_SAVED_IMAGES + 1
    assert reads == ["0.tar"] * 2
    with pytest.raises(BadImage, match="has changed since it was opened"):
        source[0]


@pytest.mark.parametrize("content", [b"", b"damaged", b"ARROW1\0\0" + bytes(100)])
def test_a_damaged_index_is_read_again(content, cache, reads, tmp_path):
    path = pack(tmp_path / "0.tar", MIN_SAVED_IMAGES)
    TarShards([path])
    saved(cache)[0].write_bytes(content)
    assert TarShards([path])[7] == b"0.tar 7"
    assert reads == ["0.tar"] * 2
    TarShards([path])
    assert reads == ["0.tar"] * 2  # it was replaced


def test_an_index_may_be_removed_during_a_run(cache, reads, tmp_path):
    paths = [pack(tmp_path / f"{number}.tar", MIN_SAVED_IMAGES) for number in range(2)]
    source = TarShards(paths)
    assert source[0] == b"0.tar 0"
    for path in saved(cache):
        path.unlink()
    assert [source[row] for row in (1, 1001)] == [b"0.tar 1", b"1.tar 1"]
    assert reads == ["0.tar", "1.tar", "1.tar"]  # a mapped index stays mapped


def test_without_a_writable_cache_folder(cache, tmp_path):
    cache.write_text("a file instead of a folder")
    source = TarShards([pack(tmp_path / "0.tar", MIN_SAVED_IMAGES)])
    assert source[7] == b"0.tar 7"


def test_only_some_indices_are_kept_mapped(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    monkeypatch.setattr(tar, "_KEPT_MAPPED", 2)
    source = TarShards([pack(tmp_path / f"{number}.tar", 2) for number in range(5)])
    for _ in range(2):
        assert [source[row] for row in range(0, 10, 2)] == [f"{number}.tar 0".encode() for number in range(5)]
        assert len(source._mapped) == 2


def test_an_index_in_another_format_is_ignored(monkeypatch, tmp_path):
    with Path(pack(tmp_path / "0.tar", MIN_SAVED_IMAGES)).open("rb") as file:
        batch = read_index(file, "0.tar")
    assert cached_index("0" * 32) is None
    assert save_index("0" * 32, batch)
    assert cached_index("0" * 32).equals(batch)
    monkeypatch.setattr(tar_index, "_SCHEMA", batch.schema.remove(3))
    assert cached_index("0" * 32) is None


def test_the_columns_of_an_index(tmp_path):
    path = pack(tmp_path / "0.tar", 2, "cat")
    with Path(path).open("rb") as file:
        index = read_index(file, path)
    assert index.schema.names == ["name", "offset", "size", "label", "pieces"]
    rows = index.to_pylist()
    assert [row["name"] for row in rows] == [b"00000.jpg", b"00001.jpg"]
    assert [row["label"] for row in rows] == ["cat", "cat"]
    data = Path(path).read_bytes()
    assert [data[row["offset"] : row["offset"] + row["size"]] for row in rows] == [b"0.tar 0", b"0.tar 1"]
