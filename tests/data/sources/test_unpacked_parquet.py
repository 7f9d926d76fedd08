import os
import shutil
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from coterie.data.sources import unpacked_parquet as unpacked_module
from coterie.data.sources.unpacked_parquet import unpacked
from coterie.errors import UserError

CONTEXT = get_context("fork")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A folder for a thousand bytes, in a process that has no set in use."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COTERIE_CACHE_GIB", str(1000 / 2**30))
    monkeypatch.setattr(unpacked_module, "_held", {})
    return tmp_path / "cache" / "tables"


def table(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"packed")
    return str(folder / name)


def unpack(path: str, size: int) -> Path:
    return unpacked(path, "image", size, lambda target: target.write_bytes(b"x" * size) and None)


def elsewhere(path: str, size: int, then=lambda: None) -> None:
    """Unpack it in another process, which then ends."""

    def work() -> None:
        unpack(path, size)
        then()

    process = CONTEXT.Process(target=work)
    process.start()
    process.join()


def present(cache: Path) -> list[int]:
    """The sizes of the unpacked tables."""
    return sorted(file.stat().st_size for file in cache.glob("*/*.arrow"))


def age(cache: Path, *sizes: int) -> None:
    """The sets with tables of these sizes were asked for a second after each other, long ago."""
    for second, size in enumerate(sizes):
        (file,) = (each for each in cache.glob("*/*.arrow") if each.stat().st_size == size)
        os.utime(file.parent / "in_use", (10**9 + second, 10**9 + second))


def test_sets_that_nobody_uses_make_room_the_oldest_first(tmp_path, cache):
    for size in (301, 302, 303):
        elsewhere(table(tmp_path / str(size), "x.parquet"), size)
    elsewhere(table(tmp_path / "302", "y.parquet"), 50)
    age(cache, 303, 301, 302)
    assert present(cache) == [50, 301, 302, 303]
    elsewhere(table(tmp_path / "new", "x.parquet"), 304)
    assert present(cache) == [50, 301, 302, 304]
    elsewhere(str(tmp_path / "301" / "x.parquet"), 301)  # asked for again, and not unpacked again
    elsewhere(table(tmp_path / "new", "y.parquet"), 340)
    assert present(cache) == [301, 304, 340]  # a set goes whole
    assert len(list(cache.iterdir())) == 2


def test_what_is_in_use_stays_however_much_it_is(tmp_path, cache):
    for number in range(4):
        assert unpack(table(tmp_path / "mine", f"{number}.parquet"), 400 + number).exists()
    elsewhere(table(tmp_path / "other", "x.parquet"), 500)
    assert present(cache) == [400, 401, 402, 403, 500]
    elsewhere(table(tmp_path / "third", "x.parquet"), 600)
    assert present(cache) == [400, 401, 402, 403, 600]


def test_a_set_is_in_use_while_a_forked_worker_lives_and_no_longer(tmp_path, cache):
    begun, go_on = CONTEXT.Event(), CONTEXT.Event()

    def fork_and_be_killed() -> None:
        def stay() -> None:
            begun.set()
            go_on.wait(30)

        CONTEXT.Process(target=stay).start()
        begun.wait(30)
        os.kill(os.getpid(), 9)

    elsewhere(table(tmp_path / "theirs", "x.parquet"), 700, fork_and_be_killed)
    elsewhere(table(tmp_path / "other", "x.parquet"), 800)
    assert present(cache) == [700, 800]
    go_on.set()
    folder = next(file.parent for file in cache.glob("*/*.arrow") if file.stat().st_size == 700)
    for _ in range(1000):  # until the worker has ended
        if unpacked_module._removed(folder):
            break
        time.sleep(0.01)
    assert present(cache) == [800]


def test_a_set_that_is_removed_by_hand_is_unpacked_and_held_again(tmp_path, cache):
    path = table(tmp_path / "mine", "x.parquet")
    unpack(path, 700)
    shutil.rmtree(cache)
    assert unpack(path, 700).exists()
    elsewhere(table(tmp_path / "other", "x.parquet"), 800)
    assert present(cache) == [700, 800]


def test_nothing_is_left_of_what_failed(tmp_path, cache):
    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = table(tmp_path / "mine", "x.parquet")
    with pytest.raises(UserError, match=r"No space left on device; it needs 2\.0 GiB") as found:
        unpacked(path, "image", 2**31, fail)
    assert len(str(found.value).splitlines()) == 1
    assert sorted(file.suffix for file in cache.glob("*/*")) == ["", ".lock"]
    assert unpack(path, 10).read_bytes() == b"x" * 10
