import os
import shutil
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from coterie.data.sources import local_cache
from coterie.data.sources.local_cache import cache_limit, exclusive, find_copy, make_copy, unpacked_table
from coterie.errors import UserError

CONTEXT = get_context("fork")
NAMES = [f"{number:08x}".ljust(32, "0") for number in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of a thousand bytes a kind, in a process that holds no set."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COTERIE_CACHE_GIB", str(1000 / 2**30))
    monkeypatch.setattr(local_cache, "_held", {})
    return tmp_path / "cache"


@pytest.fixture
def copies(cache) -> Path:
    return cache / "copies"


@pytest.fixture
def tables(cache) -> Path:
    return cache / "tables"


def test_limit_is_64_gib_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("COTERIE_CACHE_GIB")
    assert cache_limit() == 64 * 2**30
    monkeypatch.setenv("COTERIE_CACHE_GIB", "0.5")
    assert cache_limit() == 2**29
    for bad in ("much", "inf"):
        monkeypatch.setenv("COTERIE_CACHE_GIB", bad)
        with pytest.raises(UserError, match="a number of GiB"):
            cache_limit()


# Copies of shards from a store.


def copy(name: str, size: int, **options) -> bool:
    made = make_copy(name, size, lambda path: path.write_bytes(b"x" * size) and None, **options)
    path = find_copy(name)
    if path is not None:  # distinct times: a file system's clock may be coarse
        copy.clock += 10**9
        os.utime(path, ns=(copy.clock, copy.clock))
    return made


copy.clock = 10**18


def copied() -> list[int]:
    """The numbers of the copies that exist."""
    folder = Path(os.environ["COTERIE_CACHE"]) / "copies"
    return [number for number, name in enumerate(NAMES) if (folder / name).exists()]


class SlowWriter:
    """Writes ``size`` bytes once `proceed` is set; `started` is set when it begins, and writes are counted."""

    def __init__(self, size: int) -> None:
        self.size, self.writes = size, 0
        self.started, self.proceed = threading.Event(), threading.Event()

    def __call__(self, path: Path) -> None:
        self.started.set()
        assert self.proceed.wait(20)
        self.writes += 1
        path.write_bytes(b"x" * self.size)


def test_a_copy_is_made_once():
    written = []
    for _ in range(2):
        assert make_copy(NAMES[0], 3, lambda path: written.append(path.write_bytes(b"abc")))
    assert written == [3]
    path = find_copy(NAMES[0])
    assert path is not None
    assert path.read_bytes() == b"abc"
    assert find_copy(NAMES[1]) is None


def test_the_least_recently_used_copies_are_removed(copies):
    for number in range(3):
        copy(NAMES[number], 300)
    assert copied() == [0, 1, 2]
    copy(NAMES[0], 300)  # used again
    copy(NAMES[3], 300)
    assert copied() == [0, 2, 3]
    copy(NAMES[4], 1000)
    assert copied() == [4]
    assert sum(path.stat().st_size for path in copies.iterdir() if path.is_file()) == 1000


def test_making_an_existing_copy_marks_it_as_used():
    for number in range(2):
        copy(NAMES[number], 400)
    os.utime(find_copy(NAMES[1]), (10**9, 10**9))
    os.utime(Path(os.environ["COTERIE_CACHE"]) / "copies" / NAMES[0], (1, 1))
    make_copy(NAMES[0], 400, lambda path: pytest.fail("it exists"))
    copy(NAMES[2], 400)
    assert copied() == [0, 2]


def test_a_copy_larger_than_the_limit_is_refused():
    copy(NAMES[0], 300)
    with pytest.raises(UserError, match="COTERIE_CACHE_GIB") as found:
        copy(NAMES[1], 1001)
    assert len(str(found.value).splitlines()) == 1
    assert copied() == [0]


def test_space_is_reserved_for_copies_in_progress():
    copy(NAMES[0], 300)
    write = SlowWriter(600)
    first = threading.Thread(target=make_copy, args=(NAMES[1], 600, write))
    first.start()
    assert write.started.wait(20)
    assert copied() == [0]
    copy(NAMES[2], 200)
    assert copied() == [2]  # 300 + 600 + 200 would exceed the limit
    assert not copy(NAMES[3], 500, wait=False)
    second = threading.Thread(target=copy, args=(NAMES[3], 500))
    second.start()
    time.sleep(0.2)
    assert copied() == [2]  # it waits until the 600 bytes are written and may be removed
    write.proceed.set()
    first.join()
    second.join()
    assert copied() == [3]


