import os
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from coterie.data.sources.local_copies import cache_limit, copy_of, make_copy
from coterie.errors import UserError

NAMES = [f"{number:08x}".ljust(32, "0") for number in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A folder for a thousand bytes."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COTERIE_CACHE_GIB", str(1000 / 2**30))
    return tmp_path / "cache" / "copies"


def make(name: str, size: int, **how) -> bool:
    made = make_copy(name, size, lambda path: path.write_bytes(b"x" * size) and None, **how)
    path = copy_of(name)
    if path is not None:  # the clock of a file system ticks slowly
        make.clock += 10**9
        os.utime(path, ns=(make.clock, make.clock))
    return made


make.clock = 10**18


def present() -> list[int]:
    return [
        number for number, name in enumerate(NAMES) if (Path(os.environ["COTERIE_CACHE"]) / "copies" / name).exists()
    ]


def test_a_copy_is_made_once():
    written = []
    for _ in range(2):
        assert make_copy(NAMES[0], 3, lambda path: written.append(path.write_bytes(b"abc")))
    assert written == [3]
    path = copy_of(NAMES[0])
    assert path is not None
    assert path.read_bytes() == b"abc"
    assert copy_of(NAMES[1]) is None


def test_what_was_not_used_for_longest_makes_room(cache):
    for number in range(3):
        make(NAMES[number], 300)
    assert present() == [0, 1, 2]
    make(NAMES[0], 300)  # used again
    make(NAMES[3], 300)
    assert present() == [0, 2, 3]
    make(NAMES[4], 1000)
    assert present() == [4]
    assert sum(path.stat().st_size for path in cache.iterdir() if path.is_file()) == 1000


def test_what_is_larger_than_all_may_be_is_refused():
    make(NAMES[0], 300)
    with pytest.raises(UserError, match="COTERIE_CACHE_GIB") as found:
        make(NAMES[1], 1001)
    assert len(str(found.value).splitlines()) == 1
    assert present() == [0]


def test_room_is_kept_for_copies_that_are_being_made():
    make(NAMES[0], 300)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> None:
        begun.set()
        assert go_on.wait(20)
        path.write_bytes(b"x" * 600)

    first = threading.Thread(target=make_copy, args=(NAMES[1], 600, slowly))
    first.start()
    assert begun.wait(20)
    assert present() == [0]
    make(NAMES[2], 200)
    assert present() == [2]  # 300 + 600 + 200 would be too much
    assert not make(NAMES[3], 500, wait=False)
    second = threading.Thread(target=make, args=(NAMES[3], 500))
    second.start()
    time.sleep(0.2)
    assert present() == [2]  # it waits until the 600 bytes are there, and can be removed again
    go_on.set()
    first.join()
    second.join()
    assert present() == [3]


def test_others_wait_for_the_one_who_makes_it_or_do_without(cache):
    begun, go_on = threading.Event(), threading.Event()
    written = []

    def slowly(path: Path) -> None:
        begun.set()
        assert go_on.wait(20)
        written.append(path.write_bytes(b"x"))

    both = [threading.Thread(target=make_copy, args=(NAMES[1], 1, slowly)) for _ in range(2)]
    both[0].start()
    assert begun.wait(20)
    both[1].start()
    assert not make(NAMES[1], 1, wait=False)
    go_on.set()
    for each in both:
        each.join()
    assert written == [1]
    assert present() == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("gone"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_copy_that_failed(error, cache):
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(
        UserError if isinstance(error, OSError) else type(error),
        match="make room" if isinstance(error, OSError) else None,
    ):
        make_copy(NAMES[1], 300, fail)
    assert [path.name for path in cache.iterdir()] == [".locks"]
    assert make(NAMES[1], 300)


def be_killed(name: str) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), 9)

    make_copy(name, 900, write)


def test_what_a_killed_process_left_makes_room(cache):
    process = get_context("fork").Process(target=be_killed, args=(NAMES[1],))
    process.start()
    process.join()
    assert sorted(path.name for path in cache.iterdir()) == [f".{NAMES[1]}.part", f".{NAMES[1]}.reserved", ".locks"]
    make(NAMES[2], 300)
    assert sorted(path.name for path in cache.iterdir()) == [".locks", NAMES[2]]
    assert make(NAMES[1], 300)


def test_the_limit(monkeypatch):
    monkeypatch.delenv("COTERIE_CACHE_GIB")
    assert cache_limit() == 64 * 2**30
    monkeypatch.setenv("COTERIE_CACHE_GIB", "0.5")
    assert cache_limit() == 2**29
    for bad in ("much", "inf"):
        monkeypatch.setenv("COTERIE_CACHE_GIB", bad)
        with pytest.raises(UserError, match="a number of GiB"):
            cache_limit()


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    assert copy_of(NAMES[0]) is None
    with pytest.raises(UserError, match="another folder in COTERIE_CACHE") as found:
        make(NAMES[0], 1)
    assert len(str(found.value).splitlines()) == 1
