"""Writing that is whole or not there at all."""

import errno
import os
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
        mask = os.umask(0)  # the only way to read it
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path.with_name(name(part)) if name else path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(_why(error, path)) from error
    except RuntimeError as error:  # torch and pyarrow report a full disk in their own ways
        part.unlink(missing_ok=True)
        if not any(words in str(error) for words in ("No space left", "PytorchStreamWriter", "unexpected pos")):
            raise
        raise UserError(_why(OSError(errno.ENOSPC, ""), path)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path``, atomically."""
    with writing(path) as part:
        part.write_text(text, encoding="utf-8")


def remove_unfinished(folder: str | Path) -> None:
    """Remove what writers that were killed left in ``folder``."""
    for part in Path(folder).glob(f".*{SUFFIX}"):
        part.unlink(missing_ok=True)


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