def test_others_wait_for_a_copy_in_progress_or_go_without():
    write = SlowWriter(1)
    both = [threading.Thread(target=make_copy, args=(NAMES[1], 1, write)) for _ in range(2)]
    both[0].start()
    assert write.started.wait(20)
    both[1].start()
    assert not copy(NAMES[1], 1, wait=False)
    write.proceed.set()
    for each in both:
        each.join()
    assert write.writes == 1
    assert copied() == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("gone"), KeyboardInterrupt()])
def test_a_failed_copy_leaves_nothing_behind(error, copies):
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(
        UserError if isinstance(error, OSError) else type(error),
        match="make room" if isinstance(error, OSError) else None,
    ):
        make_copy(NAMES[1], 300, fail)
    assert [path.name for path in copies.iterdir()] == [".locks"]
    assert copy(NAMES[1], 300)


def be_killed_while_copying(name: str) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), 9)

    make_copy(name, 900, write)


@pytest.mark.parametrize("then", [NAMES[2], NAMES[1]])
def test_the_remains_of_a_killed_process_are_removed(then, copies):
    process = CONTEXT.Process(target=be_killed_while_copying, args=(NAMES[1],))
    process.start()
    process.join()
    assert sorted(path.name for path in copies.iterdir()) == [f".{NAMES[1]}.part", f".{NAMES[1]}.reserved", ".locks"]
    copy(then, 300, wait=False)  # also under the same name, whose lock this process then holds itself
    assert sorted(path.name for path in copies.iterdir()) == [".locks", then]
    assert copy(NAMES[1], 300)


def test_a_cache_folder_that_is_not_writable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    assert find_copy(NAMES[0]) is None
    with pytest.raises(UserError, match="another folder in COTERIE_CACHE") as found:
        copy(NAMES[0], 1)
    assert len(str(found.value).splitlines()) == 1


def test_exclusive_blocks_run_one_after_another():
    inside, entered = [], threading.Event()

    def enter() -> None:
        with exclusive("index"):
            inside.append(len(inside))
            entered.set()

    with exclusive("index"):
        other = threading.Thread(target=enter)
        other.start()
        with exclusive("another"):  # does not wait
            assert not entered.wait(0.2)
    other.join()
    assert inside == [0]


# Unpacked tables of this machine.


def table(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"packed")
    return str(folder / name)


def unpack(path: str, size: int) -> Path:
    return unpacked_table(path, "image", size, lambda target: target.write_bytes(b"x" * size) and None)


def elsewhere(path: str, size: int, then=lambda: None) -> None:
    """Unpack a table in another process, which then ends."""

    def work() -> None:
        unpack(path, size)
        then()

    process = CONTEXT.Process(target=work)
    process.start()
    process.join()


def unpacked(tables: Path) -> list[int]:
    """The sizes of the unpacked tables."""
    return sorted(file.stat().st_size for file in tables.glob("*/*.arrow"))


def sets(tables: Path) -> list[Path]:
    return [path for path in tables.iterdir() if not path.name.startswith(".")]


def age(tables: Path, *sizes: int) -> None:
    """Make the sets with tables of these sizes last used long ago, a second after each other."""
    for second, size in enumerate(sizes):
        (file,) = (each for each in tables.glob("*/*.arrow") if each.stat().st_size == size)
        os.utime(file.parent / "in_use", (10**9 + second, 10**9 + second))


def test_a_table_is_unpacked_once_until_it_changes(tmp_path, tables):
    path = table(tmp_path / "mine", "x.parquet")
    target = unpack(path, 20)
    assert unpacked_table(path, "image", 20, lambda _: pytest.fail("it exists")) == target
    assert unpacked_table(path, "other", 30, lambda file: file.write_bytes(b"x" * 30) and None) != target
    os.utime(path, (1, 1))
    assert unpack(path, 10) != target
    assert unpacked(tables) == [10, 20, 30]


