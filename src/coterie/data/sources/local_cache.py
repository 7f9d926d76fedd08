"""Shards kept on this machine: files fetched from a store and unpacked tables, in a folder that all processes share.

There are two kinds, each of bounded size:

* ``copies/<name>``: what was fetched from a store. Any copy may be removed at any time; whoever misses it fetches it again.
* ``tables/<set>/<name>.arrow``: tables of this machine, unpacked. Processes keep them mapped, so the tables of one folder
  form a set, which is removed as a whole and only while no process uses it.

Both are made the same way: by one process at a time, in space that is reserved first, under a temporary name. To make
space, the least recently used copies or sets are removed.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from coterie.errors import UserError

LIMIT_GIB = 64.0
"""Default size limit of each kind, in GiB; ``$COTERIE_CACHE_GIB`` overrides it."""
_LOCKS = 256  # lock files of each kind; names that share one are made one after another
_RETRY_SECONDS = 0.05  # between two attempts to reserve space
_IN_USE = "in_use"  # in each set: its time is when the set was last used, its lock says whether it is used now

_held: dict[
    Path, int
] = {}  # set -> descriptor with a shared lock, which this process and its forks hold while they live


def cache_folder() -> Path:
    """The cache folder: ``$COTERIE_CACHE``, or ``~/.cache/coterie``."""
    return Path(os.environ.get("COTERIE_CACHE") or Path.home() / ".cache" / "coterie")


def cache_limit() -> int:
    """Size limit of each kind, in bytes: ``$COTERIE_CACHE_GIB``, or `LIMIT_GIB`.

    Raises:
        UserError: The variable is not a number.
    """
    given = os.environ.get("COTERIE_CACHE_GIB") or str(LIMIT_GIB)
    try:
        return int(max(0.0, float(given)) * 2**30)
    except (ValueError, OverflowError):
        raise UserError(f"COTERIE_CACHE_GIB is {given!r}: give a number of GiB, such as 100") from None


def find_copy(name: str) -> Path | None:
    """The path of a copy, or None if there is none; marks it as just used."""
    path = _copies() / name
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def make_copy(name: str, size: int, write: Callable[[Path], None], *, wait: bool = True) -> bool:
    """Make a copy unless it exists.

    Args:
        name: Hexadecimal name of the copy.
        size: Upper bound of its size in bytes.
        write: Writes the copy to the given path.
        wait: Wait for a process that is making this copy, and for space reserved by copies in progress.

    Returns:
        Whether the copy exists now; always True with ``wait``.

    Raises:
        UserError: The copy is larger than the limit, or the disk is full or not writable.
    """
    if find_copy(name) is not None:
        return True
    limit = cache_limit()
    if size > limit:
        raise UserError(
            f"a shard of {size / 2**30:.2f} GiB is more than COTERIE_CACHE_GIB allows ({limit / 2**30:g}): set it to "
            "twice the size of 16 shards, or to as much as there is room for"
        )
    try:
        return _make(_copies(), _copies() / name, size, write, wait=wait)
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: no copy of a shard of {size / 2**30:.2f} GiB can be made there "
            f"({error.strerror or error}); make room, lower COTERIE_CACHE_GIB, or name another folder in COTERIE_CACHE"
        ) from error


def unpacked_table(path: str, part: str, size: int, write: Callable[[Path], None]) -> Path:
    """The unpacked part of a table, made unless it exists; it stays while this process, or a fork of it, lives.

    Sets in use may exceed the limit: they are never removed.

    Args:
        path: Path of the table.
        part: Name of the part to unpack.
        size: Size of the unpacked part in bytes.
        write: Writes the unpacked part to the given path.

    Raises:
        UserError: There is no space, or the cache folder is not writable.
    """
    status, table = Path(path).stat(), Path(path).resolve()
    tables = cache_folder() / "tables"
    folder = tables / _digest(str(table.parent))
    target = folder / (_digest(f"{table}\0{status.st_size}\0{status.st_mtime_ns}\0{part}") + ".arrow")
    try:
        _hold(folder)
        _make(tables, target, size, write, may_exceed=True)
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: cannot unpack {path} there ({error.strerror or error}; it needs {size / 2**30:.1f} GiB); "
            "make room, or name another folder in COTERIE_CACHE"
        ) from error
    return target


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Run a block in one process of this machine at a time; the others wait.

    Raises:
        OSError: The cache folder is not writable.
    """
    with _locked(_copies(), name):
        yield


