"""Writing that is whole or not there at all."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import UserError

SUFFIX = ".part"


@contextmanager
def writing(path: str | Path, name: Callable[[Path], str] | None = None) -> Iterator[Path]:
    """A path beside ``path`` to write to; at the end it is on the disk and takes the place of ``path`` in one step.

    ``name``, given the written file, may say what it is to be called instead, in the same folder. Whatever happens
    before that, what was at ``path`` stays whole. The file gets the mode that the umask gives.

    Raises:
        UserError: the disk is full or cannot be written to; nothing is left behind.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path.with_name(name(part)) if name else path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(_why(error, path)) from error
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        failed = _failed_write(error)
        if failed is None:
            raise
        raise UserError(_why(failed, path)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path``, atomically."""
    with writing(path) as part:
        part.write_text(text, encoding="utf-8")


def remove_unfinished(folder: str | Path) -> None:
    """Remove what writers that were killed left in ``folder``; what another process still writes there is left alone.

    Raises:
        UserError: it cannot be removed.
    """
    for part in Path(folder).glob(f".*{SUFFIX}"):
        writer = part.suffixes[-2].removeprefix(".") if len(part.suffixes) > 1 else ""
        if writer != str(os.getpid()) and Path(f"/proc/{writer or 'none'}").exists():
            continue
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {part}, which a killed process left: {error.strerror}") from error


def _umask() -> int:
    """Without setting it, even for a moment: another thread might be making a file."""
    found = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 8) if found else 0o022


def _failed_write(error: BaseException) -> OSError | None:
    """What the system said, where a library tells of it in a way of its own: safetensors, torch, pyarrow."""
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
        return f"the disk is full: {path} was not written, what was there before is whole; make room and go on"
    return f"cannot write {path}: {error.strerror or error}"