def test_the_least_recently_used_sets_are_removed(tmp_path, tables):
    for size in (301, 302, 303):
        elsewhere(table(tmp_path / str(size), "x.parquet"), size)
    elsewhere(table(tmp_path / "302", "y.parquet"), 50)
    age(tables, 303, 301, 302)
    assert unpacked(tables) == [50, 301, 302, 303]
    elsewhere(table(tmp_path / "new", "x.parquet"), 304)
    assert unpacked(tables) == [50, 301, 302, 304]
    elsewhere(str(tmp_path / "301" / "x.parquet"), 301)  # used again, without unpacking it again
    elsewhere(table(tmp_path / "new", "y.parquet"), 340)
    assert unpacked(tables) == [301, 304, 340]  # a set is removed as a whole
    assert len(sets(tables)) == 2


def test_sets_in_use_stay_even_above_the_limit(tmp_path, tables):
    for number in range(4):
        assert unpack(table(tmp_path / "mine", f"{number}.parquet"), 400 + number).exists()
    elsewhere(table(tmp_path / "other", "x.parquet"), 500)
    assert unpacked(tables) == [400, 401, 402, 403, 500]
    elsewhere(table(tmp_path / "third", "x.parquet"), 600)
    assert unpacked(tables) == [400, 401, 402, 403, 600]


def test_a_set_is_in_use_while_a_forked_worker_lives(tmp_path, tables):
    started, proceed = CONTEXT.Event(), CONTEXT.Event()

    def fork_and_be_killed() -> None:
        def stay() -> None:
            started.set()
            proceed.wait(30)

        CONTEXT.Process(target=stay).start()
        started.wait(30)
        os.kill(os.getpid(), 9)

    elsewhere(table(tmp_path / "theirs", "x.parquet"), 700, fork_and_be_killed)
    elsewhere(table(tmp_path / "other", "x.parquet"), 800)
    assert unpacked(tables) == [700, 800]
    proceed.set()
    folder = next(file.parent for file in tables.glob("*/*.arrow") if file.stat().st_size == 700)
    for _ in range(1000):  # until the worker has ended
        if local_cache._removed(folder):
            break
        time.sleep(0.01)
    assert unpacked(tables) == [800]


def test_a_set_removed_by_hand_is_unpacked_and_held_again(tmp_path, tables):
    path = table(tmp_path / "mine", "x.parquet")
    unpack(path, 700)
    shutil.rmtree(tables)
    assert unpack(path, 700).exists()
    elsewhere(table(tmp_path / "other", "x.parquet"), 800)
    assert unpacked(tables) == [700, 800]


def test_a_failed_table_leaves_nothing_behind(tmp_path, tables):
    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = table(tmp_path / "mine", "x.parquet")
    with pytest.raises(UserError, match=r"No space left on device; it needs 2\.0 GiB") as found:
        unpacked_table(path, "image", 2**31, fail)
    assert len(str(found.value).splitlines()) == 1
    assert [path.name for path in tables.iterdir() if path.is_file()] == []
    assert [path.name for path in tables.glob("*/*") if path.parent.name != ".locks"] == ["in_use"]
    assert unpack(path, 10).read_bytes() == b"x" * 10


def test_tables_in_progress_count_and_never_wait_for_space(tmp_path, tables):
    elsewhere(table(tmp_path / "old", "x.parquet"), 300)
    write = SlowWriter(600)
    paths = [table(tmp_path / "mine", f"{number}.parquet") for number in range(3)]
    first = threading.Thread(target=unpacked_table, args=(paths[0], "image", 600, write))
    first.start()
    assert write.started.wait(20)
    assert unpacked(tables) == [300]
    unpack(paths[1], 200)
    assert unpacked(tables) == [200]  # 300 + 600 + 200 would exceed the limit
    unpack(paths[2], 500)  # in use like the others: may exceed it
    write.proceed.set()
    first.join()
    assert unpacked(tables) == [200, 500, 600]


def test_what_earlier_versions_left_is_used_or_removed(tmp_path, tables):
    elsewhere(table(tmp_path / "old", "x.parquet"), 700)
    (folder,) = sets(tables)
    (target,) = folder.glob("*.arrow")
    target.with_suffix(".lock").touch()
    target.with_suffix(".partial").write_bytes(b"x" * 200)
    elsewhere(str(tmp_path / "old" / "x.parquet"), 1)
    assert unpacked(tables) == [700]
    unpack(table(tmp_path / "new", "x.parquet"), 150)  # 700 + 200 + 150 would exceed the limit
    assert unpacked(tables) == [150]
    assert not folder.exists()
