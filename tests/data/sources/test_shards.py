import os
import signal
from pathlib import Path

import pytest

from coterie.data.sources import shards as shards_module
from coterie.data.sources import tar_index
from coterie.data.sources.local_cache import find_copy
from coterie.data.sources.shards import LocalShard, load_index, open_shards
from coterie.data.sources.source import labels
from coterie.data.sources.tar import TarShards
from coterie.data.sources.tar_index import MIN_SAVED_IMAGES, read_index
from coterie.errors import BadImage, UserError
from tests.data.sources.helpers import pack, saved


def test_a_local_shard_is_one_version_of_a_file(tmp_path):
    path = pack(tmp_path / "0.tar", 3)
    ((shard,), (summary,)) = open_shards([path])
    count, labeled, index = summary.images, summary.labeled, summary.index
    assert isinstance(shard, LocalShard)
    assert (shard.path, shard.size, count, labeled) == (path, Path(path).stat().st_size, 3, False)
    assert index.column("name").to_pylist() == [b"00000.jpg", b"00001.jpg", b"00002.jpg"]
    with shard.open() as file:
        assert file.read() == Path(path).read_bytes()
    os.close(shard.open_descriptor())
    assert len({shard.key, LocalShard(path, shard.size, 1).key, LocalShard(path, 1, shard.modified).key}) == 3
    os.utime(path, (1, 1))
    with pytest.raises(BadImage, match=r"0\.tar has changed since it was opened"):
        shard.open_descriptor()
    os.truncate(path, 100)
    with pytest.raises(BadImage, match=r"0\.tar has become shorter since it was opened"):
        shard.open_descriptor()
    Path(path).unlink()
    with pytest.raises(FileNotFoundError):
        shard.open_descriptor()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        shard.open()


def test_an_index_is_mapped_if_it_was_saved(reads, tmp_path):
    ((small, large), summaries) = open_shards(
        [pack(tmp_path / "0.tar", 3), pack(tmp_path / "1.tar", MIN_SAVED_IMAGES, "cat")]
    )
    assert [(each.images, each.labeled, each.index is None) for each in summaries] == [
        (3, False, False),
        (1000, True, True),
    ]
    reads.clear()
    index, mapped = load_index(small)
    assert (len(index), mapped, reads) == (3, False, ["0.tar"])
    index, mapped = load_index(large)
    assert (len(index), mapped, reads) == (1000, True, ["0.tar"])


def test_shards_in_a_store_are_copied_for_their_index(reads, tmp_path):
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'coterie[remote]'")
    urls = [f"file://{pack(tmp_path / f'{number}.tar', number + 1)}" for number in range(3)]
    shards, summaries = open_shards(urls)
    assert [each.images for each in summaries] == [1, 2, 3]
    assert len(reads) == 3
    assert all(find_copy(shard.key) for shard in shards)
    with shards[2].open() as file:
        assert file.read() == (tmp_path / "2.tar").read_bytes()


def test_missing_shards_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"missing\.tar: cannot be read: No such file"):
        open_shards([pack(tmp_path / "0.tar", 3), str(tmp_path / "missing.tar")])


@pytest.fixture
def many(tmp_path, monkeypatch) -> list[str]:
    """Shards that are indexed by several processes."""
    monkeypatch.setattr(shards_module, "_MIN_SHARDS", 5)
    monkeypatch.setattr(shards_module, "_LARGE", 0)
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 5)
    return [pack(tmp_path / f"{number}.tar", 5 + number, "cat" if number else None) for number in range(6)]


def test_many_shards_are_indexed_by_several_processes(many, cache, reads):
    source = TarShards(many)
    assert reads == ["0.tar"]  # the others were read in other processes
    assert len(saved(cache)) == 6
    assert [source.name(row) for row in (0, 5, 44)] == ["00000.jpg", "00000.jpg", "00009.jpg"]
    assert [source[row] for row in (0, 5, 44)] == [b"0.tar 0", b"1.tar 0", b"5.tar 9"]
    assert labels(source).tolist() == [-1] * 5 + [0] * 40
    TarShards(many)
    assert reads == ["0.tar"]


def test_bad_shards_among_many_are_reported_by_the_process_that_opens_them(many, cache, capfd):
    for number in (1, 2):
        Path(many[number]).write_bytes(b"no tar" * 500)
    with pytest.raises(UserError, match=r"1\.tar: not a complete tar"):
        TarShards(many)
    assert len(saved(cache)) == 4  # the others were read nevertheless
    assert capfd.readouterr() == ("", "")


def test_shards_whose_index_is_not_saved_are_read_by_one_process(many, tmp_path, monkeypatch):
    def read(file, path, label_key):
        with (tmp_path / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        return read_index(file, path, label_key)

    monkeypatch.setattr(shards_module, "read_index", read)
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1000)
    assert len(TarShards(many)) == 45
    assert set((tmp_path / "pids").read_text().split()) == {str(os.getpid())}


def test_shards_are_read_even_if_the_other_processes_are_killed(many, cache, reads, monkeypatch):
    parent = os.getpid()

    def read(file, path, label_key):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_index(file, path, label_key)

    monkeypatch.setattr(shards_module, "read_index", read)
    assert len(TarShards(many)) == 45
    assert len(saved(cache)) == 6


def test_many_shards_without_a_writable_cache_folder(many, cache, reads):
    cache.write_text("a file instead of a folder")
    assert len(TarShards(many)) == 45
    assert reads == [f"{number}.tar" for number in range(6)]