def _copies() -> Path:
    return cache_folder() / "copies"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _make(
    kind: Path, target: Path, size: int, write: Callable[[Path], None], *, wait: bool = True, may_exceed: bool = False
) -> bool:
    """Make a file whole or not at all, unless it exists; return whether it exists now."""
    part, reserved = (kind / f".{target.stem}.{suffix}" for suffix in ("part", "reserved"))
    with _locked(kind, _lock_name(target.stem), wait) as acquired:
        if not acquired:
            return False
        if target.exists():
            return True
        try:
            while not _reserve(reserved, size, may_exceed):
                if not wait:
                    return False
                time.sleep(_RETRY_SECONDS)
            write(part)
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
            reserved.unlink(missing_ok=True)
    return True


@contextmanager
def _locked(kind: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of this name; yields False if another process holds it and ``wait`` is false.

    The system releases it when the process ends, even when it is killed.
    """
    folder = kind / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _lock_name(name: str) -> str:
    return f"{int(name[:8], 16) % _LOCKS:02x}"


def _reserve(reserved: Path, size: int, may_exceed: bool) -> bool:
    """Reserve space, and remove the least recently used until everything of this kind is within the limit.

    Returns:
        False if reservations of others fill the limit; nothing was removed or reserved then. With ``may_exceed``, True.
    """
    kind, limit = reserved.parent, cache_limit()
    own_lock = _lock_name(reserved.name[1:])
    with _locked(kind, "room"):
        total, present = size, []
        for entry in os.scandir(kind):
            with suppress(FileNotFoundError):
                if entry.name.endswith(".reserved"):
                    total += _reserved_bytes(Path(entry.path), own_lock)
                elif not entry.name.startswith("."):
                    present.append(_usage(Path(entry.path)))
        if total > limit and not may_exceed:
            return False
        total += sum(used for _, used, _ in present)
        for _, used, path in sorted(present):
            if total > limit and _removed(path):
                total -= used
        with reserved.open("wb") as file:
            file.truncate(size)  # a sparse file: takes no space, but states how much will be taken
    return True


def _reserved_bytes(reserved: Path, own_lock: str) -> int:
    """The size of a reservation; one left by a killed process is removed, with its part, and counts 0.

    Args:
        reserved: The reservation.
        own_lock: Name of the lock that the caller holds: no other process can be using a reservation under it.
    """
    name = reserved.name[1:].partition(".")[0]
    lock = _lock_name(name)
    with nullcontext(True) if lock == own_lock else _locked(reserved.parent, lock, wait=False) as abandoned:
        if not abandoned:
            return reserved.stat().st_size
        for leftover in reserved.parent.glob(f".{name}.*"):
            leftover.unlink(missing_ok=True)
        return 0


def _usage(path: Path) -> tuple[int, int, Path]:
    """When a copy or a set was last used (ns), its size in bytes, and its path."""
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir())
        return (path / _IN_USE).stat().st_mtime_ns, size, path
    status = path.stat()
    return status.st_mtime_ns, status.st_size, path


def _removed(path: Path) -> bool:
    """Remove a copy, or a set that no process uses; return whether it is gone."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    marker = path / _IN_USE
    try:
        with marker.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for each in path.iterdir():
                if each != marker:
                    each.unlink()
            marker.unlink()  # last: without it, the rest would never be removed
        path.rmdir()
    except OSError:  # a process uses it, or began to fill it again just now
        return not marker.exists()
    return True


def _hold(folder: Path) -> None:
    """Mark a set as in use for as long as this process lives."""
    marker = folder / _IN_USE
    while (held := _held.get(folder)) is None or not _is_open_as(held, marker):
        if held is not None:  # it was removed by hand
            os.close(_held.pop(folder))
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process is removing it
            _held[folder] = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(_held[folder], fcntl.LOCK_SH)
    os.utime(_held[folder])


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
