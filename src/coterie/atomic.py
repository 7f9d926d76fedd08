"""Atomic writes: a file appears complete or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import UserError
from coterie.paths import expand

SUFFIX = ".part"
"""Ends the name of a file that is still being written; its other parts are the final name and the writer's process ID."""
_unfinished: set[Path] = set()  # what this process is writing


@contextmanager
def writing(path: str | Path, name: Callable[[Path], str] | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success flush it to the disk and rename it to ``path``.

    Whatever happens before the rename, the previous contents of ``path`` stay intact. The file gets the mode that the umask
    gives; missing folders are created, and removed again on a failure.

    Args:
        path: the final path.
        name: returns the final file name (in the same folder) given the path of the written file; None: that of ``path``.

    Raises:
        UserError: the disk is full or cannot be written to; the temporary file is removed.
    """
    path = expand(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    made: list[Path] = []
    _unfinished.add(part)
    try:
        made = make_folders(path.parent)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path.with_name(name(part)) if name else path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        remove_empty(made)
        failed = _failed_write(error)
        if failed is None:
            raise
        raise UserError(_why(failed, path)) from error
    finally:
        _unfinished.discard(part)


@contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success flush its files to the disk and rename it to ``path``.

    Args:
        path: the folder, which does not exist yet or is empty; missing parents are created, and removed again on a failure.

    Raises:
        UserError: there is something at ``path``, or the disk is full or cannot be written to; nothing is left behind.
    """
    path = refuse_taken(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    made: list[Path] = []
    _unfinished.add(part)
    try:
        made = make_folders(path.parent)
        part.mkdir()
        yield part
        for each in part.rglob("*"):
            if each.is_file():
                with each.open("rb+") as file:
                    os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        remove_empty(made)
        failed = None if isinstance(error, UserError) else _failed_write(error)
        if failed is None:
            raise
        raise UserError(_why(failed, path)) from error
    finally:
        _unfinished.discard(part)


def refuse_taken(folder: str | Path) -> Path:
    """Refuse a folder that is to be made where there is something already.

    Args:
        folder: the folder.

    Returns:
        Its path, expanded.

    Raises:
        UserError: it is there, and is no empty folder.
    """
    path = expand(folder)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise UserError(f"{folder} exists: remove it, or choose another --out")
    return path


def remove_own_unfinished() -> None:
    """Remove the temporary files of this process, which is about to end without finishing them."""
    for part in list(_unfinished):
        with suppress(OSError):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Args:
        path: the file.
        text: its contents.

    Raises:
        UserError: the disk is full or cannot be written to.
    """
    with writing(path) as part:
        part.write_text(text, encoding="utf-8")


def make_folders(folder: Path) -> list[Path]:
    """Create a folder and its missing parents.

    Args:
        folder: the folder.

    Returns:
        Those that were created, the innermost first, for :func:`remove_empty`.

    Raises:
        OSError: one of them cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, up to one that is not empty.

    Args:
        folders: the folders.
    """
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def remove_unfinished(folder: str | Path) -> None:
    """Remove the temporary files that killed writers left behind; those of running processes stay.

    Args:
        folder: the folder to clean, without its subfolders.

    Raises:
        UserError: a file cannot be removed.
    """
    for part in Path(folder).glob(f".*{SUFFIX}"):
        writer = part.suffixes[-2].removeprefix(".") if len(part.suffixes) > 1 else ""
        if writer != str(os.getpid()) and writer.isdecimal() and _runs(int(writer)):
            continue
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {part}, left behind by a killed process: {error.strerror}") from error


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except PermissionError:
        return True  # somebody else's
    except (OSError, OverflowError):
        return False
    return True


def _umask() -> int:
    """Read the umask without setting it, even for a moment: another thread might be creating a file."""
    status = Path("/proc/self/status")  # Linux only
    found = re.search(r"^Umask:\s*(\d+)", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1], 8) if found else 0o022


def _failed_write(error: BaseException) -> OSError | None:
    """The system's error, or one recovered from the message of a library that wraps it: safetensors, torch, pyarrow."""
    if isinstance(error, OSError):
        return error
    code = re.search(r"os error (\d+)", str(error))
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])))
    full = any(words in str(error) for words in ("No space left", "PytorchStreamWriter", "unexpected pos"))
    return OSError(errno.ENOSPC, "") if full else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {path} was not written and its previous contents are intact; free some space and try again"
    return f"cannot write {path}: {error.strerror or error}"
