"""Large tables of this machine, unpacked to files that processes map; those that nobody uses make room for others."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from coterie.data.sources.local_copies import cache_folder, cache_limit
from coterie.errors import UserError

_held: dict[Path, int] = {}  # by set, a descriptor whose shared lock says that this process, or one it forked, uses it


def unpacked(path: str, part: str, size: int, write: Callable[[Path], None]) -> Path:
    """The file that holds what is unpacked of a table; written whole or not at all, by one process at a time.

    The tables of one folder are a set. A set is in use as long as a process lives that has asked for a table of it. When a
    table is unpacked and all of them together would take more than `cache_limit`, sets that nobody uses are removed, the one
    that was not asked for for longest first; what is in use stays, however much it is.

    Args:
        path: of the table.
        part: what is unpacked of it.
        size: how many bytes that takes.
        write: writes it to a path.

    Raises:
        UserError: there is no room, or the cache folder cannot be written to.
    """
    status, table = Path(path).stat(), Path(path).resolve()
    folder = cache_folder() / "tables" / _digest(str(table.parent))
    target = folder / (_digest(f"{table}\0{status.st_size}\0{status.st_mtime_ns}\0{part}") + ".arrow")
    partial = target.with_suffix(".partial")
    try:
        _hold(folder)
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if not target.exists():
                    _make_room(size)
                    write(partial)
                    partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: cannot unpack {path} there ({error.strerror or error}; it needs {size / 2**30:.1f} GiB); "
            "make room, or name another folder in COTERIE_CACHE"
        ) from error
    return target


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _hold(folder: Path) -> None:
    """Have a set in use for as long as this process lives."""
    place = folder / "in_use"
    while (held := _held.get(folder)) is None or not _is(held, place):
        if held is not None:  # it was removed by hand
            os.close(_held.pop(folder))
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # it is just being removed
            _held[folder] = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(_held[folder], fcntl.LOCK_SH)
    os.utime(_held[folder])


def _is(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except OSError:
        return False


def _make_room(size: int) -> None:
    """Remove sets that nobody uses, until there are ``size`` bytes of the limit left; or all of them."""
    limit, sets = cache_limit(), []
    for folder in (cache_folder() / "tables").iterdir():
        with suppress(FileNotFoundError):
            taken = sum(file.stat().st_size for file in folder.iterdir())
            sets.append(((folder / "in_use").stat().st_mtime_ns, taken, folder))
    total = size + sum(taken for _, taken, _ in sets)
    for _, taken, folder in sorted(sets):
        if total > limit and _removed(folder):
            total -= taken


def _removed(folder: Path) -> bool:
    """Whether a set could be removed: nobody uses it, and it is ours."""
    try:
        with (folder / "in_use").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for each in folder.iterdir():
                if each.name != "in_use":
                    each.unlink()
            (folder / "in_use").unlink()  # the last of all: without it, the rest would stay for ever
        folder.rmdir()
    except OSError:  # a process uses it; or has just begun to fill it again, at the end
        return not (folder / "in_use").exists()
    return True
