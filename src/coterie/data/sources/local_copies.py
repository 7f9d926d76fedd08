"""Local copies of what is far away or packed, in a folder that all processes of a machine share; copies of bounded size."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import UserError

LIMIT_GIB = 64.0
"""How much all copies together may take, unless ``$COTERIE_CACHE_GIB`` says otherwise."""
_LOCKS = 256  # lock files; copies that share one are only made one after another


def cache_folder() -> Path:
    """Where large tables are unpacked, shards copied and indices kept: ``$COTERIE_CACHE``, or ``~/.cache/coterie``."""
    return Path(os.environ.get("COTERIE_CACHE") or Path.home() / ".cache" / "coterie")


def cache_limit() -> int:
    """Bytes that all copies together may take: ``$COTERIE_CACHE_GIB``, or `LIMIT_GIB`.

    Raises:
        UserError: what the variable says is not a number.
    """
    asked = os.environ.get("COTERIE_CACHE_GIB") or str(LIMIT_GIB)
    try:
        return int(max(0.0, float(asked)) * 2**30)
    except (ValueError, OverflowError):
        raise UserError(f"COTERIE_CACHE_GIB is {asked!r}: give a number of GiB, such as 100") from None


def copy_of(name: str) -> Path | None:
    """The copy of this name, if it is there; it counts as used now, and others go before it."""
    path = _folder() / name
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def make_copy(name: str, size: int, write: Callable[[Path], None], *, wait: bool = True) -> bool:
    """Make the copy of this name, unless it is there; the copies that were not used for longest make room for it.

    Args:
        name: of the copy; hexadecimal.
        size: how many bytes it is going to take, at most.
        write: writes it to a path.
        wait: for another process that is just making it.

    Returns:
        Whether it is there. False: others are at it, or fill the limit with what they are at, and nobody was to wait.

    Raises:
        UserError: it is larger than all copies together may be, or the disk is full or cannot be written to.
    """
    part, reserved = _folder() / f".{name}.part", _folder() / f".{name}.reserved"
    try:
        with _locked(_lock_of(name), wait) as mine:
            if not mine:
                return False
            if copy_of(name) is not None:
                return True
            try:
                while not _reserve(reserved, size):
                    if not wait:
                        return False
                    time.sleep(0.05)
                write(part)
                with part.open("rb+") as written:
                    os.fsync(written.fileno())
                part.replace(_folder() / name)
            finally:
                part.unlink(missing_ok=True)
                reserved.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: no copy of a shard of {size / 2**30:.2f} GiB can be made there "
            f"({error.strerror or error}); make room, lower COTERIE_CACHE_GIB, or name another folder in COTERIE_CACHE"
        ) from error
    return True


@contextmanager
def alone(name: str) -> Iterator[None]:
    """For work that one process of this machine is to do at a time: the others wait.

    Raises:
        OSError: the cache folder cannot be written to.
    """
    with _locked(name):
        yield


def _folder() -> Path:
    return cache_folder() / "copies"


@contextmanager
def _locked(name: str, wait: bool = True) -> Iterator[bool]:
    """Whether this process has the lock of that name; it is given back at the end, even if the process is killed."""
    folder = _folder() / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _reserve(place: Path, size: int) -> bool:
    """Set ``size`` bytes of the limit aside, and remove the copies that were not used for longest until all is within it.

    Returns:
        Whether it was done. False: copies that are just being made fill the limit.
    """
    limit = cache_limit()
    if size > limit:
        raise UserError(
            f"a shard of {size / 2**30:.2f} GiB is more than COTERIE_CACHE_GIB allows ({limit / 2**30:g}): set it to "
            "twice the size of 16 shards, or to as much as there is room for"
        )
    with _locked("room"):
        taken, copies = size, []
        for entry in os.scandir(_folder()):
            with suppress(FileNotFoundError):
                if entry.name.endswith(".reserved"):
                    taken += _reserved(Path(entry.path))
                elif not entry.name.startswith("."):
                    status = entry.stat()
                    copies.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        if taken > limit:
            return False
        for _, bytes_of_copy, path in sorted(copies, reverse=True):  # the last used first
            taken += bytes_of_copy
            if taken > limit:
                path.unlink(missing_ok=True)
        with place.open("wb") as file:
            file.truncate(size)  # takes no room, but is counted
    return True


def _reserved(path: Path) -> int:
    """The bytes that are reserved for a copy that is being made; what a killed process left of one is removed."""
    name = path.name[1:].partition(".")[0]
    with _locked(_lock_of(name), wait=False) as nobody_makes_it:
        if not nobody_makes_it:
            return path.stat().st_size
        for left in _folder().glob(f".{name}.*"):
            left.unlink(missing_ok=True)
        return 0


def _lock_of(name: str) -> str:
    return f"{int(name[:8], 16) % _LOCKS:02x}"
