import io
import os
import signal
import tarfile
from pathlib import Path

import pytest

from coterie.data.sources import shards as shard_module
from coterie.data.sources import tar_index as index
from coterie.data.sources.source import labels
from coterie.data.sources.tar import TarShards
from coterie.data.sources.tar_index import WORTH_KEEPING, keep_index, kept_index, read_index
from coterie.errors import BadImage, UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The shards whose headers are read."""
    seen: list[str] = []

    def read(file, path):
        seen.append(Path(path).name)
        return read_index(file, path)

    monkeypatch.setattr(shard_module, "read_index", read)
    return seen


def pack(path: Path, count: int, label: str | None = None) -> str:
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for name, data in ((f"{number:05d}.jpg", f"{path.name} {number}"), (f"{number:05d}.cls", label)):
                if data is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data.encode()))
    return str(path)


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("index/*/*.arrow"))


def test_the_headers_of_a_shard_are_read_once(cache, reads, tmp_path):
    paths = [pack(tmp_path / "0.tar", WORTH_KEEPING, "cat"), pack(tmp_path / "1.tar", 3), pack(tmp_path / "2.tar", 0)]
    first, again = TarShards(paths), TarShards(paths)
    assert reads == ["0.tar", "1.tar", "2.tar", "1.tar", "2.tar"]  # the small ones are not worth a file
    assert len(kept(cache)) == 1
    for source in (first, again):
        assert len(source) == WORTH_KEEPING + 3
        assert [source.name(row) for row in (0, 999, 1000)] == ["00000.jpg", "00999.jpg", "00000.jpg"]
        assert [source[row] for row in (0, 999, 1002)] == [b"0.tar 0", b"0.tar 999", b"1.tar 2"]
        assert (source.classes, labels(source).tolist()) == (("cat",), [0] * 1000 + [-1] * 3)
    TarShards([paths[0], pack(tmp_path / "3.tar", WORTH_KEEPING)])  # a set that grows
    assert reads[5:] == ["3.tar"]


def test_a_shard_that_was_changed_is_read_anew(cache, reads, tmp_path):
    path = pack(tmp_path / "0.tar", WORTH_KEEPING)
    source = TarShards([path])
    pack(tmp_path / "0.tar", WORTH_KEEPING + 1)
    assert len(TarShards([path])) == WORTH_KEEPING + 1
    assert reads == ["0.tar"] * 2
    with pytest.raises(BadImage, match="has changed since it was opened"):
        source[0]


@pytest.mark.parametrize("content", [b"", b"damaged", b"ARROW1\0\0" + bytes(100)])
def test_a_damaged_index_is_read_anew(content, cache, reads, tmp_path):
    path = pack(tmp_path / "0.tar", WORTH_KEEPING)
    TarShards([path])
    kept(cache)[0].write_bytes(content)
    assert TarShards([path])[7] == b"0.tar 7"
    assert reads == ["0.tar"] * 2
    TarShards([path])
    assert reads == ["0.tar"] * 2  # it was mended


def test_an_index_that_is_removed_under_a_run(cache, reads, tmp_path):
    paths = [pack(tmp_path / f"{number}.tar", WORTH_KEEPING) for number in range(2)]
    source = TarShards(paths)
    assert source[0] == b"0.tar 0"
    for path in kept(cache):
        path.unlink()
    assert [source[row] for row in (1, 1001)] == [b"0.tar 1", b"1.tar 1"]
    assert reads == ["0.tar", "1.tar", "1.tar"]  # what was mapped stays mapped


def test_without_a_folder_to_keep_it_in(cache, tmp_path):
    cache.write_text("a file where the folder should be")
    source = TarShards([pack(tmp_path / "0.tar", WORTH_KEEPING)])
    assert source[7] == b"0.tar 7"


def test_no_more_than_some_are_kept_mapped(cache, monkeypatch, tmp_path):
    from coterie.data.sources import tar

    monkeypatch.setattr(index, "WORTH_KEEPING", 1)
    monkeypatch.setattr(tar, "_KEPT_MAPPED", 2)
    source = TarShards([pack(tmp_path / f"{number}.tar", 2) for number in range(5)])
    for _ in range(2):
        assert [source[row] for row in range(0, 10, 2)] == [f"{number}.tar 0".encode() for number in range(5)]
        assert len(source._mapped) == 2


def test_an_index_of_another_form_is_none(monkeypatch, tmp_path):
    with Path(pack(tmp_path / "0.tar", WORTH_KEEPING)).open("rb") as file:
        batch = read_index(file, "0.tar")
    assert kept_index("0" * 32) is None
    assert keep_index("0" * 32, batch)
    assert kept_index("0" * 32).equals(batch)
    monkeypatch.setattr(index, "_SCHEMA", batch.schema.remove(3))
    assert kept_index("0" * 32) is None


@pytest.fixture
def many(tmp_path, monkeypatch) -> list[str]:
    """Shards that are worth several processes."""
    monkeypatch.setattr(shard_module, "_WORTH_PROCESSES", 5)
    monkeypatch.setattr(shard_module, "_LARGE", 0)
    monkeypatch.setattr(index, "WORTH_KEEPING", 5)
    return [pack(tmp_path / f"{number}.tar", 5 + number, "cat" if number else None) for number in range(6)]


def test_many_shards_are_read_by_several_processes(many, cache, reads):
    source = TarShards(many)
    assert reads == ["0.tar"]  # the others were read elsewhere
    assert len(kept(cache)) == 6
    assert [source.name(row) for row in (0, 5, 44)] == ["00000.jpg", "00000.jpg", "00009.jpg"]
    assert [source[row] for row in (0, 5, 44)] == [b"0.tar 0", b"1.tar 0", b"5.tar 9"]
    assert labels(source).tolist() == [-1] * 5 + [0] * 40
    TarShards(many)
    assert reads == ["0.tar"]


def test_bad_shards_among_many_are_told_by_the_one_who_opens_them(many, cache, capfd):
    for number in (1, 2):
        Path(many[number]).write_bytes(b"no tar" * 500)
    with pytest.raises(UserError, match=r"1\.tar: not a whole tar"):
        TarShards(many)
    assert len(kept(cache)) == 4  # the others were read all the same
    assert capfd.readouterr() == ("", "")


def test_shards_whose_index_is_not_kept_are_read_by_one_process(many, tmp_path, monkeypatch):
    def read(file, path):
        with (tmp_path / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        return read_index(file, path)

    monkeypatch.setattr(shard_module, "read_index", read)
    monkeypatch.setattr(index, "WORTH_KEEPING", 1000)
    assert len(TarShards(many)) == 45
    assert set((tmp_path / "pids").read_text().split()) == {str(os.getpid())}


def test_processes_that_read_and_are_killed(many, cache, reads, monkeypatch):
    parent = os.getpid()

    def read(file, path):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_index(file, path)

    monkeypatch.setattr(shard_module, "read_index", read)
    assert len(TarShards(many)) == 45
    assert len(kept(cache)) == 6


def test_many_shards_without_a_folder_to_keep_them_in(many, cache, reads):
    cache.write_text("a file where the folder should be")
    assert len(TarShards(many)) == 45
    assert reads == [f"{number}.tar" for number in range(6)]
