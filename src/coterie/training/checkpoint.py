"""What is needed to go on after any interruption."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from coterie.atomic import writing
from coterie.errors import BadRun
from coterie.models.safe_load import read_torch_file

KEPT = 2
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


def save(folder: Path, state: dict[str, Any], step: int) -> None:
    """Write ``state`` as the checkpoint after ``step`` steps and drop all but the last two.

    The file's name holds the start of its SHA-256, so that a whole file can be told from a damaged one; the checkpoint
    before it stays until this one is on the disk.

    Raises:
        UserError: it could not be written; the earlier checkpoints are whole.
    """
    with writing(folder / f"step-{step:09d}.pt", lambda part: f"step-{step:09d}-{_digest(part)}.pt") as part:
        torch.save(state, part)
    for _, old in list_checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of each checkpoint, the newest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt")]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def load(folder: Path, *, set_aside: bool = False) -> tuple[int, dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, on the CPU.

    Args:
        folder: of the checkpoints.
        set_aside: rename damaged files, so that they no longer count among those that are kept.

    Raises:
        BadRun: there are checkpoints, and not one is whole.

    Returns:
        The steps done, the state (None if there is no checkpoint), and a line for each damaged file that was passed over.
    """
    passed_over: list[str] = []
    damaged: list[Path] = []
    for step, path in list_checkpoints(folder):
        try:
            state = _read(path)
        except FileNotFoundError:  # a run that goes on has just replaced it
            continue
        except BadRun as error:
            passed_over.append(f"{path.name} {error} and is passed over")
            damaged.append(path)
            continue
        for other in damaged if set_aside else ():
            other.rename(other.with_suffix(".damaged"))
        return step, state, passed_over
    if passed_over:
        raise BadRun(f"no checkpoint in {folder} can be used ({passed_over[0]}): begin again with another --out")
    return 0, None, passed_over


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Around the taking over of a state: what does not fit is told in one line.

    Raises:
        BadRun: it does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BadRun(
            f"the checkpoint in {folder} does not fit: it was changed, or written by another version of Coterie; go on with "
            "that version, or begin again with another --out"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; nothing in it is executed, and it takes no more memory than the file has bytes."""
    expected = _NAME.fullmatch(path.name)
    try:
        if not expected or _digest(path) != expected[2]:
            raise BadRun("is damaged (its checksum differs)")
        state = read_torch_file(path)
    except (BadRun, FileNotFoundError):
        raise
    except OSError as error:
        raise BadRun(f"cannot be read ({error.strerror})") from error
    except Exception as error:  # the checksum is right: somebody has made it so
        raise BadRun("was not written by Coterie (it holds more than tensors and plain values)") from error
    if not isinstance(state, dict):
        raise BadRun("was not written by Coterie")
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
